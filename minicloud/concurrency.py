"""Green threads and native ones: the only importer of eventlet.

Everything else uses the standard library's threads, which `patch()` turns green.  Unpatched (unit
tests) the same code runs on native threads.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import logging
import os
import resource
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from oslo_config import cfg

from minicloud import config, connections, errors

LOG = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

CONF = config.declare(
    "concurrency",
    [
        cfg.IntOpt(
            "native_threads",
            default=8,
            min=1,
            help="Native threads for each purpose (libvirt, auth, files) that blocks in C.",
        ),
        cfg.IntOpt(
            "native_limit_s",
            default=600,
            min=10,
            help="Seconds after which a call in a native thread is taken for hung: the process"
            " ends with the reason in its log, so that its successor can recover.",
        ),
    ],
)

REFUSED = "minicloud.refused"  # in a WSGI environ: the error that is the answer

_patched = False
_local = threading.local()
_pools: dict[str, _NativePool] = {}


def patch(*, names: bool = True) -> None:
    """Make threads, sockets and sleeps green; to be called before any other import.

    Without `names` looking up a host's name blocks, which saves 16 MiB where none is looked up.
    """
    global _patched, _local
    # known: see docs/decisions/016-eventlet-in-one-file.md; an operator's log has no use for it
    warnings.filterwarnings("ignore", r"\s*Eventlet is deprecated")
    if not names:
        os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
    import eventlet

    eventlet.monkey_patch(psycopg=False)  # it would load the driver; see db/postgresql.py
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a thousand clients fit
    _local = threading.local()  # this module was imported before: the first one is not green
    _patched = True


def sleep(seconds: float) -> None:
    """Let others run for `seconds`; raises RuntimeError inside a transaction."""
    forbid_in_transaction("sleep")
    time.sleep(seconds)


def set_in_transaction(inside: bool) -> None:
    """Said by `db.session`: this thread holds a transaction, so nothing slow may run in it."""
    _local.inside = inside


def forbid_in_transaction(what: str) -> None:
    if getattr(_local, "inside", False):
        raise RuntimeError(f"{what} inside a transaction: its locks would wait for it")


def start(name: str, target: Callable[..., object], *args: Any) -> threading.Thread:
    """A daemon thread (green when patched) that logs what kills it."""

    def run() -> None:
        try:
            target(*args)
        except Exception:
            LOG.exception("thread %s ended", name)

    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    return thread


def blocking(pool: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a function that blocks in C in a native thread of `pool`; others go on meanwhile.

    A call over `native_limit_s` ends the process: nothing else frees such a thread.  The time
    before a thread takes the call does not count, nor that in which the whole process stood
    still.  Unpatched, the function simply runs here.
    """
    forbid_in_transaction("a native call")
    if not _patched:
        return function(*args, **kwargs)
    if not _guard.watching:
        _guard.watching = True
        start("guard", _watch)
    with _guard.call(f"{function} in the native pool {pool}") as call:
        result: R = _pool(pool).run(call.run, function, *args, **kwargs)
        return result


@dataclasses.dataclass(eq=False)
class _Call:
    what: str
    began: float | None = None  # when a native thread took it

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self.began = time.monotonic()
        return function(*args, **kwargs)


class Guard:
    """Which native calls are under way; `now` is always the monotonic clock's."""

    def __init__(self) -> None:
        self.watching = False
        self._calls: set[_Call] = set()
        self._looked: float | None = None

    @contextlib.contextmanager
    def call(self, what: str) -> Iterator[_Call]:
        """Looked after inside the block."""
        call = _Call(what)
        self._calls.add(call)
        try:
            yield call
        finally:
            self._calls.discard(call)

    def hung(self, now: float, limit_s: float) -> list[str]:
        """What runs for longer than the limit; to be asked every tenth of it.

        When that was not done in time, the process stood still (stopped, or its machine), and its
        native threads with it: the time since the last look is no call's.
        """
        looked, self._looked = self._looked, now
        stood_s = now - looked if looked is not None and now - looked > limit_s / 4 else 0.0
        found = []
        for call in self._calls:
            if call.began is not None:
                call.began = min(now, call.began + stood_s)
                if now - call.began > limit_s:
                    found.append(call.what)
        return found


