"""Exports by a tgtd of this cloud's own (tgtd(8)): iSCSI, one target for each attachment.

A target holds one disk (LUN 1), which only the attachment's own CHAP account may enter.  tgtd
keeps nothing: who starts it again finds no targets, and the manager makes them anew.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import socket
import struct
import threading

from oslo_config import cfg
from typing_extensions import override

from minicloud import config, errors, ids, shell
from minicloud.checkpoint import checkpoint
from minicloud.volume import driver

CONF = config.declare(
    "tgt",
    [
        cfg.StrOpt(
            "socket",
            default="$state_path/tgt/control",
            help="Where this cloud's own tgtd takes commands (its TGT_IPC_SOCKET).",
        ),
        cfg.PortOpt(
            "port",
            default=3260,
            help="TCP port at [DEFAULT] my_ip where this cloud's tgtd listens.",
        ),
    ],
)

# tgt's usr/tgtadm.h, struct tgtadm_req: mode, op, driver, length, tid, sid, lun and six words
REQUEST = struct.Struct("=II64sIiQQ24x")
RESPONSE = struct.Struct("=II")  # struct tgtadm_rsp: error, length
ACCOUNT, NEW = 7, 0
ANSWER_S = 10.0


@dataclasses.dataclass
class _Target:
    """What tgtd shows of one of this cloud's targets."""

    tid: int
    export_id: str
    file: str = ""
    accounts: int = 0
    open: bool = False  # an initiator may come


class Tgt(driver.Exports):
    """`path` is where the volumes' files are."""

    def __init__(self, path: pathlib.Path, control: str, portal: str, tag: str) -> None:
        self._path = path
        self._control = control
        self._portal = portal
        self._tag = tag
        self._lock = threading.Lock()  # a number for a new target is drawn from a list

    @classmethod
    def from_options(cls, path: pathlib.Path) -> Tgt:
        """The server the configuration describes."""
        portal = f"{config.CONF.my_ip}:{CONF.port}"
        return cls(path, CONF.socket, portal, config.CONF.tag)

    @property
    @override
    def portal(self) -> str:
        return self._portal

    @override
    def ping(self) -> None:
        self._targets()

    @override
    def serve(self, export: driver.Export) -> None:
        with self._lock:
            file = str(self._path / export.volume_id)
            known = self._targets()
            found = known.get(export.id)
            if found is not None and found.open and found.accounts:
                return
            if found is not None:  # whoever made it died halfway
                self._delete(found)
            tid = str(max((one.tid for one in self._all()), default=0) + 1)
            name = ids.iqn(self._tag, export.id)
            self._tell("target", "new", "--tid", tid, "-T", name)
            checkpoint("export.target_made")
            self._tell("logicalunit", "new", "--tid", tid, "--lun", "1", "-b", file)
            self._tell("account", "delete", "--user", export.user, check=False)
            self._new_account(export)
            self._tell("account", "bind", "--tid", tid, "--user", export.user)
            checkpoint("export.account_bound")
            self._tell("target", "bind", "--tid", tid, "-I", "ALL")  # the last: now it is open
            checkpoint("export.served")

    @override
    def withdraw(self, export_id: str) -> None:
        with self._lock:
            found = self._targets().get(export_id)
            if found is not None:
                self._delete(found)
                self._tell("account", "delete", "--user", export_id, check=False)
            checkpoint("export.withdrawn")

    @override
    def present(self) -> dict[str, str]:
        known = self._targets().values()
        return {one.export_id: pathlib.Path(one.file).name for one in known}

    # --- tgtd -------------------------------------------------------------------------------

    def _delete(self, target: _Target) -> None:
        self._tell("target", "delete", "--tid", str(target.tid), "--force")

    def _targets(self) -> dict[str, _Target]:
        """This cloud's targets by export; TryLater when tgtd does not answer."""
        return {one.export_id: one for one in self._all() if one.export_id}

    def _all(self) -> list[_Target]:
        prefix = ids.iqn(self._tag, "")
        return parse(self._tell("target", "show"), prefix)

    def _tell(self, mode: str, op: str, *more: str, check: bool = True) -> str:
        argv = ["tgtadm", "--lld", "iscsi", "--mode", mode, "--op", op, *more]
        try:
            return shell.run(argv, check=check, environment={"TGT_IPC_SOCKET": self._control})
        except errors.CommandFailed as error:
            if "tgt daemon" in str(error):
                raise errors.TryLater(reason="tgtd is not there") from None
            raise

    def _new_account(self, export: driver.Export) -> None:
        """As `tgtadm --mode account --op new` does it, but tgtadm would show the password to
        everybody who looks at its command line."""
        words = f"user={export.user},password={export.password}".encode() + b"\0"
        length = REQUEST.size + len(words)
        head = REQUEST.pack(ACCOUNT, NEW, b"iscsi", length, -1, 0, 2**64 - 1)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
                control.settimeout(ANSWER_S)
                control.connect(f"{self._control}.0")
                control.sendall(head + words)
                error, _ = RESPONSE.unpack(control.recv(RESPONSE.size, socket.MSG_WAITALL))
        except (OSError, struct.error) as away:
            raise errors.TryLater(reason=f"tgtd does not answer: {away}") from None
        if error:
            raise errors.CommandFailed(
                command="tgtd: a new account", status=error, stderr=os.strerror(error)
            )


def parse(shown: str, prefix: str) -> list[_Target]:
    """What `tgtadm --mode target --op show` says; the export of a target whose name does not
    begin with `prefix` is empty: it is not ours."""
    found: list[_Target] = []
    section = ""
    for line in shown.splitlines():
        begin = re.match(r"Target ([0-9]+): (\S+)", line)
        if begin:
            name = begin[2]
            ours = name.removeprefix(prefix) if name.startswith(prefix) else ""
            found.append(_Target(int(begin[1]), ours))
            section = ""
        elif not found:
            continue
        elif re.match(r"    \S", line):
            section = line.strip()
        elif section == "Account information:" and line.strip():
            found[-1].accounts += 1
        elif section == "ACL information:" and line.strip():
            found[-1].open = True
        elif match := re.match(r" +Backing store path: (/\S+)", line):
            found[-1].file = match[1]
    return found
