"""Transactions: how every body of SQL in minicloud begins, ends and is tried again.

`@transaction` turns `f(tx, ...)` into `f(...)`; so does `@reading` for bodies that only look.  The
rules are DESIGN section 12, 1 to 4: READ COMMITTED everywhere, the write lock before anything is
read, pure bodies that may run again, nudges sent after the commit.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy import event, exc, orm

from minicloud import concurrency, config, errors
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import models

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Row = TypeVar("Row", bound=models.Base)

CONF = config.declare(
    "database",
    [
        cfg.StrOpt(
            "connection",
            secret=True,
            default="sqlite:////var/lib/minicloud/minicloud.sqlite",
            help="URL of the database: sqlite:////absolute/path, mysql+pymysql://… or"
            " postgresql+psycopg2://….  SQLite must be a file: its writers take turns.",
        ),
        cfg.IntOpt(
            "pool_size",
            default=20,
            min=1,
            help="Connections a daemon keeps open at most, and as many for looking; more"
            " transactions than that wait.",
        ),
        cfg.FloatOpt(
            "lock_timeout_s",
            default=5.0,
            min=0.1,
            help="Seconds a transaction waits for a lock, and the server for an idle one; then"
            " the request is refused as unavailable.",
        ),
    ],
)

CONNECT_S = 3  # a server that lives has taken a new connection
RUNS = 50  # a body that loses this many deadlocks in a row is refused
LOCKED = ("database is locked", "database table is locked", "database schema is locked")
# MariaDB 1205 lock wait, 1213 deadlock, 1020 record changed; PostgreSQL 40001, 40P01, 55P03
AGAIN = (1213, 1020, "40001", "40P01")
NO_TABLE = (1146, "42P01", "42703")  # not synced yet, or only a part: table or column will come

ORDER = (
    "projects",
    "instances",
    "volumes",
    "buckets",
    "images",
    "hosts",
    "security_groups",
    "networks",
)


class RunAgain(Exception):
    """The body met a row another run of the same request had written: run it again and read."""


class Tx(orm.Session):
    """A transaction.  `after` collects the nudges that go out once it is committed; `undo` what
    rows of the caller's showed before, should it not be."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.after: list[Any] = []
        self.undo: list[tuple[Any, dict[str, Any]]] = []
        self.again = False  # the body ran before, and may have been committed
        self.repeatable = False  # once() was called: safe to run again after a lost connection
        self.dry_run = False  # the request only wants to know: nothing is committed
        self.held = -1

    def changed(self, statement: Any) -> int:
        """Execute an UPDATE or DELETE; the number of rows it matched."""
        result: Any = self.execute(statement, execution_options={"synchronize_session": False})
        return int(result.rowcount)


_engines: dict[tuple[str, bool], sa.Engine] = {}


def _drop(nudges: Sequence[Any]) -> None:
    """Without a sender the sweeps do the work."""


_send: Callable[[Sequence[Any]], None] = _drop  # main names the real one


def send_with(function: Callable[[Sequence[Any]], None]) -> None:
    """Name what sends a committed transaction's nudges: it must neither wait nor raise."""
    global _send
    _send = function


def engine() -> sa.Engine:
    """The engine of `[database] connection`, made at first use."""
    return _engine(CONF.connection, reading=False)


def _engine(url: str, *, reading: bool) -> sa.Engine:
    """`reading`: for bodies that only look, all statements of which see one moment.  A server has
    connections of their own for it, which are told so once and not each time."""
    if (url, reading) not in _engines:
        if not url.startswith("sqlite"):
            made = _server(url, _silence_s(), reading)
        elif reading:
            made = _engine(url, reading=False).execution_options(reading=True)
        else:
            made = _sqlite(url)
        _engines[url, reading] = made
    return _engines[url, reading]


def patient_engine() -> sa.Engine:
    """An engine of the caller's own, whose statements may take as long as they need: changes of
    the schema."""
    url = CONF.connection
    return _sqlite(url) if url.startswith("sqlite") else _server(url, None, reading=False)


def forget_engines() -> None:
    """Close all connections (tests, and after a fork)."""
    for known in _engines.values():
        known.dispose()
    _engines.clear()


def _common() -> dict[str, Any]:
    """What holds for every engine; errors never show parameters, which may be secrets."""
    return {
        "pool_size": CONF.pool_size,
        "max_overflow": 0,
        "pool_timeout": CONF.lock_timeout_s,
        "pool_reset_on_return": None,  # `_begun` ends every transaction itself
        "hide_parameters": True,
    }


def _silence_s() -> float:
    """A server that lives answers within the time it waits for a lock."""
    return 2 * float(CONF.lock_timeout_s)


def _sqlite(url: str) -> sa.Engine:
    made = sa.create_engine(
        url, **_common(), connect_args={"timeout": 0, "check_same_thread": False}
    )

    @event.listens_for(made, "connect")
    def connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN comes too late
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            _patiently(functools.partial(connection.execute, f"PRAGMA {pragma}"))

    @event.listens_for(made, "begin")
    def begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("reading"):
            connection.exec_driver_sql("BEGIN")
        else:
            _patiently(functools.partial(connection.exec_driver_sql, "BEGIN IMMEDIATE"))

    return made


