"""S3's XML, both directions: what comes in is bounded, without a DOCTYPE, and small trees only."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias
from xml.sax import saxutils

from minicloud import concurrency, errors

NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
_BAD = re.compile(r"[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEPTH = 8
_ELEMENTS = 100_000  # 10000 parts with their checksums fit

Content: TypeAlias = "str | int | bool | Sequence[Item] | None"
Item: TypeAlias = tuple[str, Content]


def render(name: str, content: Content) -> bytes:
    """A document; items whose content is None are left out."""
    return f'{_HEAD}<{name} xmlns="{NAMESPACE}">{_inner(content)}</{name}>'.encode()


def error(items: Sequence[Item]) -> bytes:
    """An error's document, which has no namespace."""
    return f"{_HEAD}<Error>{_inner(items)}</Error>".encode()


def text(value: str) -> str:
    """XML text; characters that XML cannot hold become question marks."""
    return saxutils.escape(_BAD.sub("?", value))


def _inner(content: Content) -> str:
    if isinstance(content, bool):
        return "true" if content else "false"
    if isinstance(content, int | str):
        return text(str(content))
    return "".join(
        f"<{name}>{_inner(value)}</{name.split(' ')[0]}>"
        for name, value in content or ()
        if value is not None
    )


class Element:
    """An element of a document that came in, without namespaces."""

    def __init__(self, found: ET.Element) -> None:
        self._found = found

    @property
    def name(self) -> str:
        return str(self._found.tag).rpartition("}")[2]

    def children(self, name: str | None = None) -> Iterator[Element]:
        for child in self._found:
            element = Element(child)
            if name is None or element.name == name:
                yield element

    def text(self, name: str) -> str | None:
        """The text of the first child called `name`."""
        for child in self.children(name):
            return child._found.text or ""
        return None


def parse(body: bytes, root: str) -> Element:
    """The document, whose root is called `root`; MalformedXML."""
    return concurrency.blocking("files", _parsed, body, root)


def _parsed(body: bytes, root: str) -> Element:
    try:
        decoded = body.decode()
        if "<!DOCTYPE" in decoded or "<!ENTITY" in decoded:
            raise errors.MalformedXML
        parser: Any = ET.XMLPullParser(("start", "end"))
        depth, count, found = 0, 0, None
        for start in range(0, len(decoded), 1 << 16):
            parser.feed(decoded[start : start + (1 << 16)])
            for event, element in parser.read_events():
                found = element if found is None else found
                depth += 1 if event == "start" else -1
                count += event == "start"
                if depth > _DEPTH or count > _ELEMENTS:
                    raise errors.MalformedXML
        parser.close()
    except (UnicodeDecodeError, ET.ParseError, ValueError) as error_:
        raise errors.MalformedXML from error_
    if found is None or Element(found).name != root:
        raise errors.MalformedXML
    return Element(found)
