"""A request to a front door, asked without a socket, and what must hold of every answer."""

from __future__ import annotations

import collections
import dataclasses
import io
import logging
import pathlib
import re
import resource
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import connections, wsgi
from minicloud.db import models
from minicloud.db import session as sessions
from tests import databases
from tests.functional.fuzz.chance import Chance

LIMIT_S = 10.0  # of processor time, for one request: none needs a tenth of it
NAMES = {"content-type": "CONTENT_TYPE", "content-length": "CONTENT_LENGTH"}
WARM = 300  # requests, after which nothing is made for the first time any more
GROWTH = 96 << 20  # bytes that a process may have more after all the others
FAILED = 500
AWAY = 503
NOT_BUILT = 501
SHOWN = (200, 304, 404)  # 404 is right for what was just deleted

# of a module whose tests have a database: in an ordinary run one is enough
ENGINES = pytest.mark.parametrize(
    "database",
    ["sqlite", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in databases.SERVERS)],
    indirect=True,
)

Row = dict[str, Any]


@dataclasses.dataclass
class Ask:
    """What goes over the wire; `target` is path and query, in bytes as latin-1."""

    method: str
    target: str
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""

    def __repr__(self) -> str:
        head = f"{self.method} {ascii(self.target)[:3000]}"
        return f"{head}\n{ascii(self.headers)[:3000]}\n{self.body[:3000]!r}"


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def environ(ask: Ask, address: str) -> dict[str, Any]:
    """As the daemons' server makes it; a body longer than its Content-Length is never read."""
    path, _, query = ask.target.partition("?")
    length = next((ask.headers[one] for one in ask.headers if one.lower() == "content-length"), "")
    sent = ask.body[: int(length)] if re.fullmatch("[0-9]{1,18}", length) else ask.body
    made: dict[str, Any] = {
        "REQUEST_METHOD": ask.method,
        "SCRIPT_NAME": "",
        "RAW_PATH_INFO": path,
        "PATH_INFO": urllib.parse.unquote(path, "latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "cloud",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": address,
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(sent),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "headers_raw": tuple(ask.headers.items()),
    }
    for name, value in ask.headers.items():
        known = NAMES.get(name.lower(), "HTTP_" + name.upper().replace("-", "_"))
        made[known] = value
    return made


def asked(application: wsgi.Application, ask: Ask, address: str = "192.0.2.7") -> Answer:
    """The whole answer."""
    started: list[Any] = []
    body = application(environ(ask, address), lambda *given: started.append(given))
    try:
        whole = b"".join(body)
    finally:
        close = getattr(body, "close", None)
        if close is not None:
            close()
    [(status, headers)] = started
    for name, value in headers:
        assert name.isascii(), name
        value.encode("latin-1")
        assert not connections.CONTROL.search(name + value), ascii(value)
    return Answer(int(status.split()[0]), {name.lower(): value for name, value in headers}, whole)


class Rows:
    """Whether a request wrote, and how it was before."""

    def __init__(self) -> None:
        self.wrote = False
        self.after_back: Callable[[], None] = lambda: None
        sa.event.listen(sa.Engine, "before_cursor_execute", self._statement)
        sa.event.listen(sa.Engine, "commit", self._commit)
        sa.event.listen(sa.Engine, "rollback", self._rollback)

    def close(self) -> None:
        sa.event.remove(sa.Engine, "before_cursor_execute", self._statement)
        sa.event.remove(sa.Engine, "commit", self._commit)
        sa.event.remove(sa.Engine, "rollback", self._rollback)

    def keep(self) -> None:
        """What there is now is what `back` brings back."""
        self.kept = self.whole()
        self.wrote = False

    @staticmethod
    def whole() -> dict[str, list[Row]]:
        """Every row of the database, by table."""
        with sessions.engine().connect() as connection:
            return {
                table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
                for table in models.Base.metadata.sorted_tables
            }

    def differences(self, apart: Callable[[str, Row], bool]) -> list[str]:
        """Rows that came or went, but for those that `apart` says of."""
        found = []
        for name, rows in self.whole().items():
            before, after = (
                {repr(sorted(row.items())) for row in some if not apart(name, row)}
                for some in (self.kept[name], rows)
            )
            found += [f"{name}: {one}" for one in sorted(before ^ after)]
        return found

    def back(self) -> None:
        tables = models.Base.metadata.sorted_tables
        with sessions.engine().begin() as connection:
            for table in reversed(tables):
                connection.execute(table.delete())
            for table in tables:
                if self.kept[table.name]:
                    connection.execute(table.insert(), self.kept[table.name])
        self.wrote = False
        self.after_back()

    def _statement(self, connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            connection.info["wrote"] = True

    def _commit(self, connection: Any) -> None:
        self.wrote |= connection.info.pop("wrote", False)

    def _rollback(self, connection: Any) -> None:
        connection.info.pop("wrote", None)


class Loud(logging.Handler):
    """What the product says of its own defects."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR or record.exc_info:
            self.said.append(self.format(record))


# body of an error: (status, headers, body) -> what is wrong with it, or None
Judge = Callable[[Ask, Answer], None]


class Watched:
    """A door, and the oracle over it: each request is answered soon and in the door's own form;
    what was refused changed nothing; nothing is our own failure."""

    def __init__(
        self,
        application: wsgi.Application,
        judge: Judge,
        rows: Rows,
        loud: Loud,
        apart: Callable[[str, Row], bool] = lambda table, row: False,
        away: bytes = b"no such words",
    ) -> None:
        self.application = application
        self.judge = judge
        self.rows = rows
        self.loud = loud
        self.apart = apart
        self.away = away  # words of the only 503 that is right: no daemon runs behind the door
        self.looks: Callable[[Ask], Iterable[Ask]] = lambda done: ()
        self.statuses: collections.Counter[int] = collections.Counter()
        self.memory = 0  # bytes, once it was warm

    def ask(self, chance: Chance, ask: Ask) -> Answer:
        first: Answer | None = None
        try:
            first = answer = self._judged(ask)
            if answer.status >= 400 and self.rows.wrote:
                assert not self.rows.differences(self.apart)
            if answer.status < 400 and self.rows.wrote:
                for look in self.looks(ask):  # what was taken can be shown
                    answer = self._judged(look)
                    assert answer.status in SHOWN, f"{look}\n{answer}"
        except Exception as error:
            raise AssertionError(f"{chance.example}: {error}\n{ask}\n{first}") from error
        finally:
            if self.rows.wrote:
                self.rows.back()
        self.statuses[first.status] += 1
        if self.statuses.total() == WARM:
            self.memory = resident()
        return first

    def _judged(self, ask: Ask) -> Answer:
        self.loud.said.clear()
        began = time.process_time()
        answer = asked(self.application, ask)
        took = time.process_time() - began
        assert not self.loud.said, self.loud.said[0]
        fine = answer.status < FAILED or answer.status == NOT_BUILT or self._is_away(answer)
        assert fine, answer
        assert took < LIMIT_S, f"{took:.1f} s"
        self.judge(ask, answer)
        return answer

    def plain(self, ask: Ask) -> Answer:
        """The answer, unjudged, and all it did."""
        return asked(self.application, ask)

    def _is_away(self, answer: Answer) -> bool:
        return answer.status == AWAY and self.away in answer.body

    def met(self, *statuses: int) -> None:
        """The examples were neither all right nor all wrong, and nothing is left of them."""
        assert set(statuses) <= self.statuses.keys(), self.statuses
        if self.memory:
            assert resident() < self.memory + GROWTH


def resident() -> int:
    """Bytes of memory that this process has."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def query(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values in the form of a query; a lone surrogate becomes what is no UTF-8."""
    return "&".join(
        "=".join(
            urllib.parse.quote_from_bytes(one.encode(errors="surrogatepass"), safe="-_.~")
            for one in pair
        )
        for pair in pairs
    )
