"""AWS's Query protocol of EC2, both directions, from the service models that botocore ships.

Only the models are used: no client, no session.  The rules, proved by the round trip through
botocore's own serializer and parser in the tests:

- the name of a parameter is its member's `queryName`, else its location name with the first
  letter in upper case, else the member's name; below a structure names are joined by dots;
- a list is always `Name.N`; here N may begin at 0 or 1 and leave out numbers, and a list of one
  text may be just `Name` (libcloud), a text a list of one (boto 2);
- an element of the answer has its member's location name, else the member's name; items of a list
  have the location name of the list's member;
- `<requestId>` comes first in `<ActionResponse xmlns="…/doc/VERSION/">`, with the version asked;
- an action without a result answers `<return>true</return>`.

What a client sends that the model does not know is ignored: old clients send what AWS dropped.
"""

from __future__ import annotations

import base64
import datetime
import functools
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

import botocore
from botocore import loaders, model

from minicloud import errors

LOG = logging.getLogger(__name__)

DEPTH = 12  # dots in a parameter's name
ITEMS = 1000  # of one list, AWS's own limit where it names one
CONTROL = {"Action", "Version"}  # of the protocol, not of an action
SHOWN_VALUE = 100  # characters of a wrong value that an error repeats
# enumerations whose values this cloud, not AWS, defines
OWN_VALUES = {"InstanceType", "AccountAttributeName"}

Pairs = Iterable[tuple[str, str]]
Text = Callable[[Any], str]


# --- models ---------------------------------------------------------------------------------


@functools.cache
def service(name: str) -> Any:
    """The model of a service; the first use takes some 60 ms and 14 MiB."""
    return model.ServiceModel(loaders.Loader().load_service_model(name, "service-2"), name)


@functools.cache
def operation(name: str, action: str) -> Any:
    """The model of a service's action; InvalidAction when it has none of that name."""
    try:
        return service(name).operation_model(action)
    except model.OperationNotFoundError as error:
        raise errors.InvalidAction(action=action[:SHOWN_VALUE]) from error


@functools.cache
def argument(member: str) -> str:
    """The Python name of a member: `InstanceIds` is `instance_ids`, as boto3 names methods."""
    return str(botocore.xform_name(member))


# --- requests -------------------------------------------------------------------------------


def parse(operation: Any, pairs: Pairs) -> dict[str, Any]:
    """The arguments of a request by their Python names; what is nested keeps boto3's names.

    MissingParameter, InvalidValue or UnknownParameter name the parameter as the client wrote it.
    """
    if operation.input_shape is None:
        return {}
    tree = _tree(pairs)
    for name in CONTROL & tree.keys():
        del tree[name]
    given = _structure(operation.input_shape, tree, "")
    return {argument(name): value for name, value in given.items()}


def _tree(pairs: Pairs) -> dict[str, Any]:
    """`A.1.B=x` as `{"A": {"1": {"B": "x"}}}`."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        *path, last = name.split(".")
        if len(path) > DEPTH:
            raise errors.UnknownParameter(name=name[:SHOWN_VALUE])
        node = tree
        for part in path:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise errors.UnknownParameter(name=name[:SHOWN_VALUE])
        if last in node:
            raise _wrong(name, value, "It is given more than once")
        node[last] = value
    return tree


@functools.cache
def _wire_names(shape: Any) -> dict[str, tuple[str, Any]]:
    names = {}
    for member, inner in shape.members.items():
        name = inner.serialization.get("name", member)
        name = inner.serialization.get("queryName", name[0].upper() + name[1:])
        names[name] = (member, inner)
    return names


def _structure(shape: Any, node: Any, at: str) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise errors.UnknownParameter(name=at)
    known = _wire_names(shape)
    values = {}
    for name, value in node.items():
        path = f"{at}.{name}" if at else name
        if name not in known:
            LOG.debug("ignored the parameter %s", ascii(path[:SHOWN_VALUE]))
            continue
        member, inner = known[name]
        values[member] = _value(inner, value, path)
    for name, (member, _) in known.items():
        if member in shape.required_members and member not in values:
            raise errors.MissingParameter(name=f"{at}.{name}" if at else name)
    return values


def _list(shape: Any, node: Any, at: str) -> list[Any]:
    if node == "":
        return []
    if isinstance(node, str) and shape.member.type_name == "string":
        return [_string(shape.member, node, at)]
    if not isinstance(node, dict):
        raise errors.UnknownParameter(name=at)
    if len(node) > ITEMS:
        raise _wrong(at, str(len(node)), f"Expected at most {ITEMS} items")
    numbered = {}
    for text in node:
        if not re.fullmatch("[0-9]{1,9}", text) or int(text) in numbered:
            raise errors.UnknownParameter(name=f"{at}.{text[:SHOWN_VALUE]}")
        numbered[int(text)] = text
    member = shape.member
    _check_range(shape, len(node), at, str(len(node)))
    return [_value(member, node[text], f"{at}.{text}") for _, text in sorted(numbered.items())]


def _value(shape: Any, node: Any, at: str) -> Any:
    if shape.type_name == "structure":
        return _structure(shape, node, at)
    if shape.type_name == "list":
        return _list(shape, node, at)
    if isinstance(node, dict) and node.keys() in ({"0"}, {"1"}):
        [node] = node.values()
    if not isinstance(node, str):
        raise errors.UnknownParameter(name=f"{at}.{next(iter(node))[:SHOWN_VALUE]}")
    if shape.type_name == "string":
        return _string(shape, node, at)
    return _scalar(shape, node, at)


def _string(shape: Any, text: str, at: str) -> str:
    allowed = shape.enum
    if allowed and text not in allowed and shape.name not in OWN_VALUES:
        raise _wrong(at, text, f"Expected one of: {', '.join(allowed[:10])}")
    _check_range(shape, len(text), at, text)
    return text


def _scalar(shape: Any, text: str, at: str) -> Any:
    pattern, what, read = _FORMS[shape.type_name]
    try:
        if not re.fullmatch(pattern, text, re.DOTALL):
            raise ValueError
        value = read(text)
    except (ValueError, OverflowError) as error:
        raise _wrong(at, text, f"Expected {what}") from error
    if isinstance(value, int):
        _check_range(shape, value, at, text)
    return value


def _bytes(text: str) -> bytes:
    return base64.b64decode("".join(text.split()).encode("ascii"), validate=True)


_iso = datetime.datetime.fromisoformat
_INTEGER = ("[+-]?[0-9]{1,19}", "a whole number", int)
_DOUBLE = (r"[+-]?[0-9]{1,40}(\.[0-9]{0,40})?([eE][+-]?[0-9]{1,2})?", "a number", float)
# type → what its text must look like, what that is called, how it is read
_FORMS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "integer": _INTEGER,
    "long": _INTEGER,
    "double": _DOUBLE,
    "float": _DOUBLE,
    # libcloud says 1
    "boolean": (
        "(?i:true|false)|[01]",
        "true or false",
        lambda text: text.lower() in ("true", "1"),
    ),
    "timestamp": (".+", "a time like 2011-01-01T00:00:00Z", lambda text: _utc(_iso(text))),
    "blob": (".*", "base64", _bytes),
}
_BITS = {"integer": 31, "long": 63}


def _check_range(shape: Any, size: int, at: str, given: str) -> None:
    """The model's `min` and `max`: of a number, of a text's length, of a list's."""
    widest = 1 << _BITS.get(shape.type_name, 31)
    low, high = shape.metadata.get("min", -widest), shape.metadata.get("max", widest - 1)
    if not low <= size <= high:
        raise _wrong(at, given, f"Expected {low} to {high}")