_guard = Guard()


def _watch() -> None:
    while True:
        for what in _guard.hung(time.monotonic(), CONF.native_limit_s):
            LOG.critical("%s hangs: ending this process", what)
            logging.shutdown()
            os._exit(70)
        time.sleep(CONF.native_limit_s / 10)


class _NativePool:
    """At most `size` native threads, each running one function at a time for a green caller."""

    def __init__(self, size: int) -> None:
        import eventlet
        from eventlet import patcher
        from eventlet.green import socket as green_socket

        self._eventlet = eventlet
        self._queue = patcher.original("queue").SimpleQueue()
        self._done = patcher.original("queue").SimpleQueue()
        native_socket = patcher.original("socket")
        reader, self._waker = native_socket.socketpair()
        self._reader = green_socket.socket(fileno=reader.detach())
        threads = patcher.original("threading")
        for _ in range(size):
            threads.Thread(target=self._work, daemon=True).start()
        eventlet.spawn(self._deliver)

    def _work(self) -> None:
        while True:
            event, call = self._queue.get()
            try:
                outcome = (True, call())
            except BaseException as error:
                outcome = (False, error)
            self._done.put((event, outcome))
            self._waker.send(b"x")

    def _deliver(self) -> None:
        while self._reader.recv(1024):
            while not self._done.empty():
                event, outcome = self._done.get()
                event.send(outcome)

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        event = self._eventlet.Event()
        self._queue.put((event, lambda: function(*args, **kwargs)))
        fine, result = event.wait()
        if not fine:
            raise result
        return result


def _pool(name: str) -> _NativePool:
    if name not in _pools:
        _pools[name] = _NativePool(CONF.native_threads)
    return _pools[name]


def serve_wsgi(listener: Any, application: Any) -> Callable[[float], None]:
    """Serve `application` on a listening socket from now on; the function returned stops that
    and gives requests under way its argument of seconds to end.

    A client holds a green thread; how many there may be and what is cut off is `connections`'.
    What is no request gets its answer from the application too, by an `environ` with REFUSED.
    """
    import eventlet
    import eventlet.wsgi

    room = connections.Room(connections.TOTAL, connections.SHARE)
    pool = eventlet.GreenPool(connections.TOTAL)
    server = eventlet.spawn(
        eventlet.wsgi.server,
        _Patient(listener, room),
        application,
        log=logging.getLogger("minicloud.http"),
        log_output=False,
        custom_pool=pool,
        protocol=_protocol(room),
        keepalive=connections.IDLE_S,
        url_length_limit=connections.HEAD_LIMIT + 2,  # one more than `_read_request_line` gives
        capitalize_response_headers=False,  # clients of S3 show x-amz-meta-* as they came
        debug=False,
    )

    server.link(_server_ended, listener)

    def stop(patience_s: float) -> None:
        server.unlink(_server_ended, listener)
        server.kill()
        listener.close()
        with eventlet.Timeout(patience_s, False):
            pool.waitall()

    return stop


class _Patient:
    """A listening socket that gives only connections there is room for, and that outlives a
    shortage: eventlet's server gives up at the first EMFILE and never listens again."""

    SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)

    def __init__(self, listener: Any, room: connections.Room) -> None:
        self._listener = listener
        self._room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)

    def accept(self) -> Any:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError as error:
                if error.errno not in self.SHORT:
                    raise
                LOG.warning("a connection waits: %s", error)
                time.sleep(0.1)
                continue
            if self._room.enter(connection, address[0]):
                return connection, address
            connection.close()


