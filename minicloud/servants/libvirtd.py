"""A libvirtd and a virtlogd of this cloud's own: where their files are, how they are started.

Both run in a mount namespace in which libvirt's usual places (/etc/libvirt, /run/libvirt, ...)
are directories under the state directory, so neither a libvirtd of the host nor one of another
cloud is touched.  They live in the network namespace they are started in.

Who may read and write what, so that nobody needs CAP_CHOWN or CAP_DAC_OVERRIDE:

    libvirtd    root; changes no owners (dynamic_ownership = 0)
    QEMU        libvirt-qemu; may read what has the group libvirt-qemu, and write its own disk
    virtlogd    the daemons' user: what it writes (mode 0600, which libvirt fixes) belongs to that
                user, also after a rotation
    compute     the daemons' user, with the groups libvirt-qemu and (of libvirtd's socket) libvirt:
                who may talk to libvirtd is root, so no other daemon has that group

Guests do not notice a stop of libvirtd.  A stop of virtlogd ends the recording of every running
guest's console until its next start (the pipes end in that process): stop it only with the guests.

Standard library only: this is read before anything is installed.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import shutil
import uuid
from pathlib import Path

QEMU_GROUP = "libvirt-qemu"
SOCKET_GROUP = "libvirt"  # Debian's own, for those who may talk to libvirtd
CONSOLE_BYTES = 256 * 1024  # of the present console log; as much again of the one before
PLACES = {"etc": "/etc/libvirt", "run": "/run/libvirt", "var": "/var/lib/libvirt",
          "log": "/var/log/libvirt", "cache": "/var/cache/libvirt"}  # fmt: skip

LIBVIRTD_CONF = """\
unix_sock_group = "{group}"
unix_sock_rw_perms = "0660"
unix_sock_ro_perms = "0660"
auth_unix_rw = "none"
host_uuid = "{host_uuid}"
log_outputs = "3:stderr"
"""

QEMU_CONF = """\
user = "libvirt-qemu"
group = "libvirt-qemu"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "logd"
max_core = 0
"""

VIRTLOGD_CONF = """\
log_outputs = "3:stderr"
max_size = {max_size}
max_backups = 1
"""

PLACES_SCRIPT = """\
#!/bin/sh
# Written anew at every start.  The usual places of libvirt become this cloud's own; what is
# mounted here is seen by {name} and its children only.
set -e
cd {home}
{binds}
"""

# A libvirtd that is killed just before it starts a QEMU shows that domain as starting for ever,
# and can neither start nor end it: its note of that is removed before the next one reads it, and
# so are the directories of guests of which there is no note (any more).
FORGET_SCRIPT = """\
for note in $(grep -ls "<domstatus state='paused' reason='starting up' pid='0'" run/qemu/*.xml); do
    guest=$(basename "$note" .xml)
    pid=$(cat "run/qemu/$guest.pid" 2>/dev/null || echo none)
    if grep -qsz "^guest=$guest," "/proc/$pid/cmdline"; then kill -9 "$pid"; fi
    rm -f "run/qemu/$guest.pid" "$note"
done
for left in var/qemu/domain-*; do
    grep -qsF "/${left##*/}" run/qemu/*.xml || rm -rf "$left"
done
"""

# Its own /sys shows the devices of this network namespace; without the empty cgroup2 mount of a
# hybrid host, in which libvirt would look for controllers.  A /dev/kvm that QEMU's user cannot
# open makes libvirt probe it again at every start (20 s and more): here is one that it can.
LIBVIRTD_SCRIPT = """\
mkdir -p cgroup dev
umount -l /sys/fs/cgroup/unified 2>/dev/null || true
mount --rbind /sys/fs/cgroup cgroup
mount -t sysfs sysfs /sys 2>/dev/null || true # busy: `ip netns exec` has done the same
mount --rbind cgroup /sys/fs/cgroup
umount -l cgroup
# groups of guests that ended while nobody looked; those in use cannot be removed
find /sys/fs/cgroup -depth -type d -path "*/qemu-*-mc-$MINICLOUD_TAG-*" \\
    -exec rmdir {} + 2>/dev/null || true
if [ -c /dev/kvm ]; then
    mount -t tmpfs -o mode=0755,size=4k tmpfs dev
    mknod dev/kvm c 10 232
    chown root:kvm dev/kvm
    chmod 0660 dev/kvm
    mount --bind dev/kvm /dev/kvm