def _wrong(at: str, value: str, reason: str) -> errors.InvalidValue:
    return errors.InvalidValue(value=value[:SHOWN_VALUE], name=at[:SHOWN_VALUE], reason=reason)


def _utc(at: datetime.datetime) -> datetime.datetime:
    """`at` in UTC, which it is already when it names no zone: the database's times do not."""
    return (at if at.tzinfo else at.replace(tzinfo=datetime.UTC)).astimezone(datetime.UTC)


# --- answers --------------------------------------------------------------------------------

# what XML 1.0 cannot carry, and what would not come back as it was: a parser makes \r a \n
_SPECIAL = re.compile('[&<>"\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]')
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#13;"}
_HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'


def render(operation: Any, result: dict[str, Any], version: str, request_id: str) -> bytes:
    """The answer to an action; `result` has boto3's names, members that are None are left out.

    A name that the model does not know, or a value of another type, is an error of ours: KeyError
    or TypeError.
    """
    name, shape = operation.name, operation.output_shape
    body = "<return>true</return>"
    if shape is not None and shape.members:
        body = _writer(operation.service_model, shape.name)(result)
    return (
        f'{_HEAD}<{name}Response xmlns="http://ec2.amazonaws.com/doc/{version}/">'
        f"<requestId>{request_id}</requestId>{body}</{name}Response>"
    ).encode()


def fault(code: str, message: str, request_id: str) -> bytes:
    """An error's XML."""
    return (
        f"{_HEAD}<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}"
        f"</Message></Error></Errors><RequestID>{escape(request_id)}</RequestID></Response>"
    ).encode()


def escape(text: str) -> str:
    """`text` for an XML element; a character that XML cannot carry becomes U+FFFD."""
    if _SPECIAL.search(text) is None:
        return text
    return _SPECIAL.sub(lambda found: _ESCAPES.get(found[0], "\ufffd"), text)


@functools.cache
def _writer(service: Any, name: str) -> Text:
    """A function that turns a value of the shape `name` into what its element holds."""
    shape = service.shape_for(name)
    if shape.type_name == "structure":
        return _structure_writer(service, shape)
    if shape.type_name == "list":
        tag = shape.member.serialization.get("name", "item")
        item = _writer(service, shape.member.name)
        return lambda values: "".join([f"<{tag}>{item(value)}</{tag}>" for value in values])
    return _TEXTS[shape.type_name]


def _structure_writer(service: Any, shape: Any) -> Text:
    members: dict[str, tuple[str, Text]] = {}  # filled at their first use: shapes hold themselves

    def member(name: str) -> tuple[str, Text]:
        inner = shape.members[name]
        members[name] = inner.serialization.get("name", name), _writer(service, inner.name)
        return members[name]

    def write(value: dict[str, Any]) -> str:
        parts = []
        for name, item in value.items():
            if item is not None:
                tag, text = members.get(name) or member(name)
                parts.append(f"<{tag}>{text(item)}</{tag}>")
        return "".join(parts)

    return write


_TEXTS: dict[str, Callable[[Any], str]] = {
    "string": escape,
    **dict.fromkeys(("integer", "long"), "{:d}".format),
    **dict.fromkeys(("double", "float"), repr),
    "boolean": lambda value: "true" if value else "false",
    "timestamp": lambda value: _utc(value).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
    "blob": lambda value: base64.b64encode(value).decode(),
}
