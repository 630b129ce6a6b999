"""Each check of the doctor: what it says of a host that is well, and of one fault planted."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pathlib
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
import sqlalchemy as sa
from typing_extensions import override

from minicloud import __version__, config, context, errors, kvm, work
from minicloud.cli import app
from minicloud.cloud import hosts, networks
from minicloud.db import models
from minicloud.db.session import Tx, engine, forget_engines, transaction
from minicloud.doctor import check, shared
from minicloud.doctor.check import FAILED, UNSEEN, WELL, Seen
from minicloud.doctor.host import FileSystem, Host
from tests.conftest import InProcessCloud

Options = Callable[..., None]
GIB = 1 << 30


class Told(Host):
    """A host that says what it is told to: `says` by the first words of a command."""

    def __init__(self, says: Mapping[str, str | Exception] | None = None) -> None:
        self.says = dict(says or {})
        self.files: dict[str, str] = {}
        self.missing: set[str] = set()
        self.allowed: dict[str, bool | None] = {}
        self.ends: dict[str, int | None] = {}  # accelerator → QEMU's exit status
        self.disks: Mapping[str, FileSystem] = {}

    @override
    def has(self, program: str) -> bool:
        return program not in self.missing

    @override
    def run(self, *argv: str, input: str | None = None) -> str:
        line = " ".join(argv)
        for words in sorted(self.says, key=len, reverse=True):
            if line.startswith(words):
                said = self.says[words]
                if isinstance(said, Exception):
                    raise said
                return said
        return super().run(*argv, input=input)

    @override
    def read(self, path: str) -> str:
        return self.files[path] if path in self.files else super().read(path)

    @override
    def may(self, path: str) -> bool | None:
        return self.allowed[path] if path in self.allowed else super().may(path)

    @override
    def exit_status(self, argv: Sequence[str], limit_s: float) -> int | None:
        return self.ends[argv[2]]

    @override
    def file_system(self, path: str) -> FileSystem:
        return self.disks.get(path) or FileSystem(1, 50 * GIB, 100 * GIB, 900, 1000, False)


def complaint(words: str, status: int = 1) -> errors.CommandFailed:
    return errors.CommandFailed(command="tool", status=status, stderr=words)


def look(name: str, host: Host | None = None) -> list[Seen]:
    config.list_opts()
    return list(check.CHECKS[name].look(host or Told()))


def states(seen: Sequence[Seen]) -> dict[str, str]:
    return {one.about: one.state for one in seen}


def only(seen: Sequence[Seen], state: str = FAILED) -> Seen:
    [one] = [one for one in seen if one.state == state]
    assert state != FAILED or one.mend, "a failure says what mends it"
    return one


@pytest.fixture(autouse=True)
def _options(options: Options) -> None:
    config.list_opts()


# --- versions ------------------------------------------------------------------------------------

TOOLS = {
    "libvirtd": "libvirtd (libvirt) 9.0.0",
    "qemu-system-x86_64": "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)",
    "qemu-img": "qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)",
    "nft": "nftables v1.0.6 (Lester Gooch #5)",
    "conntrack": "conntrack v1.4.7 (conntrack-tools)",
    "ip": "ip utility, iproute2-6.1.0, libbpf 1.1.2",
    "dnsmasq": "Dnsmasq version 2.90  Copyright (c) 2000-2024 Simon Kelley",
    "tgtd": "1.0.85",
}


def test_versions_of_debian_12_are_well() -> None:
    host = Told(TOOLS)
    host.files["/proc/sys/kernel/osrelease"] = "6.1.0-28-amd64\n"
    seen = look("versions", host)
    assert set(states(seen).values()) == {WELL}
    assert ("QEMU", "7.2.22") in {(one.about, one.text) for one in seen}


def test_versions_name_what_is_too_old_and_what_is_missing() -> None:
    host = Told(TOOLS | {"dnsmasq": "Dnsmasq version 2.80"})
    host.missing = {"nft"}
    failures = {one.about: one.mend for one in look("versions", host) if one.state == FAILED}
    assert failures == {
        "dnsmasq": "apt-get install dnsmasq-base",
        "nft": "apt-get install nftables",
    }


def test_versions_of_tools_do_not_matter_to_a_simulated_cloud(options: Options) -> None:
    options("compute", connection_type="simulated")
    options("network", connection_type="simulated")
    assert [one.about for one in look("versions")] == ["minicloud", "Python"]


# --- kvm -----------------------------------------------------------------------------------------


def with_kvm(allowed: bool | None, **ends: int | None) -> Told:
    host = Told()
    host.allowed[kvm.DEVICE] = allowed
    host.ends = dict(ends)
    return host


@pytest.mark.parametrize(
    ("wanted", "allowed", "ends", "state"),
    [
        ("kvm", True, {"kvm": kvm.LEFT, "tcg": None}, WELL),
        ("kvm", True, {"kvm": None, "tcg": kvm.LEFT}, FAILED),  # it opens, and then hangs
        ("kvm", True, {"kvm": 1, "tcg": kvm.LEFT}, FAILED),
        ("kvm", None, {}, FAILED),
        ("kvm", False, {}, UNSEEN),
        ("qemu", True, {"kvm": None, "tcg": kvm.LEFT}, WELL),
        ("qemu", None, {"tcg": kvm.LEFT}, WELL),
        ("qemu", None, {"tcg": 1}, FAILED),
    ],
)
def test_kvm_is_judged_by_a_boot_sector(
    options: Options,
    wanted: str,
    allowed: bool | None,
    ends: dict[str, int | None],
    state: str,
) -> None:
    options("libvirt", virt_type=wanted)
    assert only(look("kvm", with_kvm(allowed, **ends)), state)


def test_kvm_that_is_slower_than_emulation_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    takes = {"kvm": 3.0, "tcg": 0.5}
    monkeypatch.setattr(kvm, "time", types.SimpleNamespace(monotonic=lambda: now[0]))

    def run(argv: Sequence[str], limit_s: float) -> int:
        now[0] += takes[argv[2]]
        return kvm.LEFT

    assert not kvm.works(run)
    takes["kvm"] = 0.1
    assert kvm.works(run)


# --- cgroups -------------------------------------------------------------------------------------

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
"""
UNIFIED = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("mounts", "controllers", "state"),
    [
        (HYBRID, "", WELL),
        (UNIFIED, "cpuset cpu io memory pids\n", WELL),
        (UNIFIED, "cpuset cpu io pids\n", FAILED),
        ("", "", FAILED),
    ],
)
def test_cgroups_of_either_version_are_seen(mounts: str, controllers: str, state: str) -> None:
    host = Told()
    host.files = {
        "/proc/self/mountinfo": mounts,
        "/sys/fs/cgroup/cgroup.controllers": controllers,
        "/sys/fs/cgroup/unified/cgroup.controllers": controllers,
    }
    assert states(look("cgroups", host)) == {"controllers": state}


