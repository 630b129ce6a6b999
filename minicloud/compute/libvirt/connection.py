"""The only importer of libvirt: one connection, opened again when it is dead.

Each function of `Connection` is one hop into a native thread, does a whole operation there and
brings plain values back.  A call that hangs over its limit ends the process
(`concurrency.blocking`), a libvirtd that stops answering closes the connection (keepalive).
"""

from __future__ import annotations

import dataclasses
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import libvirt

from minicloud import concurrency, errors
from minicloud.compute.libvirt import domain_xml

LOG = logging.getLogger(__name__)

R = TypeVar("R")

KEEPALIVE_S, KEEPALIVE_COUNT = 5, 3
MIB = 1024**2
TICK_MS = 1000  # so that one turn of the event loop is short

# somebody else's operation on this domain is under way: "cannot acquire state change lock",
# "domain is being started"
BUSY = {libvirt.VIR_ERR_OPERATION_TIMEOUT}
BUSY_WORDS = ("state change lock", "is being started", "already being started")

UNDEFINE_ALL = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
)
LIVE = libvirt.VIR_DOMAIN_AFFECT_LIVE
OFF = {
    libvirt.VIR_DOMAIN_SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED,
    libvirt.VIR_DOMAIN_NOSTATE,
}


@dataclasses.dataclass(frozen=True)
class Found:
    """A domain as libvirt shows it: `state` is running, paused, stopped or starting."""

    id: str
    name: str
    state: str
    cloud_id: str
    generation: int
    taps: tuple[str, ...]
    volumes: tuple[str, ...] = ()  # letters of its network disks
    secrets: tuple[str, ...] = ()  # ids of those they name


@dataclasses.dataclass(frozen=True)
class Node:
    """The host: what a guest's vcpus and memory come from, and what runs them."""

    vcpus: int
    memory_mib: int
    qemu: str


class _Dead(Exception):
    """The connection had ended before the call."""


class _Left(Exception):
    """The connection ended during the call."""


class Connection:
    """Calls of one libvirtd; TryLater whenever it does not answer."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._open_lock = threading.Lock()
        self._conn: Any = None
        self._looping = False

    def node(self, virt_type: str) -> Node:
        """What the host is; asks for QEMU's abilities once, so that the first guest need not
        wait until libvirt has found them out (5 s)."""
        return self._call("node", lambda conn: _node(conn, virt_type))

    def alive(self) -> None:
        """Returns when libvirtd answers."""
        self._call("ping", lambda conn: conn.getLibVersion())

    def domains(self) -> list[Found]:
        """Every domain, running or not, that a minicloud made."""
        return self._call("list", _domains)

    def domain(self, id: str) -> Found | None:
        return self._call("show", lambda conn: _domain(conn, id))

    def define(self, xml: str) -> None:
        """The domain's next start is as `xml` says; a running one goes on as it is."""
        self._call("define", lambda conn: _without_result(conn.defineXML(xml)))

    def start(self, id: str) -> None:
        self._call("start", lambda conn: _without_result(conn.lookupByUUIDString(id).create()))

    def shut_down(self, id: str) -> None:
        """The guest was asked (ACPI) to turn itself off; nothing when it is off."""
        self._call("shut down", lambda conn: _if_active(conn, id, lambda dom: dom.shutdown()))

    def destroy(self, id: str) -> None:
        """The guest was turned off by force; nothing when it is off or not there."""
        self._call("destroy", lambda conn: _if_active(conn, id, lambda dom: dom.destroy()))

    def undefine(self, id: str) -> None:
        """libvirt knows no such domain."""
        self._call("undefine", lambda conn: _undefine(conn, id))

    def set_secret(self, xml: str, value: str) -> None:
        """libvirtd knows this secret until it ends, or `forget_secret`."""
        self._call("define a secret", lambda conn: _set_secret(conn, xml, value))

    def forget_secret(self, id: str) -> None:
        """libvirtd knows no such secret."""
        self._call("forget a secret", lambda conn: _forget_secret(conn, id))

    def attach(self, id: str, xml: str) -> None:
        """The domain, which runs, has this device."""
        self._call(
            "attach",
            lambda conn: _without_result(conn.lookupByUUIDString(id).attachDeviceFlags(xml, LIVE)),
        )

    def ask_detach(self, id: str, letter: str) -> None:
        """The guest was asked to let go of that disk; nothing when it is off, or has none."""
        self._call("detach", lambda conn: _if_active(conn, id, lambda dom: _unplug(dom, letter)))

    def _call(self, what: str, operation: Callable[[Any], R]) -> R:
        try:
            return self._once(what, operation)
        except _Dead:  # since the last call: nothing was asked of it yet
            pass
        try:
            return self._once(what, operation)
        except _Dead:
            raise errors.TryLater(reason="libvirt went away") from None

    def _once(self, what: str, operation: Callable[[Any], R]) -> R:
        conn = self._connected()
        try:
            return concurrency.blocking("libvirt", _ask, conn, operation)
        except _Dead:
            self._forget(conn)
            raise
        except _Left as left:
            self._forget(conn)
            raise errors.TryLater(reason=f"libvirt went away: {left.__cause__}") from None
        except libvirt.libvirtError as error:
            raise _ours(what, error) from None

    def _connected(self) -> Any:
        with self._open_lock:
            if self._conn is None:
                self._keep_event_loop()
                try:
                    self._conn = concurrency.blocking("libvirt", _open, self._uri)
                except libvirt.libvirtError as error:
                    raise errors.TryLater(
                        reason=f"libvirt is not there: {_words(error)}"
                    ) from None
                LOG.info("connected to %s", self._uri)
            return self._conn

    def _forget(self, conn: Any) -> None:
        with self._open_lock:
            if self._conn is conn:
                self._conn = None
        concurrency.blocking("libvirt", _close, conn)

    def _keep_event_loop(self) -> None:
        """Keepalive needs libvirt's event loop, which must be there before the first open."""
        if self._looping:
            return
        _begin_event_loop()
        concurrency.start("libvirt-events", _turn_event_loop)
        self._looping = True


