"""Messages between daemons: the only importer of oslo_messaging.

An interface is a class whose methods carry `@nudge()` or `@ask()`; managers subclass it and
clients are typed by it.  Nudges go out in the background, are never waited for and may be lost;
oslo.messaging acknowledges a message before running it, so they are at most once anyway.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import logging
import queue
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import amqp
import oslo_messaging
from oslo_config import cfg

from minicloud import concurrency, config, context, errors, ids
from minicloud.checkpoint import checkpoint
from minicloud.context import Context

LOG = logging.getLogger(__name__)

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

CONF = config.declare(
    "rpc",
    [
        cfg.StrOpt(
            "transport_url",
            secret=True,
            default="rabbit://minicloud@127.0.0.1:5672/minicloud",
            help="Where the broker is: rabbit://user:password@address:port/virtual-host; local://"
            " is none, for daemons that share one process.",
        ),
        cfg.IntOpt(
            "ask_timeout_s",
            default=10,
            min=1,
            help="Seconds a daemon waits for another's answer before it says unavailable.",
        ),
        cfg.IntOpt(
            "nudge_queue",
            default=10000,
            min=1,
            help="Nudges kept while the broker is away; more are dropped, and the sweep does"
            " what they would have started.",
        ),
    ],
)


FIRST = "1.0"  # what every daemon serves

# Of a message that could not be sent, on a connection that is opened anew.  Without a second try
# kombu keeps a connection on which two messages in a row had failed, say of a broker that stood
# still, and sends nothing by it any more: only before it tries again it throws it away.
TRIES_AGAIN = 1


@dataclasses.dataclass(frozen=True)
class Nudge:
    """`method` of an interface for the row `id`, at one host or at any."""

    method: Callable[..., None]
    id: str
    host: str | None = None


def interface(topic: str) -> Callable[[type[T]], type[T]]:
    """Mark a class as the protocol of the daemon `topic`; its version is that of its newest
    method."""

    def mark(cls: type[T]) -> type[T]:
        versions = [FIRST]
        for name in dir(cls):
            method = getattr(cls, name)
            if hasattr(method, "rpc_kind"):
                if name not in vars(cls):  # of a base that several interfaces share
                    method = _copied(method)
                    setattr(cls, name, method)
                method.rpc_topic = topic
                versions.append(method.rpc_since)
        cls.topic, cls.version = topic, max(versions, key=version_of)  # type: ignore[attr-defined]
        return cls

    return mark


def _copied(method: Callable[..., T]) -> Callable[..., T]:
    @functools.wraps(method)
    def copy(*args: Any, **kwargs: Any) -> T:
        return method(*args, **kwargs)

    return copy


def nudge(since: str = FIRST) -> Callable[[F], F]:
    """A method that carries one id and has no answer."""
    return _marked("nudge", since)


def ask(since: str = FIRST) -> Callable[[F], F]:
    """A method with keyword arguments and an answer in time."""
    return _marked("ask", since)


def _marked(kind: str, since: str) -> Callable[[F], F]:
    def mark(method: F) -> F:
        method.rpc_kind, method.rpc_since = kind, since  # type: ignore[attr-defined]
        return method

    return mark


def since_of(method: Callable[..., Any]) -> tuple[int, ...]:
    """The version of its interface that brought the method."""
    return version_of(method.rpc_since)  # type: ignore[attr-defined]


def version_of(text: str) -> tuple[int, ...]:
    """A version that can be compared: `1.10` is newer than `1.9`."""
    return tuple(int(word) for word in text.split("."))


def serves(version: str, method: Callable[..., Any]) -> bool:
    """Whether a daemon of that interface version (`hosts.version`) knows the method."""
    return version_of(version) >= since_of(method)


def too_old(method: Callable[..., Any], host: str | None) -> errors.Unavailable:
    """The daemon is of a release before the method: it waits for its restart."""
    reason = (
        f"the {topic_of(method)} daemon of {host or 'every host'} is of an older release, without"
        f" {method.__name__}: restart it with this release"
    )
    return errors.Unavailable(reason=reason)


def topic_of(method: Callable[..., Any]) -> str:
    topic: str = method.rpc_topic  # type: ignore[attr-defined]
    return topic


class _Serializer(oslo_messaging.NoOpSerializer):  # type: ignore[misc]
    def serialize_context(self, ctx: Context) -> dict[str, Any]:
        return ctx.to_dict()

    def deserialize_context(self, values: dict[str, Any]) -> Context:
        return Context.from_dict(values)


AMQP_PORT = 5672  # of a broker whose URL names none (IANA: amqp)
# The queues of a process's own, for answers, outlive it by this: in oslo.messaging's half an hour
# a daemon that is started again and again fills the broker's memory.  One that is read from stays.
ABANDONED_S = 60

_transport: Any = None
_transport_lock = threading.Lock()


def transport() -> Any:
    global _transport
    with _transport_lock:
        if _transport is None:
            _transport = oslo_messaging.get_rpc_transport(cfg.CONF, url=CONF.transport_url)
            if _has_broker():
                group = "oslo_messaging_rabbit"
                cfg.CONF.set_default("rabbit_transient_queues_ttl", ABANDONED_S, group)
        return _transport


def forget_transport() -> None:
    """Close the connections to the broker (tests)."""
    global _transport
    with _transport_lock:
        if _transport is not None:
            _transport.cleanup()
        _transport = None


def _topic(name: str) -> str:
    return f"{cfg.CONF.tag}.{name}"


def _target(method: Callable[..., Any], host: str | None) -> Any:
    """Where the method is called; a daemon whose interface is older than it refuses the call."""
    since: str = method.rpc_since  # type: ignore[attr-defined]
    return oslo_messaging.Target(topic=_topic(topic_of(method)), server=host, version=since)


# --- nudges ---------------------------------------------------------------------------------

_outbox: queue.Queue[tuple[Nudge, Context | None]] = queue.Queue()
_sender: threading.Thread | None = None
_dropping = False


def send(nudges: Sequence[Nudge]) -> None:
    """Queue nudges for the background sender: neither waits nor raises, whatever is away."""
    global _sender
    if _sender is None or not _sender.is_alive():
        _sender = concurrency.start("nudges", _send_for_ever)
    for one in dict.fromkeys(nudges):
        if _outbox.qsize() >= CONF.nudge_queue:
            LOG.warning("%d nudges wait for the broker: dropped more", CONF.nudge_queue)
            return
        _outbox.put((one, context.current()))


def flush(patience_s: float) -> None:
    """Return when what was queued has been sent or dropped, or after a while: for processes that
    end."""
    until = time.monotonic() + patience_s
    while _outbox.unfinished_tasks and time.monotonic() < until:
        concurrency.sleep(0.01)


def _send_for_ever() -> None:
    global _dropping
    while True:
        one, ctx = _outbox.get()
        name = one.method.__name__
        with context.use(ctx):
            try:
                checkpoint(f"{name}.sending")
                _cast(one, ctx)
                checkpoint(f"{name}.sent")
            except Exception as error:
                if not _dropping:
                    LOG.warning("the broker takes no nudges (%s): sweeps do their work", error)
                _dropping = True
                _drop_waiting()
            else:
                if _dropping:
                    LOG.warning("the broker takes nudges again")
                _dropping = False
        _outbox.task_done()


def _drop_waiting() -> None:
    """What waits behind a nudge that was refused would be refused as well, each after seconds."""
    with contextlib.suppress(queue.Empty):
        while True:
            _outbox.get_nowait()
            _outbox.task_done()


def _cast(one: Nudge, ctx: Context | None) -> None:
    if _is_local():
        _cast_here(one, ctx or Context(context.new_request_id()))
        return
    client = oslo_messaging.get_rpc_client(
        transport(), _target(one.method, one.host), serializer=_Serializer(), retry=TRIES_AGAIN
    )
    client.cast(ctx or Context(context.new_request_id()), one.method.__name__, id=one.id)


# --- asks -----------------------------------------------------------------------------------


def ask_host(method: Callable[..., T], ctx: Context, host: str | None, **arguments: Any) -> T:
    """The answer of `method` (an ask of an interface class) at `host`.

    Raises what the daemon raised if it is one of ours; Unavailable when no answer comes in time.
    """
    concurrency.forbid_in_transaction("an ask")
    answer = (_ask_here if _is_local() else _ask_broker)(method, ctx, host, arguments)
    if "error" in answer:
        name, facts = answer["error"]
        raise errors.by_name(name)(**facts)
    result: T = answer["result"]
    return result


def _ask_broker(
    method: Callable[..., Any], ctx: Context, host: str | None, arguments: dict[str, Any]
) -> dict[str, Any]:
    _require_broker()  # a process's first ask would wait for it for ever: it opens a reply queue
    client = oslo_messaging.get_rpc_client(
        transport(),
        _target(method, host),
        serializer=_Serializer(),
        timeout=CONF.ask_timeout_s,
        retry=TRIES_AGAIN,
    )
    try:
        answer: dict[str, Any] = client.call(ctx, method.__name__, arguments=arguments)
        return answer
    except (oslo_messaging.MessagingTimeout, oslo_messaging.MessageDeliveryFailure) as error:
        raise _silent(method, host) from error
    except oslo_messaging.RemoteError as error:
        if error.exc_type == "UnsupportedVersion":
            raise too_old(method, host) from error
        raise


def _require_broker() -> None:
    """Unavailable, in words for users, while no broker lets us in: its address is the log's."""
    try:
        readers([])
    except errors.Unavailable as error:
        LOG.warning("%s", error)
        raise errors.Unavailable(reason="the broker does not answer") from error