# --- kernel --------------------------------------------------------------------------------------


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: may be forbidden to make namespaces")
@pytest.mark.skipif(not shutil.which("nft", path="/usr/sbin"), reason="nft is not installed")
def test_kernel_is_tried_in_a_namespace_of_which_nothing_is_left() -> None:
    before = os.listdir("/proc/sys/net/ipv4/conf")
    seen = states(look("kernel"))
    assert (seen["links"], seen["packet filter"]) == (WELL, WELL)
    assert os.listdir("/proc/sys/net/ipv4/conf") == before


def test_kernel_without_a_part_says_which_module_brings_it() -> None:
    host = Told({"unshare": ""})
    said = "/dev/stdin:9:5-16: Error: Could not process rule: No such file or directory"
    prefix = "unshare " + ("" if os.geteuid() == 0 else "--user --map-root-user ")
    host.says[f"{prefix}--net nft"] = complaint(said)
    host.allowed["/dev/net/tun"] = None
    failures = {one.about: one.mend for one in look("kernel", host) if one.state == FAILED}
    assert failures == {
        "packet filter": "modprobe -a nf_tables nft_ct nft_nat",
        "taps": "modprobe tun",
    }


# --- processes and ports -------------------------------------------------------------------------


@contextlib.contextmanager
def living(state: pathlib.Path, *daemons: str) -> Iterator[None]:
    """This process holds the locks of these daemons of host1."""
    (state / "lock").mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
        for daemon in daemons:
            file = held.enter_context((state / "lock" / f"host1-{daemon}.lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def test_processes_that_hold_their_lock_live_and_others_are_named(tmp_path: pathlib.Path) -> None:
    with living(tmp_path, "network"):
        pass
    with living(tmp_path, "compute", "api-metadata"):
        seen = look("processes")
    assert states(seen) == {"compute": WELL, "api-metadata": WELL, "network": FAILED}
    assert only(seen).mend == "systemctl start minicloud-network"


def test_processes_that_were_stopped_are_not_well(tmp_path: pathlib.Path) -> None:
    host = Told()
    host.files[f"/proc/{os.getpid()}/stat"] = f"{os.getpid()} (a name) T 1 1"
    with living(tmp_path, "compute"):
        assert only(look("processes", host)).mend == f"kill -CONT {os.getpid()}"


def test_processes_of_the_launchers_cloud_are_started_by_it(
    tmp_path: pathlib.Path, options: Options
) -> None:
    (tmp_path / "variables.json").touch()
    (tmp_path / "minicloud.conf").write_text(f"[DEFAULT]\nstate_path = {tmp_path}\n")
    config.load(["--config-file", str(tmp_path / "minicloud.conf")], "test")
    with living(tmp_path, "compute"):
        pass
    mend = f"MINICLOUD_STATE={tmp_path} tools/minicloud.sh start compute"
    assert only(look("processes")).mend == mend


def test_processes_of_a_lab_are_started_by_the_launcher_on_their_host(
    tmp_path: pathlib.Path, options: Options
) -> None:
    (tmp_path / "hosts" / "h2").mkdir(parents=True)
    (tmp_path / "minicloud.conf").write_text("[DEFAULT]\nhost = head\n")
    config.load(["--config-file", str(tmp_path / "minicloud.conf")], "test")
    lab = f"MINICLOUD_STATE={tmp_path} tools/minicloud.sh lab"
    assert Told().starting_on("h2", "compute") == f"{lab} start h2 compute"
    restart = f"{lab} kill h2 compute && {lab} start h2 compute"
    assert Told().starting_on("h2", "compute", "restart") == restart
    assert Told().starting_on("h3", "compute") == "on h3: systemctl start minicloud-compute"
    assert Told().starting("tgtd") == "systemctl start minicloud-tgtd"
    assert Told().starting("mariadb") == "systemctl start mariadb"


LISTENER = 'LISTEN 0 1024 127.0.0.1:{port} 0.0.0.0:* users:(("{program}",pid={pid},fd=10))\n'
EC2, IDENTITY, COMPUTE, IMAGE = 8773, 5000, 8774, 9292


def listening(listeners: Mapping[int, tuple[str, int]]) -> Told:
    """A host where these programs and processes listen."""
    lines = [
        LISTENER.format(port=port, program=program, pid=pid)
        for port, (program, pid) in listeners.items()
    ]
    return Told({"ss": "".join(lines)})


def test_ports_are_ours_when_who_holds_the_daemons_lock_listens(tmp_path: pathlib.Path) -> None:
    me = ("python", os.getpid())
    with living(tmp_path, "api"):
        seen = look("ports", listening(dict.fromkeys((EC2, IDENTITY, COMPUTE, IMAGE), me)))
    assert [one.state for one in seen] == [WELL] * 4


def test_ports_that_nobody_or_a_stranger_listens_on_are_named(tmp_path: pathlib.Path) -> None:
    me = ("python", os.getpid())
    with living(tmp_path, "api"):
        seen = look("ports", listening({EC2: ("nginx", 12), COMPUTE: me, IMAGE: me}))
    failures = {one.about: one for one in seen if one.state == FAILED}
    assert set(failures) == {"[api] ec2_port", "[openstack] identity_port"}
    assert "taken by nginx" in failures["[api] ec2_port"].text
    assert "kill 12" in failures["[api] ec2_port"].mend
    assert "start minicloud-api" in failures["[openstack] identity_port"].mend


def test_ports_of_daemons_that_are_not_here_are_not_asked_for(tmp_path: pathlib.Path) -> None:
    with living(tmp_path, "scheduler"):
        assert look("ports", listening({})) == []


# --- disks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disk", "words"),
    [
        (FileSystem(7, GIB, 100 * GIB, 900, 1000, False), "only 1.0 of 100.0 GiB free"),
        (FileSystem(7, 50 * GIB, 100 * GIB, 9, 1000, False), "only 9 of 1000 inodes"),
        (FileSystem(7, 50 * GIB, 100 * GIB, 900, 1000, True), "can only be read"),
    ],
)
def test_disk_that_is_full_or_read_only_is_named(
    tmp_path: pathlib.Path, disk: FileSystem, words: str
) -> None:
    host = Told()
    host.disks = {f"{tmp_path}/volumes": disk}
    seen = only(look("disk", host))
    assert seen.about == f"{tmp_path}/volumes"
    assert words in seen.text


def test_disk_space_counts_where_it_is_much_and_where_the_disk_is_small() -> None:
    host = Told()
    host.disks = {
        config.CONF.volume.path: FileSystem(7, 20 * GIB, 9000 * GIB, 0, 0, False),
        config.CONF.objectstore.path: FileSystem(8, GIB // 2, GIB, 0, 0, False),
    }
    assert {one.state for one in look("disk", host)} == {WELL}


def mounted(*places: tuple[str, str]) -> Told:
    host = Told()
    host.files["/proc/self/mountinfo"] = "".join(
        f"23 1 8:1 / {place} rw,relatime shared:1 - {kind} source rw\n" for place, kind in places
    )
    return host


def test_mounts_in_memory_are_named(tmp_path: pathlib.Path) -> None:
    seen = look("mounts", mounted(("/", "ext4"), (f"{tmp_path}/volumes", "tmpfs")))
    assert only(seen).about == f"{tmp_path}/volumes"
    assert only(seen, WELL).text == "ext4 at /"


def test_mounts_over_the_network_are_none_for_sqlite(
    tmp_path: pathlib.Path, options: Options
) -> None:
    host = mounted(("/", "ext4"), ("/shared\\040disk", "nfs4"))
    options("database", connection="sqlite:////shared disk/minicloud.sqlite")
    assert "SQLite" in only(look("mounts", host)).text
    options("database", connection="mysql+pymysql://root@localhost/minicloud")
    assert {one.state for one in look("mounts", host)} == {WELL}


# --- the database --------------------------------------------------------------------------------


def test_database_that_takes_a_transaction_is_well_and_keeps_nothing(database: str) -> None:
    assert only(look("database"), WELL).about == "sqlite"
    with engine().connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(models.Request)) == 0


def test_database_whose_file_is_gone_is_named_and_not_made(
    tmp_path: pathlib.Path, options: Options
) -> None:
    options("database", connection=f"sqlite:///{tmp_path}/gone.sqlite")
    for name in ("database", "schema", "durability", "daemons", "mtu"):
        seen = look(name, Told({"ip": "[]"}))
        assert {one.state for one in seen} <= {FAILED, UNSEEN}
    assert "db sync" in only(look("database")).mend
    assert not (tmp_path / "gone.sqlite").exists()


def test_database_that_another_process_holds_is_named(database: str, options: Options) -> None:
    options("database", lock_timeout_s=0.1)
    file = database.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        seen = only(look("database"))
    assert "locked" in seen.text
    assert seen.mend == f"fuser -v {file}"


def test_database_server_that_is_away_is_named(options: Options) -> None:
    options("database", connection="mysql+pymysql://root:secret@127.0.0.1:1/minicloud")
    seen = only(look("database"))
    assert "refused" in seen.text
    assert "secret" not in seen.text
    assert seen.mend == "systemctl start mariadb"
    forget_engines()


@pytest.mark.parametrize(
    ("version", "mend"), [("0001", "db sync"), ("9999", "upgrade minicloud on this host")]
)
def test_schema_of_another_release_is_named(database: str, version: str, mend: str) -> None:
    assert only(look("schema"), WELL)
    with engine().begin() as connection:
        connection.execute(sa.text(f"UPDATE alembic_version SET version_num = '{version}'"))
    assert only(look("schema")).mend.endswith(mend)


GOOD = {
    "sqlite": {"journal_mode": "wal", "synchronous": "2"},
    "mysql": {
        "innodb_flush_log_at_trx_commit": "1",
        "sync_binlog": "1",
        "innodb_doublewrite": "ON",
        "log_bin": "ON",
    },
    "postgresql": {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"},
}


@pytest.mark.parametrize(
    ("engine", "name", "bad"),
    [
        ("sqlite", "journal_mode", "delete"),
        ("sqlite", "synchronous", "1"),
        ("mysql", "innodb_flush_log_at_trx_commit", "2"),
        ("mysql", "sync_binlog", "0"),
        ("mysql", "innodb_doublewrite", "OFF"),
        ("postgresql", "fsync", "off"),
        ("postgresql", "synchronous_commit", "off"),
        ("postgresql", "full_page_writes", "off"),
    ],
)
def test_durability_that_is_given_up_for_speed_is_named(engine: str, name: str, bad: str) -> None:
    assert {one.state for one in shared.durable(engine, GOOD[engine])} == {WELL}
    assert only(list(shared.durable(engine, GOOD[engine] | {name: bad}))).about == name


def test_durability_of_a_log_that_is_not_written_does_not_matter() -> None:
    found = GOOD["mysql"] | {"sync_binlog": "0", "log_bin": "OFF"}
    assert {one.state for one in shared.durable("mysql", found)} == {WELL}


def test_durability_is_asked_of_sqlite_itself(database: str) -> None:
    assert states(look("durability")) == {"journal_mode": WELL, "synchronous": WELL}


@pytest.mark.parametrize(
    ("server", "given_up"),
    [
        ("mariadb", ["innodb_flush_log_at_trx_commit"]),
        ("postgresql", ["fsync", "synchronous_commit", "full_page_writes"]),
    ],
)
def test_durability_and_clock_are_asked_of_a_server_itself(
    request: pytest.FixtureRequest, options: Options, server: str, given_up: list[str]
) -> None:
    options("database", connection=request.getfixturevalue(server))
    found = look("durability")
    assert [one.about for one in found if one.state == FAILED] == given_up  # by the tests' own
    assert states(look("clock")) == {"this host": WELL}
    forget_engines()


@pytest.mark.parametrize(
    ("before_s", "after_s", "words"),
    [
        (-0.1, 0.1, "within 0.1 s"),
        (-8.0, 9.0, "within 9.0 s"),  # a slow answer proves nothing
        (3600.0, 3600.5, "3600 s ahead"),
        (-3600.5, -3600.0, "3600 s behind"),
    ],
)
def test_clock_is_off_only_by_what_the_answers_time_does_not_explain(
    before_s: float, after_s: float, words: str
) -> None:
    seen = shared.skewed("this host", before_s, after_s)
    assert words in seen.text
    assert (seen.state == FAILED) == ("3600" in words)


# --- broker and daemons --------------------------------------------------------------------------


def test_broker_that_is_away_is_named_without_its_password(options: Options) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        port = probe.getsockname()[1]
        options("rpc", transport_url=f"rabbit://user:secret@127.0.0.1:{port}/mine")
        seen = only(look("broker"))
    assert f"127.0.0.1:{port}/mine" in seen.text
    assert "secret" not in seen.text
    assert seen.mend == "systemctl start rabbitmq-server"


def test_broker_is_none_where_daemons_share_a_process(options: Options) -> None:
    options("rpc", transport_url="local://")
    assert look("broker") == []


@pytest.fixture
def beating(cloud: InProcessCloud) -> InProcessCloud:
    """A cloud each of whose daemons has a heartbeat."""
    cloud.volume("h1")
    cloud.wait(lambda: all(service.alive for service in hosts.services(context.admin())))
    return cloud


def test_daemons_answer_each_for_itself(beating: InProcessCloud) -> None:
    seen = look("daemons")
    ids = ("compute@h1", "network@h1", "scheduler@h1", "volume@h1")
    assert states(seen) == dict.fromkeys(ids, WELL)
    assert "epoch 1" in seen[0].text


def test_daemons_that_were_stopped_are_named_with_their_host(beating: InProcessCloud) -> None:
    beating.stop("network@h1")
    seen = only(look("daemons"))
    assert (seen.about, seen.text) == ("network@h1", "it was stopped, or has only just begun")
    assert seen.mend == "on h1: systemctl start minicloud-network"


def test_daemons_that_do_not_hear_are_named(beating: InProcessCloud, options: Options) -> None:
    options("rpc", ask_timeout_s=1)
    beating.lives["network@h1"]._server.stop()  # its heartbeat goes on
    seen = only(look("daemons"))
    assert seen.about == "network@h1"
    assert "does not answer" in seen.text


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"release": "0.0.9"}, f"it runs 0.0.9, this is {__version__}"),
        ({"epoch": 7}, "who answers is of epoch 7, its row of 1"),
        ({"clock": 0.0}, "s behind"),
    ],
)
def test_daemons_that_are_not_what_their_row_says_are_named(
    beating: InProcessCloud,
    monkeypatch: pytest.MonkeyPatch,
    answer: dict[str, object],
    words: str,
) -> None:
    true = work.pong
    monkeypatch.setattr(work, "pong", lambda me: true(me) | answer)
    seen = look("daemons")
    assert {one.state for one in seen} == {FAILED}
    assert all(words in one.text for one in seen)


