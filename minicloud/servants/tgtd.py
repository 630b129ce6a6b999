"""A tgtd of this cloud's own, which exports the volumes: iSCSI from user space.

It runs as the daemons' user, to whom the volumes belong.  tgtd obeys only who is root to it
(tgt's usr/mgmt.c, ipc_perm), so it lives in a user namespace in which that user has the number
0; anybody else, the host's root too, is nobody there.  It needs no right outside of it.

It ends on SIGTERM only while it has no targets, so it is killed after a moment: it holds nothing
that is not in the volumes' files, and the volume daemon makes its targets anew.

Standard library only: this is read before anything is installed.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path

POLITE_S = 1.0


def control(state: Path) -> Path:
    """Its TGT_IPC_SOCKET."""
    return state / "tgt" / "control"


def prepare(state: Path, user: str) -> None:
    """The directory of its socket is there, for the daemons' user alone.  Needs root."""
    owner = pwd.getpwnam(user)
    home = control(state).parent
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    os.chown(home, owner.pw_uid, owner.pw_gid)


def command(state: Path, user: str, portal: str) -> list[str]:
    """What to start: stays in the foreground, one process; its standard error is its log.

    sys_admin makes a user namespace possible also where users must not make one; nothing of it
    is left outside.
    """
    return [
        *("env", f"TGT_IPC_SOCKET={control(state)}"),
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"),
        *("--inh-caps=-all,+sys_admin", "--ambient-caps=-all,+sys_admin"),
        *("unshare", "--user", "--map-root-user"),
        *("tgtd", "-f", "--iscsi", f"portal={portal}"),
    ]