def _silent(method: Callable[..., Any], host: str | None) -> errors.Unavailable:
    return errors.Unavailable(reason=f"the {topic_of(method)} daemon of {host} does not answer")


# --- what the broker knows ------------------------------------------------------------------


def readers(daemons: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """How many processes read the queue of each daemon (topic, host); 0 where there is no such
    queue, {} where there is no broker.  Unavailable when it does not answer.

    A passive declaration (AMQP 0-9-1, queue.declare) asks this without any right to manage.
    """
    if not _has_broker():
        return {}
    return _at_broker(lambda link, name: {one: _readers(link, *one) for one in daemons})


def broker() -> str:
    """The first broker that lets us in, "" where daemons need none; Unavailable says why none did.

    Never waits for one that is away, as a transport does.
    """
    return _at_broker(lambda link, name: name) if _has_broker() else ""


def _has_broker() -> bool:
    return str(CONF.transport_url).startswith("rabbit:")


def _at_broker(look: Callable[[Any, str], T]) -> T:
    """What `look` finds by a connection to the first broker that lets us in, and its name."""
    url = oslo_messaging.TransportURL.parse(cfg.CONF, CONF.transport_url)
    failures = []
    for broker in url.hosts:
        name = f"{broker.hostname}:{broker.port or AMQP_PORT}/{url.virtual_host}"
        try:
            with _connection(broker, url.virtual_host) as link:
                return look(link, name)
        except (OSError, amqp.AMQPError) as error:
            failures.append(f"{name}: {error}")
    raise errors.Unavailable(reason=f"the broker does not answer: {'; '.join(failures)}")


def _connection(broker: Any, virtual_host: str) -> Any:
    return amqp.Connection(
        f"{broker.hostname}:{broker.port or AMQP_PORT}",
        userid=broker.username,
        password=broker.password,
        virtual_host=virtual_host,
        connect_timeout=CONF.ask_timeout_s,
        read_timeout=CONF.ask_timeout_s,
    )


def _readers(connection: Any, topic: str, host: str) -> int:
    channel = connection.channel()
    try:
        found = channel.queue_declare(f"{_topic(topic)}.{host}", passive=True)
    except amqp.NotFound:  # the broker has closed the channel
        return 0
    channel.close()
    return int(found.consumer_count)


# --- the server -----------------------------------------------------------------------------


class _DeclaredOnly(oslo_messaging.RPCAccessPolicyBase):  # type: ignore[misc]
    """Only what the endpoint's interface declares can be called."""

    def is_allowed(self, endpoint: Any, method: str) -> bool:
        return isinstance(endpoint, _Endpoint) and method in endpoint.methods


class _Endpoint:
    """What oslo.messaging calls: hands each declared method on to the manager."""

    def __init__(self, manager: Any, protocol: type[Any]) -> None:
        self.target = oslo_messaging.Target(version=protocol.version)
        self.methods = {
            name: method for name, method in vars(protocol).items() if hasattr(method, "rpc_kind")
        }
        for name, method in self.methods.items():
            call = self._nudged if method.rpc_kind == "nudge" else self._asked
            setattr(self, name, _bound(call, getattr(manager, name)))

    @staticmethod
    def _nudged(method: Callable[..., None], ctx: Context, id: str) -> None:
        with context.use(ctx):
            if not (isinstance(id, str) and ids.is_uuid(id)):  # MariaDB takes 0 for any text
                LOG.error("%s: %s is no id", method.__name__, ascii(id)[:100])
                return
            # acknowledged by now: whoever dies here has lost it
            checkpoint(f"{method.__name__}.nudged")
            method(ctx, id)

    @staticmethod
    def _asked(
        method: Callable[..., Any], ctx: Context, arguments: dict[str, Any]
    ) -> dict[str, Any]:
        with context.use(ctx):
            try:
                return {"result": method(ctx, **arguments)}
            except errors.Error as error:
                return {"error": (type(error).__name__, error.facts)}


def _bound(call: Callable[..., Any], method: Callable[..., Any]) -> Callable[..., Any]:
    def endpoint(ctx: Context, **arguments: Any) -> Any:
        return call(method, ctx, **arguments)

    return endpoint


def serve(manager: Any, protocol: type[Any], host: str) -> Any:
    """Listen for the daemon's messages; with the broker away this never returns.

    The server returned has `stop()` and `wait()`.
    """
    if _is_local():
        return _Here(_Endpoint(manager, protocol), protocol.topic, host)
    target = oslo_messaging.Target(topic=_topic(protocol.topic), server=host)
    server = oslo_messaging.get_rpc_server(
        transport(),
        target,
        [_Endpoint(manager, protocol)],
        serializer=_Serializer(),
        access_policy=_DeclaredOnly,
    )
    server.start()
    return server


# --- without a broker -------------------------------------------------------------------------

# Daemons of one process need none: oslo.messaging's own `fake://` polls, twenty times a second for
# each server, which a thousand hosts cannot afford.


class _Here:
    """A daemon that is called directly; what it is given went through JSON all the same."""

    def __init__(self, endpoint: _Endpoint, topic: str, host: str) -> None:
        self._endpoint = endpoint
        self._place = (topic, host)
        _here.setdefault(topic, {})[host] = self

    def stop(self) -> None:
        topic, host = self._place
        if _here.get(topic, {}).get(host) is self:
            del _here[topic][host]

    def wait(self) -> None:
        """Nothing is under way once it has stopped."""

    def call(self, method: Callable[..., Any], ctx: Context, values: dict[str, Any]) -> Any:
        values = json.loads(json.dumps(values))
        answer = getattr(self._endpoint, method.__name__)(ctx, **values)
        return json.loads(json.dumps(answer))


_here: dict[str, dict[str, _Here]] = {}  # topic → host


def _is_local() -> bool:
    return str(CONF.transport_url).startswith("local:")


def _find(method: Callable[..., Any], host: str | None) -> _Here | None:
    known = _here.get(topic_of(method), {})
    if host is not None:
        return known.get(host)
    return random.choice(list(known.values())) if known else None


def _cast_here(one: Nudge, ctx: Context) -> None:
    server = _find(one.method, one.host)
    if server is not None:  # else its sweep does it, once it is there
        server.call(one.method, ctx, {"id": one.id})


def _ask_here(
    method: Callable[..., Any], ctx: Context, host: str | None, arguments: dict[str, Any]
) -> dict[str, Any]:
    server = _find(method, host)
    if server is None:
        raise _silent(method, host)
    answer: dict[str, Any] = server.call(method, ctx, {"arguments": arguments})
    return answer