def _patiently(statement: Callable[[], object]) -> None:
    """Retry a locked SQLite statement with green sleeps: its own busy handler stops the hub."""
    until = time.monotonic() + CONF.lock_timeout_s
    while True:
        try:
            statement()
            return
        except Exception as error:
            if not any(text in str(error) for text in LOCKED) or time.monotonic() > until:
                raise
            concurrency.sleep(random.uniform(0.002, 0.010))


def _server(url: str, silence_s: float | None, reading: bool) -> sa.Engine:
    """`silence_s` without a byte from the server means that it, or the way to it, is gone."""
    wait_s = max(1, int(CONF.lock_timeout_s))
    if "mysql" in url:
        arguments: dict[str, Any] = {"connect_timeout": CONNECT_S, "charset": "utf8mb4"}
        arguments |= {"read_timeout": silence_s, "write_timeout": silence_s}
        settings = (
            f"SET SESSION idle_transaction_timeout={wait_s}, innodb_lock_wait_timeout={wait_s},"
            " time_zone='+00:00', sql_mode='STRICT_ALL_TABLES'"
        )
    else:
        from minicloud.db import postgresql  # its driver is 10 MiB, which other clouds save

        arguments = postgresql.connect_arguments(CONNECT_S, silence_s)
        settings = postgresql.settings(CONF.lock_timeout_s, silence_s)
    isolation = "REPEATABLE READ" if reading else "READ COMMITTED"
    made = sa.create_engine(url, **_common(), isolation_level=isolation, connect_args=arguments)
    if "postgresql" in url:
        event.listen(made, "do_connect", postgresql.look_up)

    @event.listens_for(made, "connect")
    def connect(connection: Any, record: Any) -> None:
        with connection.cursor() as cursor:
            cursor.execute(settings)
        connection.commit()

    return made


@contextlib.contextmanager
def _begun(reading: bool) -> Iterator[Tx]:
    concurrency.forbid_in_transaction("a transaction")
    tx = Tx(
        bind=_engine(CONF.connection, reading=reading), expire_on_commit=False, autoflush=False
    )
    try:
        tx.connection()
        concurrency.set_in_transaction(True)
        yield tx
        if reading:
            tx.expunge_all()  # a rollback would empty the rows that the caller takes along
            tx.rollback()
        else:
            tx.commit()
    except BaseException:
        # a connection that broke cannot roll back; what counts is the first error
        with contextlib.suppress(exc.SQLAlchemyError):
            tx.rollback()
        _undo(tx)
        raise
    finally:
        concurrency.set_in_transaction(False)
        tx.close()


def _undo(tx: Tx) -> None:
    """The caller's rows show again what the database has, so that the body can run again."""
    for row, before in reversed(tx.undo):
        for name, value in before.items():
            orm.attributes.set_committed_value(row, name, value)


def transaction(body: Callable[Concatenate[Tx, P], R]) -> Callable[P, R]:
    """Run `body` in a transaction of its own and commit; then send its nudges.

    The body must be pure but for `tx`: it runs again after a deadlock, and after a lost connection
    when it began with `once`.  `errors.Unavailable` when the database is away or busy too long.
    """

    name = f"{body.__module__.removeprefix('minicloud.')}.{body.__name__}"

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(RUNS):
            tx: Tx | None = None
            began = time.monotonic()
            try:
                with _begun(reading=False) as tx:
                    began = time.monotonic()
                    tx.again = attempt > 0
                    result = body(tx, *args, **kwargs)
                    if tx.dry_run:
                        raise errors.DryRun
                    checkpoint(f"{name}.commit")
            except RunAgain:
                continue
            except exc.DBAPIError as error:
                if _lost(error, began) and tx is not None and tx.repeatable and attempt < 3:
                    concurrency.sleep(0.05 * 2**attempt)
                    continue
                if _retriable(error):
                    concurrency.sleep(random.uniform(0.001, 0.005 * (attempt + 1)))
                    continue
                raise _translated(error) from error
            except ValueError as error:
                raise _unstorable(error) from error
            except exc.TimeoutError as error:
                raise errors.Unavailable(reason="the database has no free connection") from error
            checkpoint(f"{name}.committed")
            if tx.after:
                _send(tx.after)
            return result
        raise errors.Unavailable(reason="the database is too busy")

    return run


def reading(body: Callable[Concatenate[Tx, P], R]) -> Callable[P, R]:
    """Run `body`, which only looks, on a connection that takes no lock; nothing is written."""

    @functools.wraps(body)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for attempt in range(3):
            began = time.monotonic()
            try:
                with _begun(reading=True) as tx:
                    began = time.monotonic()
                    return body(tx, *args, **kwargs)
            except exc.DBAPIError as error:
                if (_lost(error, began) or _retriable(error)) and attempt < 2:
                    continue
                raise _translated(error) from error
            except ValueError as error:
                raise _unstorable(error) from error
            except exc.TimeoutError as error:
                raise errors.Unavailable(reason="the database has no free connection") from error
        raise AssertionError("unreachable")

    return run


