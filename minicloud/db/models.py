"""All tables.  Three kinds of rows, told apart in the class line: State, Synced and plain ones.

Ids are uuids of `ids.new()`; times are UTC by the database's clock; sizes carry their unit in the
name.  Every exclusivity is a UNIQUE key on a column that the release sets to NULL (or whose row
the release deletes).
"""

from __future__ import annotations

import datetime as dt
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.ext import compiler
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql import functions


def _text(length: int, charset: str) -> Any:
    """Text that compares byte by byte on every database."""
    return (
        sa.String(length)
        .with_variant(mysql.VARCHAR(length, charset=charset, collation=f"{charset}_bin"), "mysql")
        .with_variant(postgresql.VARCHAR(length, collation="C"), "postgresql")
    )


def ascii_text(length: int) -> Any:
    return _text(length, "ascii")


Id = ascii_text(64)  # ranges of ids are index ranges
Name = _text(255, "utf8mb4")
# a key of S3: up to 1024 bytes of UTF-8, in the order of bytes on every database
Key = sa.LargeBinary(1024).with_variant(mysql.VARBINARY(1024), "mysql")
Time = sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
Text = (
    sa.Text()
    .with_variant(mysql.MEDIUMTEXT(charset="utf8mb4", collation="utf8mb4_bin"), "mysql")
    .with_variant(postgresql.TEXT(collation="C"), "postgresql")
)


class now(  # noqa: N801  (reads like the SQL function it is)
    functions.FunctionElement[dt.datetime]
):
    """The database's clock, UTC, microseconds; `now(-20)` is twenty seconds ago."""

    type = Time
    inherit_cache = False

    def __init__(self, plus_s: float = 0) -> None:
        self.plus_s = float(plus_s)
        super().__init__()


@compiler.compiles(now, "sqlite")
def _now_sqlite(element: now, compiled: Any, **kw: Any) -> str:
    return f"(strftime('%Y-%m-%d %H:%M:%f', 'now', '{element.plus_s:+.3f} seconds') || '000')"


@compiler.compiles(now, "mysql")
@compiler.compiles(now, "mariadb")
def _now_mysql(element: now, compiled: Any, **kw: Any) -> str:
    return f"(utc_timestamp(6) + INTERVAL {element.plus_s:.3f} SECOND)"


@compiler.compiles(now, "postgresql")
def _now_postgresql(element: now, compiled: Any, **kw: Any) -> str:
    return f"(timezone('utc', clock_timestamp()) + INTERVAL '{element.plus_s:.3f} seconds')"


class Base(DeclarativeBase):
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Name,
        dt.datetime: Time,
        bool: sa.Boolean(create_constraint=False),
    }
    __table_args__: Any = {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"}  # noqa: RUF012


def table_args(*items: Any) -> tuple[Any, ...]:
    return (*items, {"mysql_engine": "InnoDB", "mysql_charset": "utf8mb4"})


class State:
    """Columns of a state row: moved only by `states.move`.

    `rest` is the settled state its host last truly showed; `attempts` counts failures and deaths
    of the present working state, `waits` how often another part was away; `not_before` holds the
    next try back; `reason` says why the row is in `error`, or why it waits.
    """

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    state: Mapped[str] = mapped_column(ascii_text(20))
    rest: Mapped[str | None] = mapped_column(ascii_text(20))
    generation: Mapped[int] = mapped_column(default=1)
    request_id: Mapped[str] = mapped_column(Id)
    reason: Mapped[str | None] = mapped_column(Text)
    attempts: Mapped[int] = mapped_column(default=0)
    waits: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[dt.datetime | None]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    updated_at: Mapped[dt.datetime] = mapped_column(default=now())


class Synced:
    """Columns of a synced row: each change raises `wanted`; see `Applied`."""

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    wanted: Mapped[int] = mapped_column(default=1)


class Cloud(Base):
    """One row: the identity every artefact of this cloud carries."""

    __tablename__ = "cloud"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


# --- authority ------------------------------------------------------------------------------


class User(Base):
    __tablename__ = "users"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_admin: Mapped[bool] = mapped_column(default=False)
    access_key: Mapped[str] = mapped_column(Id, unique=True)
    secret: Mapped[str] = mapped_column(Text)  # encrypted, see auth/secrets.py
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    password: Mapped[str | None] = mapped_column(ascii_text(200))  # see auth/passwords.py
    # the generated password, encrypted like `secret`, until the user sets another one
    kept_password: Mapped[str | None] = mapped_column(Text)
    # raised with each new password: tokens of an older one are good for nothing
    token_epoch: Mapped[int] = mapped_column(default=1, server_default="1")


class RevokedToken(Base):
    """A token that somebody gave back before its time, by its own id; kept until it would have
    expired."""

    __tablename__ = "revoked_tokens"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    expires_at: Mapped[dt.datetime] = mapped_column(index=True)


class Project(Base):
    __tablename__ = "projects"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    manager_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("users.id"))
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Membership(Base):
    __tablename__ = "memberships"
    project_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("projects.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(
        Id, sa.ForeignKey("users.id"), primary_key=True, index=True
    )


