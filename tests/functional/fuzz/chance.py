"""Hostile values, and what can be done to a right request to make it wrong.

All chance is a `random.Random` of the example's own, so an example is the same whatever ran before
it.  An ordinary run tries the same few examples each time; `MINICLOUD_FUZZ_S=600` tries others for
so many seconds in each test, from a seed that a failure names and `MINICLOUD_FUZZ_SEED` repeats.
"""

from __future__ import annotations

import copy
import os
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from minicloud import connections


class Chance(random.Random):
    """Where an example's choices come from; `example` says which one it is."""

    def __init__(self, seed: str) -> None:
        super().__init__(seed)
        self.example = f"example {seed}"


Pairs = list[tuple[str, str]]

SECONDS = float(os.environ.get("MINICLOUD_FUZZ_S", "0"))
SEED = os.environ.get("MINICLOUD_FUZZ_SEED") or (secrets.token_hex(4) if SECONDS else "0")

WORDS = (
    *("", " ", "\0", "a\0b", "\t", "\r\nX-Injected: 1", "\x1b[31m", "\x7f", "\x85", "\xa0", "ü"),
    *("\u0661\u0662", "\u00b2", "\u2028", "\u202e", "\ufeff", "\ufffe", "\U0001f600", "\ud800"),
    *("\udcff", "e\u0301", "\u0130", "ß", "a" * 64, "a" * 255, "a" * 256, "ü" * 200, "a" * 5000),
    *("0", "1", "-1", "00", "+1", " 1", "1 ", "1_000", "0x10", "1e3", "1.5", "-0", "1e309", "NaN"),
    *("Infinity", "-Infinity", "2147483647", "2147483648", "4294967296", "9223372036854775807"),
    *("9223372036854775808", "-9223372036854775809", "9" * 30, "9" * 5000, "65535", "65536"),
    *("true", "false", "True", "null", "None", "undefined", "[]", "{}", "[object Object]"),
    *("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:8774/", "//x"),
    *("..", ".", "/", "\\", "%00", "%2e%2e%2f", "%s%n%x", "{0}", "{self.__class__}", "${HOME}"),
    *("$(id)", "`id`", "; reboot", "' OR 1=1 --", '"', "'", "<script>", "&lt;", "&#0;", "]]>"),
    *("*", "?", "\\*", "**", "%", "_", "[", "(a+)+$", "a" * 60 + "!", ",", ";", "=", "&", "#"),
    *("2011-01-01T00:00:00Z", "2011-01-01", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00+23:59"),
    *("9999-12-31T23:59:59-23:59", "9999-12-31T23:59:59.999999Z", "2011-13-45T99:99:99Z", "now"),
    *("Mon, 1 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "1 Jan 99999 0:0:0"),
    *("10.0.0.0/8", "10.0.0.1/33", "0.0.0.0/0", "::/0", "1.2.3.4", "1.2.3/8", "256.1.1.1/8"),
    *("010.1.1.1/8", "10.0.0.0/-1", "10.0.0.0/8/8", "tcp", "udp", "-1", "icmp", "6", "99"),
    *("YQ==", "YQ", "====", "Y Q = =", "YQ==\n", "*" * 9, "//79/A==", "AAAA" * 2000),
    *("chunked", "gzip, chunked", "identity", "100-continue", "aws-chunked", "*/*;q=9", 'W/"x"'),
    *("application/json; charset=utf-7", "multipart/form-data; boundary=x", "bytes=0-0,5-"),
    *("i-00000000", "i-0000000000000000f", "i-", "ami-tty", "ami-zzzzzzzz", "vol-1", "sg-0000"),
    *("key-00000000000000000", "default", "nova", "m1.nano", "x.y", "a/b", "a b", "A" * 17),
    *("00000000-0000-0000-0000-000000000000", "0" * 32, "{00000000-0000-0000-0000-000000000000}"),
)  # fmt: skip
NUMBERS = (
    *(
        0,
        1,
        -1,
        2,
        255,
        256,
        65536,
        2**31 - 1,
        2**31,
        2**32,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63),
    ),
    *(-(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1.0, 1e308, 5e-324, True, False),
)
PARTS = ("1", "0", "2", "01", "-1", "99999999", "999999999", "9" * 30, "x", "", "é", "N", "1e1")


def examples(count: int) -> Iterator[Chance]:
    """The chance of each example, named in its `example`."""
    until = time.monotonic() + SECONDS
    number = 0
    while time.monotonic() < until if SECONDS else number < count:
        yield Chance(f"{number} of seed {SEED}")
        number += 1


def weighted(chance: Chance, *ways: tuple[int, Callable[[], Any]]) -> Any:
    """What one of the ways gives, each as often as its number says."""
    [way] = chance.choices([way for _, way in ways], [weight for weight, _ in ways])
    return way()


def text(chance: Chance, known: str = "", things: tuple[str, ...] = ()) -> str:
    """A text that may be wrong: any of the words, a thing there is, or `known` with a defect."""
    return str(
        weighted(
            chance,
            (6, lambda: chance.choice(WORDS)),
            (2, lambda: chance.choice(things or WORDS)),
            (3, lambda: garbled(chance, known)),
            (1, lambda: str(chance.choice(NUMBERS))[:500]),
        )
    )


def garbled(chance: Chance, known: str) -> str:
    """`known` with something put in, taken out, doubled, cut, or in other letters."""
    at = chance.randint(0, len(known))
    to = chance.randint(at, min(len(known), at + 8))
    word = chance.choice(WORDS)[:300]
    return str(
        chance.choice(
            (
                known[:at] + word + known[to:],
                known[:at] + known[to:],
                known[:at],
                known[:to] + known[at:],
                known.swapcase(),
                known + word,
                word + known,
                known[:at] + chr(chance.randrange(0xD800)) + known[at:],
            )
        )
    )


def garbled_bytes(chance: Chance, known: bytes) -> bytes:
    """The same for bytes, up to five times."""
    made = bytearray(known)
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        at = chance.randint(0, len(made))
        to = chance.randint(at, min(len(made), at + chance.choice((1, 1, 2, 8, 64))))
        bytes_ = chance.choice((b"\0", b"\xff", b"\xc3", b"\xed\xa0\x80", b"%", b"0", b"\r\n"))
        piece = chance.choice((bytes_, chance.randbytes(to - at), b"", made[at:to] * 2))
        made[at : to if chance.random() < 0.8 else at] = piece
    return bytes(made[: chance.randint(0, len(made))] if chance.random() < 0.1 else made)


# --- pairs of a form or a query -------------------------------------------------------------


def changed_pairs(
    chance: Chance, pairs: Pairs, things: tuple[str, ...], more: Callable[[], Pairs]
) -> Pairs:
    """One thing is wrong with the pairs, or another is there that `more` gives."""
    made = list(pairs)
    at = chance.randrange(len(made)) if made else 0
    if not made or chance.random() < 0.25:
        return [*made, *more()]
    name, value = made[at]

    def put(*instead: tuple[str, str]) -> Pairs:
        return [*made[:at], *instead, *made[at + 1 :]]

    found: Pairs = weighted(
        chance,
        (8, lambda: put((name, text(chance, value, things)))),
        (4, lambda: put((changed_name(chance, name), value))),
        (2, put),
        (2, lambda: put((name, value), (name, text(chance, value, things)))),
        (1, lambda: put((name, value), (changed_name(chance, name), value))),
        (1, lambda: put(*((f"{name}.{n}", value) for n in range(chance.choice((3, 1001)))))),
    )
    return found


def changed_name(chance: Chance, name: str) -> str:
    words = name.split(".")
    at = chance.randrange(len(words))
    words[at : at + chance.randint(0, 1)] = chance.choice(
        ([chance.choice(PARTS)], [], [words[at]] * 2, [text(chance, words[at])[:300]])
    )
    if chance.random() < 0.1:
        words += [chance.choice(PARTS)] * chance.choice((1, 5, 11, 12, 13, 3000))
    return ".".join(words)


# --- JSON -----------------------------------------------------------------------------------


def changed_json(chance: Chance, document: Any, things: tuple[str, ...] = ()) -> Any:
    """The document with one place changed: another type, a member less, more or renamed."""
    made = copy.deepcopy(document)
    places = list(_places(made))
    if not places:
        return value(chance, things)
    holder, key = chance.choice(places)
    old = holder[key]

    def member_more() -> None:
        if isinstance(holder, dict):
            holder[text(chance, str(key), things)] = value(chance, things)
        else:
            holder.extend([old] * chance.choice((1, 3, 1001)))

    def renamed() -> None:
        if isinstance(holder, dict):
            holder[garbled(chance, str(key))] = holder.pop(key)

    weighted(
        chance,
        (6, lambda: holder.__setitem__(key, value(chance, things))),
        (6, lambda: holder.__setitem__(key, text(chance, str(old), things))),
        (2, lambda: holder.__delitem__(key)),
        (2, member_more),
        (1, renamed),
        (1, lambda: holder.__setitem__(key, [old])),
        (1, lambda: holder.__setitem__(key, {str(key): old})),
    )
    return made


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, dict | list):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            yield node, key
            yield from _places(node[key])


def value(chance: Chance, things: tuple[str, ...]) -> Any:
    """A JSON value of any type."""
    return weighted(
        chance,
        (4, lambda: text(chance, "", things)),
        (4, lambda: chance.choice(NUMBERS)),
        (1, lambda: None),
        (1, lambda: [text(chance, "", things)] * chance.choice((0, 1, 300))),
        (1, lambda: {text(chance, "", things): chance.choice(NUMBERS)}),
        (1, lambda: nested(chance.choice((3, 39, 41, 200)))),
    )


def nested(depth: int) -> Any:
    made: Any = "x"
    for number in range(depth):
        made = [made] if number % 2 else {"x": made}
    return made


# what JSON's grammar has and Python's encoder never writes, and what is not JSON
TEXTS: tuple[Callable[[bytes], bytes], ...] = (
    lambda body: b"\xef\xbb\xbf" + body,
    lambda body: body.decode(errors="replace").encode("utf-16"),
    lambda body: body.decode(errors="replace").encode("utf-32"),
    lambda body: body + b"}",
    lambda body: body[: len(body) // 2],
    lambda body: b"[" * 100_000,
    lambda body: b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    lambda body: b"NaN",
    lambda body: body.replace(b'"', b"'"),
    lambda body: body.replace(b":", b": 1e999, ", 1),
    lambda body: body.replace(b'": "', b'": NaN, "x": "', 1),
    lambda body: body.replace(b'": "', b'": -Infinity, "x": "', 1),
    lambda body: body.replace(b'": "', b'": ' + b"9" * 5000 + b', "x": "', 1),
    lambda body: body.replace(b'": "', b'": "\\ud800', 1),
    lambda body: body.replace(b'": "', b'": "\\u0000', 1),
    lambda body: body.replace(b'": "', b'": "\xed\xa0\x80', 1),
    lambda body: body.replace(b'": "', b'": "\xff', 1),
    lambda body: b"{" + body[1:-1] + b"," + body[1:-1] + b"}",
    lambda body: b'{"a": "' + b"x" * 900_000 + b'"}',
    lambda body: b"{" + b",".join(b'"%d":[[]]' % n for n in range(60_000)) + b"}",
    lambda body: b"",
    lambda body: b" ",
    lambda body: b"null",
    lambda body: b'"' + body.replace(b'"', b'\\"') + b'"',
)


# --- headers --------------------------------------------------------------------------------


def changed_header(chance: Chance, headers: dict[str, str], others: tuple[str, ...]) -> None:
    """One header is another one, or more; `others` are names worth a try."""
    name = chance.choice([*headers, *others])
    words = text(chance, headers.get(name, ""))
    # what comes over a wire is one line of bytes, and no other gets past the server
    line = words.encode(errors="surrogatepass").decode("latin-1")
    if chance.random() < 0.15 and name in headers:
        del headers[name]
    else:
        headers[name] = connections.CONTROL.sub("", line)[:8000].strip()