def test_daemons_of_a_release_that_cannot_be_asked_are_named(beating: InProcessCloud) -> None:
    _forget_interface()
    assert {one.text for one in look("daemons")} == {
        f"it runs an older release, this is {__version__}"
    }


@transaction
def _forget_interface(tx: Tx) -> None:
    tx.changed(sa.update(models.Host).values(version="1.0"))


def test_daemons_of_one_process_are_known_by_their_heartbeat(
    beating: InProcessCloud, options: Options
) -> None:
    options("rpc", transport_url="local://")
    assert {one.text for one in look("daemons")} == {"has a heartbeat"}
    options("rpc", transport_url="fake://")


# --- the data plane ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Running hypervisor: QEMU 7.2.22\nRunning against daemon: 9.0.0\n", WELL),
        (complaint("error: failed\nerror: Failed to connect socket to 'x': No such file"), FAILED),
        (complaint("error: Failed to connect socket to 'x': Permission denied"), UNSEEN),
        (complaint("it is not installed", 127), UNSEEN),
    ],
)
def test_libvirt_is_asked_by_virsh(said: str | Exception, state: str) -> None:
    assert only(look("libvirt", Told({"virsh": said})), state)


@pytest.fixture
def served(database: str) -> models.Network:
    """A network that host1 serves."""
    networks.create(context.admin(), name="private", cidr="10.0.0.0/24")
    return _served()