def _lost(error: exc.DBAPIError, began: float) -> bool:
    """The connection is gone and another may serve: not after a wait for a server that is silent,
    which is as silent on every other."""
    return error.connection_invalidated and time.monotonic() - began < _silence_s()


def _retriable(error: exc.DBAPIError) -> bool:
    return _code(error) in AGAIN


def _code(error: exc.DBAPIError) -> Any:
    """MariaDB's error number or PostgreSQL's SQLSTATE."""
    arguments = getattr(error.orig, "args", ())
    return getattr(error.orig, "pgcode", None) or (arguments[0] if arguments else None)


def _translated(error: exc.DBAPIError) -> Exception:
    """Unavailable for a database that is away or busy; a defect of ours stays what it is."""
    away = isinstance(error, exc.OperationalError | exc.InterfaceError)
    away |= type(error) is exc.DatabaseError  # SQLite's file is damaged, or none of SQLite's
    if away or _code(error) in NO_TABLE:
        LOG.warning("the database refused: %s", error.orig)  # its words are not for users
        return errors.Unavailable(reason="the database does not answer or is too busy")
    return error


def _unstorable(error: ValueError) -> Exception:
    """BadRequest for a text that the driver cannot send: no NUL to PostgreSQL, and half a
    surrogate pair to none; a defect of ours stays what it is."""
    text = str(error)
    if "NUL" in text or (isinstance(error, UnicodeEncodeError) and "surrogates" in text):
        return errors.BadRequest(reason="A text has a character in it that cannot be stored")
    return error


def hold(tx: Tx, model: type[Row], ids: Sequence[str]) -> list[Row]:
    """Lock these rows until the transaction ends and return them as they are now, by id.

    Those that do not exist are not in the result.  Within a transaction the kinds must come in
    the order of `ORDER`, or two transactions could wait for each other.
    """
    in_order(tx, model)
    key: Any = model.id  # type: ignore[attr-defined]
    statement = (
        sa.select(model)
        .where(key.in_(sorted(set(ids))))
        .order_by(key)
        .with_for_update()
        .execution_options(populate_existing=True)
    )
    return list(tx.scalars(statement))


def in_order(tx: Tx, model: type[models.Base]) -> None:
    """RuntimeError when rows of this kind may not be locked any more in this transaction."""
    rank = ORDER.index(model.__tablename__)
    if rank < tx.held:
        raise RuntimeError(f"hold({model.__tablename__}) after {ORDER[tx.held]}")
    tx.held = rank


def once(
    tx: Tx, ctx: Context, action: str, token: str | None, arguments: object
) -> list[str] | None:
    """Begin a deciding body: None when the request is new, else the ids its first run stored.

    Same client token with other arguments: IdempotentMismatch.  `done` stores the ids.  Of a dry
    run, which ends in DryRun in place of the commit, nothing is stored.
    """
    tx.repeatable = True
    tx.dry_run = ctx.dry_run
    digest = hashlib.sha256(
        json.dumps([action, arguments], sort_keys=True, default=str).encode()
    ).hexdigest()
    for known in _known(tx, ctx, token):
        if known.argument_hash != digest:
            raise errors.IdempotentMismatch(token=token or ctx.request_id)
        stored: list[str] = json.loads(known.result)
        return stored
    row = {
        "id": ctx.request_id,
        "user_id": ctx.user_id,
        "project_id": ctx.project_id,
        "action": action,
        "token": token,
        "argument_hash": digest,
    }
    try:
        tx.execute(sa.insert(models.Request), [row])
    except exc.IntegrityError:
        raise RunAgain from None
    return None


def _known(tx: Tx, ctx: Context, token: str | None) -> Sequence[models.Request]:
    """What is stored of the request.  Without a token nothing can be but by an earlier run of the
    body: then the INSERT would fail, and it runs again."""
    condition: Any = models.Request.id == ctx.request_id
    if token is not None:
        condition = sa.or_(
            condition,
            sa.and_(models.Request.project_id == ctx.project_id, models.Request.token == token),
        )
    elif not tx.again:
        return []
    return list(tx.scalars(sa.select(models.Request).where(condition)))


def done(tx: Tx, ctx: Context, ids: Sequence[str]) -> None:
    """Store what a deciding body made, for whoever repeats the request."""
    tx.changed(
        sa.update(models.Request)
        .where(models.Request.id == ctx.request_id)
        .values(result=json.dumps(list(ids)))
    )


def visible(ctx: Context, model: Any) -> Any:
    """The rows of `model` the asker may know of: the one place where tenancy is decided."""
    if model in (models.Image, models.Bucket, models.Object):
        return sa.or_(model.project_id == ctx.project_id, model.is_public.is_(True))
    return model.project_id == ctx.project_id


def clock(tx: Tx) -> dt.datetime:
    """The database's time, UTC without zone."""
    return tx.scalars(sa.select(models.now())).one()