def _protocol(room: connections.Room) -> Callable[[Any, Any], None]:  # noqa: C901  a whole class
    """Speaks HTTP on one connection until it ends: eventlet's, with our limits and answers."""
    import eventlet.wsgi

    class Protocol(eventlet.wsgi.HttpProtocol):  # type: ignore[misc]  # eventlet has no types
        def setup(self) -> None:
            super().setup()
            self._coming = connections.Paced(self.request)
            self._going = connections.Paced(self.request)
            self._body: Any = io.BufferedReader(self._coming)
            self.rfile: Any = self._body
            self.wfile = io.BufferedWriter(self._going, self.wbufsize)
            self._first_byte_s = connections.HEAD_S

        def _read_request_line(self) -> bytes:
            """Nothing when there is no request any more."""
            room.waits(self.request)
            self.raw_requestline = b""
            try:
                self._coming.allow(self._first_byte_s)
                if not self._body.peek(1):
                    return b""
            except OSError:  # silent for too long, or gone
                return b""
            self._first_byte_s = connections.IDLE_S
            self._coming.allow(connections.HEAD_S)
            try:
                line: bytes = self._body.readline(connections.HEAD_LIMIT + 1)
                return line
            except TimeoutError:
                self._refuse(errors.RequestTimedOut())
            except OSError:
                pass
            return b""

        def parse_request(self) -> bool:
            """The head is whole, and says where the body ends."""
            if len(self.raw_requestline) > connections.HEAD_LIMIT:
                self._refuse(errors.RequestHeadTooLarge(limit=connections.HEAD_LIMIT))
                return False
            self.rfile = connections.Headers(self._body)
            try:
                if not super().parse_request():
                    self.close_connection = True
                    return False
            except TimeoutError:
                self._refuse(errors.RequestTimedOut())
                return False
            except errors.RequestHeadTooLarge as error:
                self._refuse(error)
                return False
            except OSError:
                self.close_connection = True
                return False
            unclear = connections.unclear(self.headers)
            if unclear is not None:
                self._refuse(errors.BadRequest(reason=unclear))
                return False
            room.works(self.request)
            self._coming.allow(connections.PATIENCE_S, connections.SLOWEST)
            self._going.allow(connections.PATIENCE_S, connections.SLOWEST)
            return True

        def get_environ(self) -> dict[str, Any]:
            environ: dict[str, Any] = super().get_environ()
            environ["wsgi.input"].rfile = connections.Lines(self._body)
            return environ

        def send_error(self, _code: int, message: str | None = None, *_: Any) -> None:
            """What the standard library's parser calls for what it does not understand."""
            self._refuse(errors.BadRequest(reason=message or "This is no HTTP request"))

        def _refuse(self, error: errors.Error) -> None:
            """The application says why; nothing of what came is believed but the first line."""
            words = self.raw_requestline[: connections.HEAD_LIMIT].decode("latin-1").split()
            self.command, self.path = words[:2] if len(words) > 1 else ("-", "/")
            self.headers = self.MessageClass()
            self.request_version = self.protocol_version
            self.close_connection = True
            self.environ = self.get_environ() | {REFUSED: error}
            self.application = self.server.app
            self._going.allow(connections.LEFTOVER_S)
            with contextlib.suppress(OSError):
                self.handle_one_response()
                self._drop_the_rest()

        def _drop_the_rest(self) -> None:
            """A socket that is closed with bytes unread takes our answer back."""
            self.request.shutdown(socket.SHUT_WR)
            self._coming.allow(connections.LEFTOVER_S)
            for _ in range(connections.LEFTOVERS):
                if not self._coming.read(1 << 16):
                    break

    def speak(state: Any, server: Any) -> None:
        connection = state[1]
        try:
            Protocol(state, server)
        finally:
            room.leave(connection)

    return speak


def _server_ended(server: Any, listener: Any) -> None:
    """A daemon that nobody can reach must not look alive."""
    try:
        server.wait()
    except Exception:
        if listener.fileno() == -1:  # closed on purpose
            return
        LOG.critical("an HTTP server ended", exc_info=True)
        logging.shutdown()
        os._exit(70)


def listen(address: str, port: int) -> Any:
    """A listening TCP socket (green when patched); OSError when the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(1024)
    return listener