class Quota(Base):
    """A project's own limit of one resource; -1 is unlimited."""

    __tablename__ = "quotas"
    project_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("projects.id"), primary_key=True)
    resource: Mapped[str] = mapped_column(ascii_text(40), primary_key=True)
    value: Mapped[int]


class KeyPair(Base):
    __tablename__ = "key_pairs"
    __table_args__ = table_args(sa.UniqueConstraint("project_id", "name"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id)
    user_id: Mapped[str] = mapped_column(Id)
    name: Mapped[str]
    kind: Mapped[str] = mapped_column(ascii_text(20))  # rsa, ed25519
    fingerprint: Mapped[str]
    public_key: Mapped[str] = mapped_column(Text)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Request(Base):
    """One row for every accepted request: what makes repeating it harmless (`work` of EC2's
    client tokens too)."""

    __tablename__ = "requests"
    __table_args__ = table_args(sa.UniqueConstraint("project_id", "token"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    user_id: Mapped[str] = mapped_column(Id)
    project_id: Mapped[str] = mapped_column(Id)
    action: Mapped[str] = mapped_column(ascii_text(80))
    token: Mapped[str | None] = mapped_column(Name)
    argument_hash: Mapped[str] = mapped_column(ascii_text(64))
    result: Mapped[str] = mapped_column(Text, default="[]")  # JSON list of ids
    created_at: Mapped[dt.datetime] = mapped_column(default=now(), index=True)


class Event(Base):
    """One row for every move of a state row, written in the move's own transaction."""

    __tablename__ = "events"
    __table_args__ = table_args(sa.Index("events_resource", "resource_id", "id"))
    id: Mapped[int] = mapped_column(
        sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(ascii_text(40))
    resource_id: Mapped[str] = mapped_column(Id)
    request_id: Mapped[str] = mapped_column(Id)
    who: Mapped[str] = mapped_column(Id)
    from_state: Mapped[str | None] = mapped_column(ascii_text(20))
    to_state: Mapped[str] = mapped_column(ascii_text(20))
    reason: Mapped[str | None] = mapped_column(Text)
    at: Mapped[dt.datetime] = mapped_column(default=now(), index=True)


class Tag(Base):
    """A label of a project's on one of its things, deleted with it.  `kind` is EC2's word for
    the thing: instance, volume, image, security-group, key-pair."""

    __tablename__ = "tags"
    __table_args__ = table_args(
        sa.UniqueConstraint("resource_id", "name"), sa.Index("tags_project", "project_id", "id")
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    project_id: Mapped[str] = mapped_column(Id)
    kind: Mapped[str] = mapped_column(ascii_text(20))
    resource_id: Mapped[str] = mapped_column(Id)
    name: Mapped[str]
    value: Mapped[str] = mapped_column(Text)


# --- hosts ----------------------------------------------------------------------------------


class Host(Base):
    """One row per (host, daemon), id `compute@h1`; `epoch` is the living process's number, and
    `beats` counts the heartbeats of all of them: it never falls.

    `fenced_at`: the operator has said that the host is dead or cut off, and it has not come back
    since.  `former_machine_id` is the machine that had the name before it was rebound; an empty
    `machine_id` is filled by the next other machine that takes the name.
    """

    __tablename__ = "hosts"
    __table_args__ = table_args(sa.Index("hosts_daemon", "daemon"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    host: Mapped[str] = mapped_column(Id)
    daemon: Mapped[str] = mapped_column(ascii_text(20))
    epoch: Mapped[int] = mapped_column(default=1)
    machine_id: Mapped[str] = mapped_column(Id)
    boot_id: Mapped[str] = mapped_column(Id, default="")
    version: Mapped[str] = mapped_column(ascii_text(20), default="1.0")
    zone: Mapped[str] = mapped_column(default="nova")
    disabled: Mapped[bool] = mapped_column(default=False)
    vcpus: Mapped[int] = mapped_column(default=0)
    memory_mib: Mapped[int] = mapped_column(default=0)
    disk_gib: Mapped[int] = mapped_column(default=0)
    hypervisor: Mapped[str] = mapped_column(ascii_text(40), default="")
    heartbeat: Mapped[dt.datetime | None]
    beats: Mapped[int] = mapped_column(sa.BigInteger, default=0, server_default="0")
    created_at: Mapped[dt.datetime] = mapped_column(default=now())
    fenced_at: Mapped[dt.datetime | None]
    former_machine_id: Mapped[str | None] = mapped_column(Id)


class Applied(Base):
    """How far a host (a daemon's `hosts.id`) has applied a synced row.

    For a security group the row is there before the host's packet filter first knows the group,
    and goes after the filter has forgotten it.
    """

    __tablename__ = "applied"
    thing: Mapped[str] = mapped_column(Id, primary_key=True)
    host: Mapped[str] = mapped_column(Id, primary_key=True, index=True)
    applied: Mapped[int]


# --- networks -------------------------------------------------------------------------------


class Network(Synced, Base):
    """Synced on the host that serves it; `number` names its bridge and namespace."""

    __tablename__ = "networks"
    number: Mapped[int] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(ascii_text(20))
    cidr: Mapped[str] = mapped_column(ascii_text(43))
    gateway: Mapped[str] = mapped_column(ascii_text(39))
    mtu: Mapped[int] = mapped_column(default=1500)
    dns: Mapped[str] = mapped_column(default="")  # addresses, comma between; "" = none outside
    project_id: Mapped[str | None] = mapped_column(Id, index=True)
    host: Mapped[str | None] = mapped_column(Id, index=True)
    last_number: Mapped[int] = mapped_column(sa.BigInteger, default=0)  # address given last
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Address(Base):
    """A booked fixed address.  `number` is the IPv4 address as an integer; `since` and `leaving`
    are values of the network's `wanted`: what joins waits for `applied >= since`, what leaves is
    deleted with `applied >= leaving` (DESIGN, rule 9)."""

    __tablename__ = "addresses"
    __table_args__ = table_args(
        sa.UniqueConstraint("network_id", "number"),
        sa.Index("addresses_leaving", "network_id", "leaving"),
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    network_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("networks.id"))
    number: Mapped[int] = mapped_column(sa.BigInteger)
    address: Mapped[str] = mapped_column(ascii_text(39))
    mac: Mapped[str] = mapped_column(ascii_text(17), unique=True)
    tap: Mapped[str] = mapped_column(ascii_text(15), unique=True)
    instance_id: Mapped[str] = mapped_column(Id, index=True)
    hostname: Mapped[str] = mapped_column(ascii_text(63))
    since: Mapped[int]
    leaving: Mapped[int | None]


class SecurityGroup(Synced, Base):
    """Synced on every compute host with a member, or with a member of a group that names it."""

    __tablename__ = "security_groups"
    __table_args__ = table_args(sa.UniqueConstraint("project_id", "name"))
    project_id: Mapped[str] = mapped_column(Id)
    name: Mapped[str]
    description: Mapped[str]
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Rule(Base):
    """An ingress rule: from `cidr` or from the members of `source_group_id`.

    protocol: tcp, udp, icmp or -1 (all).  Ports are inclusive; for icmp they are type and code,
    -1 for any; for -1 they are null.  `same` is the whole rule in one word, unique in its group.
    """

    __tablename__ = "rules"
    __table_args__ = table_args(sa.UniqueConstraint("group_id", "same"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    group_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("security_groups.id"))
    protocol: Mapped[str] = mapped_column(ascii_text(4))
    from_port: Mapped[int | None]
    to_port: Mapped[int | None]
    cidr: Mapped[str | None] = mapped_column(ascii_text(43))
    source_group_id: Mapped[str | None] = mapped_column(
        Id, sa.ForeignKey("security_groups.id"), index=True
    )
    same: Mapped[str] = mapped_column(ascii_text(120))
    description: Mapped[str | None]


class GroupMember(Base):
    __tablename__ = "group_members"
    group_id: Mapped[str] = mapped_column(
        Id, sa.ForeignKey("security_groups.id"), primary_key=True
    )
    instance_id: Mapped[str] = mapped_column(Id, primary_key=True, index=True)


class GroupLeaving(Base):
    """An instance that was a member and whose address may still be in a packet filter: its
    bookings are kept until every host that knows the group has applied it up to `since`, a value
    of the group's `wanted`."""

    __tablename__ = "group_leavings"
    group_id: Mapped[str] = mapped_column(Id, primary_key=True)
    instance_id: Mapped[str] = mapped_column(Id, primary_key=True, index=True)
    since: Mapped[int]


# --- images and instances -------------------------------------------------------------------


class Image(State, Base):
    """`word` is an EC2 id like `ami-tty` (without its prefix: `tty`), unique by kind."""

    __tablename__ = "images"
    __table_args__ = table_args(
        sa.UniqueConstraint("kind", "word"), sa.Index("images_state", "state", "host")
    )
    name: Mapped[str]
    word: Mapped[str | None] = mapped_column(ascii_text(40))
    kind: Mapped[str] = mapped_column(ascii_text(10))  # machine, kernel, ramdisk
    project_id: Mapped[str] = mapped_column(Id, index=True)
    is_public: Mapped[bool] = mapped_column(default=False)
    architecture: Mapped[str] = mapped_column(ascii_text(20), default="x86_64")
    kernel_id: Mapped[str | None] = mapped_column(Id)
    ramdisk_id: Mapped[str | None] = mapped_column(Id)
    format: Mapped[str | None] = mapped_column(ascii_text(10))  # raw, qcow2, as inspected
    size: Mapped[int | None] = mapped_column(sa.BigInteger)  # bytes of the file
    virtual_size: Mapped[int | None] = mapped_column(sa.BigInteger)  # bytes a guest sees
    sha256: Mapped[str | None] = mapped_column(ascii_text(64))
    file: Mapped[str] = mapped_column(ascii_text(80), index=True)  # its name, never reused
    host: Mapped[str | None] = mapped_column(Id)  # of the objectstore daemon that holds the bytes
    epoch: Mapped[int] = mapped_column(default=0)  # of that daemon, while a client uploads
    location: Mapped[str | None] = mapped_column(Text)  # bucket/key it was registered from
    properties: Mapped[str | None] = mapped_column(Text)  # a JSON object of texts, its maker's own


class Flavor(Base):
    __tablename__ = "flavors"
    id: Mapped[str] = mapped_column(Id, primary_key=True)  # OpenStack's: "1" … "6"
    name: Mapped[str] = mapped_column(unique=True)
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    disk_gib: Mapped[int]


class Instance(State, Base):
    __tablename__ = "instances"
    __table_args__ = table_args(
        sa.Index("instances_project", "project_id", "state", "id"),
        sa.Index("instances_host", "host", "state"),
        sa.Index("instances_state", "state", "host"),
    )
    project_id: Mapped[str] = mapped_column(Id)
    user_id: Mapped[str] = mapped_column(Id)
    reservation_id: Mapped[str] = mapped_column(Id, index=True)
    launch_index: Mapped[int] = mapped_column(default=0)
    name: Mapped[str]
    hostname: Mapped[str] = mapped_column(ascii_text(63))
    image_id: Mapped[str] = mapped_column(Id, index=True)
    kernel_id: Mapped[str | None] = mapped_column(Id)
    ramdisk_id: Mapped[str | None] = mapped_column(Id)
    flavor: Mapped[str]
    vcpus: Mapped[int]
    memory_mib: Mapped[int]
    disk_gib: Mapped[int]
    key_name: Mapped[str | None]
    public_key: Mapped[str | None] = mapped_column(Text)
    user_data: Mapped[str | None] = mapped_column(Text)  # base64, as it came
    client_token: Mapped[str | None]
    wanted_zone: Mapped[str | None]
    host: Mapped[str | None] = mapped_column(Id)
    zone: Mapped[str | None]
    launched_at: Mapped[dt.datetime | None]
    terminated_at: Mapped[dt.datetime | None]


# --- the object store -----------------------------------------------------------------------


class Bucket(Base):
    """S3's: the name is unique in the whole cloud, `is_public` lets everybody list it."""

    __tablename__ = "buckets"
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(ascii_text(63), unique=True)
    project_id: Mapped[str] = mapped_column(Id, index=True)
    is_public: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Object(State, Base):
    """The bytes of a key, or once were: `live` is the key while this is what a GET finds.

    `headers` are those a GET answers with (JSON), `checksums` what a client gave and we checked
    (JSON: header → value); `upload_id` is that of the multipart upload it was made of.
    """

    __tablename__ = "objects"
    __table_args__ = table_args(
        sa.UniqueConstraint("bucket_id", "live"), sa.Index("objects_state", "state", "host")
    )
    bucket_id: Mapped[str] = mapped_column(Id)
    project_id: Mapped[str] = mapped_column(Id)
    key: Mapped[bytes] = mapped_column(Key)
    live: Mapped[bytes | None] = mapped_column(Key)
    is_public: Mapped[bool] = mapped_column(default=False)
    headers: Mapped[str] = mapped_column(Text, default="{}")
    checksums: Mapped[str] = mapped_column(Text, default="{}")
    size: Mapped[int | None] = mapped_column(sa.BigInteger)  # bytes
    etag: Mapped[str | None] = mapped_column(ascii_text(40))
    upload_id: Mapped[str | None] = mapped_column(Id, index=True)
    file: Mapped[str] = mapped_column(ascii_text(80), index=True)  # its name, never reused
    host: Mapped[str] = mapped_column(Id)  # of the objectstore daemon that holds the bytes


class Upload(Base):
    """A multipart upload that is neither complete nor aborted; `checksum` names its algorithm."""

    __tablename__ = "uploads"
    __table_args__ = table_args(sa.Index("uploads_bucket", "bucket_id", "id"))
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    bucket_id: Mapped[str] = mapped_column(Id)
    key: Mapped[bytes] = mapped_column(Key)
    is_public: Mapped[bool] = mapped_column(default=False)
    headers: Mapped[str] = mapped_column(Text, default="{}")
    checksum: Mapped[str | None] = mapped_column(ascii_text(20))
    checksum_type: Mapped[str | None] = mapped_column(ascii_text(20))
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


class Part(Base):
    """A part's bytes; `number` is NULL while they are coming in.  A file no row names is removed
    by the sweep."""

    __tablename__ = "parts"
    __table_args__ = table_args(
        sa.UniqueConstraint("upload_id", "number"), sa.Index("parts_host", "host", "number")
    )
    id: Mapped[str] = mapped_column(Id, primary_key=True)
    upload_id: Mapped[str] = mapped_column(Id)
    number: Mapped[int | None]
    size: Mapped[int | None] = mapped_column(sa.BigInteger)  # bytes
    etag: Mapped[str | None] = mapped_column(ascii_text(40))
    checksums: Mapped[str] = mapped_column(Text, default="{}")
    file: Mapped[str] = mapped_column(ascii_text(80), index=True)
    host: Mapped[str] = mapped_column(Id)
    created_at: Mapped[dt.datetime] = mapped_column(default=now())


# --- volumes --------------------------------------------------------------------------------


class Volume(State, Synced, Base):
    """A state row for its life, and a synced one for its export: the volume daemon of `host`
    exports it to whoever holds it (see `Attachment.since`)."""

    __tablename__ = "volumes"
    __table_args__ = table_args(
        sa.Index("volumes_project", "project_id", "state", "id"),
        sa.Index("volumes_host", "host", "state"),
        sa.Index("volumes_state", "state", "host"),
    )
    project_id: Mapped[str] = mapped_column(Id)
    user_id: Mapped[str] = mapped_column(Id)
    size_gib: Mapped[int]
    kind: Mapped[str] = mapped_column(ascii_text(20), default="standard")  # as the user calls it
    client_token: Mapped[str | None]
    wanted_zone: Mapped[str]
    host: Mapped[str | None] = mapped_column(Id)
    zone: Mapped[str | None]
    portal: Mapped[str | None] = mapped_column(ascii_text(60))  # address:port of its export


class Attachment(State, Base):
    """A volume in an instance; `host` is the instance's.

    `device` is the letter of the disk (b … z), `shown` what the user called it.  `export` names
    its export, null = by the attachment's id, and `secret` is that one's CHAP password, encrypted:
    both are new when the instance was evacuated, so that the host before is put out.  `since`: it
    is exported, and by nothing older, once the volume's `applied` has reached this.
    `holds_volume` (the volume's id) and `holds_device` (instance and letter) are null once it is
    detached.
    """

    __tablename__ = "attachments"
    __table_args__ = table_args(
        sa.Index("attachments_volume", "volume_id", "state"),
        sa.Index("attachments_instance", "instance_id", "state"),
        sa.Index("attachments_state", "state", "host"),
    )
    project_id: Mapped[str] = mapped_column(Id)
    user_id: Mapped[str] = mapped_column(Id)
    volume_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("volumes.id"))
    instance_id: Mapped[str] = mapped_column(Id, sa.ForeignKey("instances.id"))
    host: Mapped[str] = mapped_column(Id)
    device: Mapped[str] = mapped_column(ascii_text(1))
    shown: Mapped[str] = mapped_column(ascii_text(40))
    secret: Mapped[str] = mapped_column(Text)
    since: Mapped[int]
    holds_volume: Mapped[str | None] = mapped_column(Id, unique=True)
    holds_device: Mapped[str | None] = mapped_column(Id, unique=True)
    attached_at: Mapped[dt.datetime | None]
    export: Mapped[str | None] = mapped_column(Id)

    @property
    def export_id(self) -> str:
        return self.export or self.id