fi
exec libvirtd --config /etc/libvirt/libvirtd.conf --pid-file /run/libvirt/libvirtd.pid
"""

# virtlogd serves its own user only, and libvirtd is root.  In a user namespace that knows nobody
# but this process, the kernel calls every other user by the overflow uid, and this one has that
# number too; who may connect is said by the socket's mode, 0700.  sys_admin is what makes such a
# namespace possible also where users must not; nothing of it is left outside.
VIRTLOGD_SCRIPT = """\
nobody=$(cat /proc/sys/kernel/overflowuid)
export XDG_RUNTIME_DIR=/run/libvirt/virtlogd
exec setpriv --reuid={user} --regid={group} --clear-groups \\
    --inh-caps=-all,+sys_admin --ambient-caps=-all,+sys_admin \\
    unshare --user --map-user=$nobody --map-group=$nobody \\
    virtlogd --config /etc/libvirt/virtlogd.conf --pid-file /run/libvirt/virtlogd/pid
"""


def prepare(state: Path, instances: Path, user: str) -> None:
    """Directories, configuration and start scripts are there, with the owners they need.

    Repeating it writes the same again; nothing that a running guest needs is changed.  `user` is
    the daemons' user.  Needs root.
    """
    home = state / "libvirt"
    _forget_former_boot(home)
    owner, group = pwd.getpwnam(user), grp.getgrgid(pwd.getpwnam(user).pw_gid).gr_name
    qemu = grp.getgrnam(QEMU_GROUP).gr_gid
    for place in PLACES:
        _directory(home / place, 0, 0, 0o755)
    _directory(home / "run" / "virtlogd", owner.pw_uid, owner.pw_gid, 0o700)
    _link(home / "run" / "virtlogd-sock", "virtlogd/libvirt/virtlogd-sock")  # as libvirtd asks
    _directory(home / "log" / "qemu", owner.pw_uid, owner.pw_gid, 0o755)
    _directory(instances, owner.pw_uid, qemu, 0o2750)
    etc = home / "etc"
    host_uuid = _host_uuid(home / "host_uuid")
    (etc / "libvirtd.conf").write_text(
        LIBVIRTD_CONF.format(group=SOCKET_GROUP, host_uuid=host_uuid)
    )
    (etc / "qemu.conf").write_text(QEMU_CONF)
    (etc / "virtlogd.conf").write_text(VIRTLOGD_CONF.format(max_size=CONSOLE_BYTES))
    _script(home, "libvirtd", FORGET_SCRIPT + LIBVIRTD_SCRIPT)
    _script(home, "virtlogd", VIRTLOGD_SCRIPT.format(user=user, group=group))


def command(state: Path, tag: str, name: str) -> list[str]:
    """What to start for `name` (virtlogd, then libvirtd): stays in the foreground, one process.

    It ends on SIGTERM; its standard error is its log.  Starting libvirtd again finds the guests.
    """
    script = state / "libvirt" / f"start-{name}"
    return [
        *("env", f"MINICLOUD_TAG={tag}"),
        *("unshare", "--mount", "--propagation", "slave", str(script)),
    ]


def socket_path(state: Path) -> Path:
    """Where libvirtd of this state directory listens; it answers when this can be connected."""
    return state / "libvirt" / "run" / "libvirt-sock"


def _forget_former_boot(home: Path) -> None:
    """After a reboot of the host the files in run/ name processes that are others' now."""
    written = home / "boot_id"
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text()
    if not written.exists() or written.read_text() != boot_id:
        shutil.rmtree(home / "run", ignore_errors=True)
        home.mkdir(parents=True, exist_ok=True)
        written.write_text(boot_id)


def _directory(path: Path, uid: int, gid: int, mode: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, uid, gid)
    path.chmod(mode)


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def _host_uuid(path: Path) -> str:
    """Drawn once: two libvirtd of one machine must not look like one host to each other."""
    if not path.exists():
        path.write_text(str(uuid.uuid4()))
    return path.read_text().strip()


def _script(home: Path, name: str, rest: str) -> None:
    binds = "\n".join(
        f"mkdir -p {usual} && mount --bind {place} {usual}" for place, usual in PLACES.items()
    )
    head = PLACES_SCRIPT.format(name=name, home=shlex.quote(str(home)), binds=binds)
    path = home / f"start-{name}"
    path.write_text(head + rest)
    path.chmod(0o755)
