"""What tgtd says of its targets."""

from __future__ import annotations

from minicloud import ids
from minicloud.volume import tgt

FIRST, SECOND = (f"ec20000{n}-0000-0000-0000-000000000000" for n in (1, 2))
VOLUME = "ec20000a-0000-0000-0000-000000000000"
SHOWN = f"""\
Target 1: iqn.2010-10.org.minicloud:gtag-{FIRST}
    System information:
        Driver: iscsi
        State: ready
    I_T nexus information:
        I_T nexus: 2
            Initiator: iqn.2008-11.org.linux-kvm:mc-gtag-i-00000000000000000 alias: none
            Connection: 0
                IP Address: 127.0.0.1
    LUN information:
        LUN: 0
            Type: controller
            Backing store type: null
            Backing store path: None
            Backing store flags:{" "}
        LUN: 1
            Type: disk
            Backing store type: rdwr
            Backing store path: /state/volumes/{VOLUME}
            Backing store flags:{" "}
    Account information:
        {FIRST}
    ACL information:
        ALL
Target 7: iqn.2010-10.org.minicloud:gtag-{SECOND}
    System information:
        Driver: iscsi
    I_T nexus information:
    LUN information:
        LUN: 0
            Backing store path: None
    Account information:
    ACL information:
Target 9: iqn.2010-10.org.minicloud:other-{SECOND}
    ACL information:
        ALL
"""


def test_targets_are_read_with_what_makes_them_whole() -> None:
    whole, half, foreign = tgt.parse(SHOWN, ids.iqn("gtag", ""))
    assert (whole.tid, whole.export_id) == (1, FIRST)
    assert (whole.file, whole.accounts, whole.open) == (f"/state/volumes/{VOLUME}", 1, True)
    assert (half.tid, half.export_id) == (7, SECOND)
    assert (half.file, half.accounts, half.open) == ("", 0, False)
    assert (foreign.tid, foreign.export_id) == (9, "")


def test_no_targets_are_read_of_an_empty_answer() -> None:
    assert tgt.parse("\n", ids.iqn("gtag", "")) == []