@transaction
def _served(tx: Tx) -> models.Network:
    network = tx.scalars(sa.select(models.Network)).one()
    tx.changed(sa.update(models.Network).values(host="host1"))
    return network


def test_dnsmasq_of_a_network_lives_or_is_named(
    served: models.Network, tmp_path: pathlib.Path
) -> None:
    assert only(look("dnsmasq")).about == "private"
    directory = tmp_path / "networks" / f"mc-test-net{served.number}"
    directory.mkdir(parents=True)
    pid = directory / "dnsmasq.pid"
    argv = ["dnsmasq", "-c", "print(flush=True); input()", f"--pid-file={pid}"]
    with subprocess.Popen(
        argv, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before it speaks, /proc may not show its arguments yet
        pid.write_text(str(process.pid))
        assert only(look("dnsmasq"), WELL).about == "private"
        process.kill()
    assert only(look("dnsmasq")).mend == "systemctl restart minicloud-network"


def devices(bridge: int, port: int, uplink: int) -> Told:
    """The host's devices with their MTUs, as `ip -json link` tells them."""
    listing = [
        {"ifname": "mc-test-n1", "mtu": bridge},
        {"ifname": "mc-test-g1", "mtu": port, "master": "mc-test-n1"},
        {"ifname": "eth0", "mtu": uplink},
        {"ifname": "docker0", "mtu": 576},
        {"ifname": "veth1", "mtu": 576, "master": "docker0"},
    ]
    return Told({"ip -json link": json.dumps(listing)})


@pytest.mark.parametrize(
    ("mtus", "about"),
    [
        ((1500, 1500, 1500), None),
        ((1400, 1500, 1500), "mc-test-n1"),
        ((1500, 1400, 1500), "mc-test-g1"),
        ((1500, 1500, 1400), "eth0"),
    ],
)
def test_mtu_that_is_too_small_is_named(
    served: models.Network, options: Options, mtus: tuple[int, int, int], about: str | None
) -> None:
    options("network", interface="eth0")
    host = devices(*mtus)
    assert (served.number, served.mtu) == (1, 1500)
    seen = look("mtu", host)
    assert states(seen) == ({"mc-test-n1": WELL} if about is None else {about: FAILED})
    assert about is None or only(seen).mend == f"ip link set dev {about} mtu 1500"


def test_mtu_of_a_bridge_that_is_gone_is_named(served: models.Network) -> None:
    assert only(look("mtu", Told({"ip": "[]"}))).about == "mc-test-n1"


ADDRESSES = json.dumps(
    [
        {"ifname": "eth0", "addr_info": [{"local": "192.168.9.1", "prefixlen": 24}]},
        {"ifname": "mc-test-p1", "addr_info": [{"local": "100.126.0.2", "prefixlen": 31}]},
    ]
)
QUESTION = "ip -json route get 192.0.2.1 from 100.126.0.3 iif mc-test-p1"


def routing(answer: str | Exception, forward: str = "1", bridged: str = "1") -> Told:
    host = Told({"ip -json -4 addr show": ADDRESSES, QUESTION: answer})
    host.files = {
        "/proc/sys/net/ipv4/ip_forward": f"{forward}\n",
        "/proc/sys/net/bridge/bridge-nf-call-iptables": f"{bridged}\n",
    }
    return host


@pytest.mark.parametrize(
    ("host", "mend"),
    [
        (routing('[{"dev":"eth0"}]'), None),
        (routing('[{"dev":"eth1"}]'), "set [network] interface = eth1"),
        (
            routing(complaint("RTNETLINK answers: Invalid cross-device link")),
            "sysctl -w net.ipv4.conf.mc-test-p1.rp_filter=2",
        ),
        (
            routing(complaint("RTNETLINK answers: Network is unreachable")),
            "ip route replace default dev eth0 via GATEWAY",
        ),
        (routing("", forward="0"), "sysctl -w net.ipv4.ip_forward=1"),
        (
            routing('[{"dev":"eth0"}]', bridged="0"),
            "modprobe br_netfilter; sysctl -w net.bridge.bridge-nf-call-iptables=1",
        ),
    ],
)
def test_forwarding_that_loses_guests_packets_is_named(
    options: Options, host: Told, mend: str | None
) -> None:
    options("network", interface="eth0")
    seen = look("forwarding", host)
    assert [one.mend for one in seen if one.state == FAILED] == ([mend] if mend else [])


def chain(policy: str, name: str = "FORWARD", table: str = "filter") -> dict[str, object]:
    made = {"family": "ip", "table": table, "name": name, "hook": "forward", "policy": policy}
    return {"chain": made}


def rule(*statements: dict[str, object], chain: str = "FORWARD") -> dict[str, object]:
    return {"rule": {"family": "ip", "table": "filter", "chain": chain, "expr": [*statements]}}


def matching(key: str, device: str) -> dict[str, object]:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": device}}


ACCEPT: dict[str, object] = {"accept": None}
IN, OUT = matching("iifname", "mc-test-*"), matching("oifname", "mc-test-*")
COMMENT: dict[str, object] = {"xt": {"type": "match", "name": "comment"}}
JUMP: dict[str, object] = {"jump": {"target": "DOCKER-USER"}}


@pytest.mark.parametrize(
    ("ruleset", "drops"),
    [
        ([], False),
        ([chain("accept")], False),
        ([chain("drop")], True),
        ([chain("accept"), rule({"counter": None}, {"drop": None})], True),
        ([chain("accept"), rule({"reject": {"type": "icmpx"}})], True),
        ([chain("accept"), rule(COMMENT, {"drop": None})], False),
        ([chain("drop"), rule(ACCEPT)], False),
        ([chain("drop"), rule(IN, ACCEPT)], True),
        ([chain("drop"), rule(IN, ACCEPT), rule(OUT, {"counter": None}, ACCEPT)], False),
        ([chain("drop"), rule(matching("iifname", "eth0"), ACCEPT), rule(OUT, ACCEPT)], True),
        ([chain("accept"), rule({"drop": None}), rule(IN, ACCEPT), rule(OUT, ACCEPT)], True),
        # as Docker recommends it
        (
            [
                *(chain("drop"), rule(JUMP)),
                *(rule(IN, ACCEPT, chain="DOCKER-USER"), rule(OUT, ACCEPT, chain="DOCKER-USER")),
                *(rule({"return": None}, chain="DOCKER-USER"), rule({"drop": None})),
            ],
            False,
        ),
        ([chain("drop", "forward", "mc-othe-network")], False),  # another cloud's own
    ],
)
def test_firewalls_are_in_the_way_when_they_close_and_do_not_know_our_devices(
    ruleset: list[dict[str, object]], drops: bool
) -> None:
    host = Told({"nft": json.dumps({"nftables": ruleset})})
    host.files["/proc/net/ip_tables_names"] = ""
    [seen] = look("firewalls", host)
    assert (seen.state == FAILED) == drops
    assert not drops or seen.mend.startswith("iptables -I FORWARD -i mc-test-+ -j ACCEPT && ")


PASSING = "".join(f"-A FORWARD {way} mc-test-+ -j ACCEPT\n" for way in ("-i", "-o"))


@pytest.mark.parametrize(
    ("rules", "state"),
    [
        ("-P FORWARD DROP\n", FAILED),
        ("-P FORWARD ACCEPT\n", WELL),
        (f"-P FORWARD DROP\n{PASSING}", WELL),
    ],
)
def test_firewalls_of_the_old_kind_are_looked_at_too(rules: str, state: str) -> None:
    host = Told({"nft": '{"nftables": []}', "iptables-legacy": rules})
    host.files["/proc/net/ip_tables_names"] = "nat\nfilter\n"
    assert only(look("firewalls", host), state)


# --- running them --------------------------------------------------------------------------------


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> dict[str, check.Check]:
    """No checks but those a test declares."""
    made: dict[str, check.Check] = {}
    monkeypatch.setattr(check, "CHECKS", made)
    return made


def test_a_check_that_hangs_or_breaks_off_is_unseen_and_the_others_go_on(
    checks: dict[str, check.Check],
) -> None:
    release = threading.Event()

    @check.check("hangs")
    def hangs(host: Host) -> Iterator[Seen]:
        yield check.well("before", "")
        release.wait(60)

    @check.check("breaks")
    def breaks(host: Host) -> Iterator[Seen]:
        yield check.failed("before", "broken", "mend it")
        raise errors.Unavailable(reason="it is away")

    @check.check("fine")
    def fine(host: Host) -> Iterator[Seen]:
        yield check.well("it", "stands")

    seen = check.examine(Told(), limit_s=0.5)
    release.set()
    assert [(one.check, one.about, one.state) for one in seen] == [
        ("hangs", "before", WELL),
        ("hangs", "", UNSEEN),
        ("breaks", "before", FAILED),
        ("breaks", "", UNSEEN),
        ("fine", "it", WELL),
    ]
    assert seen[3].text == "it is away"
    assert check.status(seen) == 1
    assert check.status([one for one in seen if one.state != FAILED]) == 2
    assert check.status([seen[-1]]) == 0


def test_the_command_prints_the_cause_and_what_mends_it_and_exits_by_the_worst(
    checks: dict[str, check.Check], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    @check.check("wires")
    def wires_(host: Host) -> Iterator[Seen]:
        yield check.well("eth0", "up")
        yield check.failed("eth1", "down\033[2J", "ip link set eth1 up")

    (tmp_path / "minicloud.conf").write_text("[DEFAULT]\n")
    words = ["--config-file", str(tmp_path / "minicloud.conf"), "doctor"]
    assert app.run(words) == 1
    assert capsys.readouterr().out.splitlines() == [
        "well    wires  eth0  up",
        "FAILED         eth1  down?[2J",
        "                 mend: ip link set eth1 up",
        "1 well, 1 failed, 0 not looked at",
    ]
    assert app.run([*words, "--json"]) == 1
    [_, second] = json.loads(capsys.readouterr().out)
    assert (second["check"], second["state"]) == ("wires", "FAILED")