def _begin_event_loop() -> None:
    libvirt.registerErrorHandler(_silent, None)  # the exceptions say it, and say it once
    libvirt.virEventRegisterDefaultImpl()
    libvirt.virEventAddTimeout(TICK_MS, _silent, None)


def _turn_event_loop() -> None:
    # a pool of its own: it must turn when every thread of the others waits for a dead libvirtd
    while True:
        concurrency.blocking("libvirt-events", libvirt.virEventRunDefaultImpl)


def _silent(*_: Any) -> None:
    pass


def _open(uri: str) -> Any:
    conn = libvirt.open(uri)
    conn.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
    return conn


def _ask(conn: Any, operation: Callable[[Any], R]) -> R:
    if not conn.isAlive():
        raise _Dead
    try:
        return operation(conn)
    except libvirt.libvirtError as error:
        if not conn.isAlive():  # what was asked may have happened or not: the caller looks
            raise _Left from error
        raise


def _close(conn: Any) -> None:
    try:
        conn.close()
    except libvirt.libvirtError:
        pass


def _node(conn: Any, virt_type: str) -> Node:
    _, _, vcpus, *_ = conn.getInfo()
    # not libvirt's own sum over NUMA nodes: where the host is itself a guest with a balloon, that
    # changes from minute to minute
    memory_mib = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // MIB
    conn.getDomainCapabilities(domain_xml.EMULATOR, "x86_64", "pc", virt_type)
    version = conn.getVersion()
    qemu = f"{version // 1_000_000}.{version // 1000 % 1000}"
    return Node(vcpus=vcpus, memory_mib=memory_mib, qemu=qemu)


def _domains(conn: Any) -> list[Found]:
    found = (_show(dom) for dom in conn.listAllDomains())
    return [domain for domain in found if domain is not None]


def _domain(conn: Any, id: str) -> Found | None:
    dom = _lookup(conn, id)
    return None if dom is None else _show(dom)


def _lookup(conn: Any, id: str) -> Any:
    try:
        return conn.lookupByUUIDString(id)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _show(dom: Any) -> Found | None:
    """None when it is gone by now, or is no domain of a minicloud."""
    try:
        state, reason = dom.state()
        xml = dom.XMLDesc()
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise
    stamp = domain_xml.stamp(xml)
    if stamp is None:
        return None
    return Found(
        id=dom.UUIDString(),
        name=dom.name(),
        state=_state(state, reason),
        cloud_id=stamp.cloud_id,
        generation=stamp.generation,
        taps=domain_xml.taps(xml),
        volumes=domain_xml.volumes(xml),
        secrets=domain_xml.secrets(xml),
    )


def _state(state: int, reason: int) -> str:
    if state in OFF:
        return "stopped"
    if state == libvirt.VIR_DOMAIN_PAUSED:
        starting = reason == libvirt.VIR_DOMAIN_PAUSED_STARTING_UP
        return "starting" if starting else "paused"
    return "running"


def _if_active(conn: Any, id: str, operation: Callable[[Any], object]) -> None:
    dom = _lookup(conn, id)
    if dom is None:
        return
    try:
        operation(dom)
    except libvirt.libvirtError as error:
        gone = (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID)
        if error.get_error_code() not in gone or dom.isActive():
            raise


def _unplug(dom: Any, letter: str) -> None:
    xml = domain_xml.network_disk(dom.XMLDesc(), letter)
    if xml is not None:
        dom.detachDeviceFlags(xml, LIVE)


def _set_secret(conn: Any, xml: str, value: str) -> None:
    conn.secretDefineXML(xml).setValue(value.encode())


def _forget_secret(conn: Any, id: str) -> None:
    try:
        conn.secretLookupByUUIDString(id).undefine()
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
            raise


def _undefine(conn: Any, id: str) -> None:
    dom = _lookup(conn, id)
    if dom is None:
        return
    try:
        dom.undefineFlags(UNDEFINE_ALL)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
            raise


def _without_result(_: object) -> None:
    """libvirt's objects stay in the native thread."""


def _words(error: Any) -> str:
    return str(error.get_error_message() or error)


def _ours(what: str, error: Any) -> errors.Error:
    code, words = error.get_error_code(), _words(error)
    if code in BUSY or any(busy in words for busy in BUSY_WORDS):
        return errors.TryLater(reason=f"libvirt is busy with this domain: {words}")
    return errors.CommandFailed(command=f"libvirt {what}", status=code, stderr=words[:2000])
