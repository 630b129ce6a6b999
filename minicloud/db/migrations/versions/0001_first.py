"""The first schema, the flavors of 2011 and the identity of the cloud."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from minicloud import ids
from minicloud.db import models
from minicloud.db.migrate import create_table

revision = "0001"
down_revision = None

# name, CPUs, MiB, GiB: the original's five, and one for the tiny image
FLAVORS = (
    ("1", "m1.tiny", 1, 512, 0),
    ("2", "m1.small", 1, 2048, 20),
    ("3", "m1.medium", 2, 4096, 40),
    ("4", "m1.large", 4, 8192, 80),
    ("5", "m1.xlarge", 8, 16384, 160),
    ("6", "m1.nano", 1, 96, 0),
)


def upgrade() -> None:
    _tables()
    connection = op.get_bind()
    known = set(connection.scalars(sa.text("SELECT id FROM flavors")))
    for id, name, vcpus, memory_mib, disk_gib in FLAVORS:
        if id not in known:
            connection.execute(
                sa.text(
                    "INSERT INTO flavors (id, name, vcpus, memory_mib, disk_gib)"
                    " VALUES (:id, :name, :vcpus, :memory_mib, :disk_gib)"
                ),
                {
                    "id": id,
                    "name": name,
                    "vcpus": vcpus,
                    "memory_mib": memory_mib,
                    "disk_gib": disk_gib,
                },
            )
    if connection.scalar(sa.text("SELECT count(*) FROM cloud")) == 0:
        cloud = sa.table("cloud", sa.column("id"), sa.column("created_at"))
        connection.execute(sa.insert(cloud).values(id=ids.new(), created_at=models.now()))


def _tables() -> None:
    create_table(
        "applied",
        sa.Column("thing", models.Id, primary_key=True),
        sa.Column("host", models.Id, primary_key=True),
        sa.Column("applied", sa.Integer, nullable=False),
        sa.Index("ix_applied_host", "host"),
    )
    create_table(
        "cloud",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("created_at", models.Time, nullable=False),
    )
    create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("kind", models.ascii_text(40), nullable=False),
        sa.Column("resource_id", models.Id, nullable=False),
        sa.Column("request_id", models.Id, nullable=False),
        sa.Column("who", models.Id, nullable=False),
        sa.Column("from_state", models.ascii_text(20)),
        sa.Column("to_state", models.ascii_text(20), nullable=False),
        sa.Column("reason", models.Text),
        sa.Column("at", models.Time, nullable=False),
        sa.Index("events_resource", "resource_id", "id"),
        sa.Index("ix_events_at", "at"),
    )
    create_table(
        "flavors",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("disk_gib", sa.Integer, nullable=False),
        sa.UniqueConstraint("name"),
    )
    create_table(
        "hosts",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("host", models.Id, nullable=False),
        sa.Column("daemon", models.ascii_text(20), nullable=False),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("machine_id", models.Id, nullable=False),
        sa.Column("boot_id", models.Id, nullable=False),
        sa.Column("version", models.ascii_text(20), nullable=False),
        sa.Column("zone", models.Name, nullable=False),
        sa.Column("disabled", sa.Boolean, nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("disk_gib", sa.Integer, nullable=False),
        sa.Column("hypervisor", models.ascii_text(40), nullable=False),
        sa.Column("heartbeat", models.Time),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Index("hosts_daemon", "daemon"),
    )
    create_table(
        "images",
        sa.Column("name", models.Name, nullable=False),
        sa.Column("word", models.ascii_text(40)),
        sa.Column("kind", models.ascii_text(10), nullable=False),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("architecture", models.ascii_text(20), nullable=False),
        sa.Column("kernel_id", models.Id),
        sa.Column("ramdisk_id", models.Id),
        sa.Column("format", models.ascii_text(10)),
        sa.Column("size", sa.BigInteger),
        sa.Column("virtual_size", sa.BigInteger),
        sa.Column("sha256", models.ascii_text(64)),
        sa.Column("file", models.ascii_text(80), nullable=False),
        sa.Column("host", models.Id),
        sa.Column("epoch", sa.Integer, nullable=False),
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("state", models.ascii_text(20), nullable=False),
        sa.Column("rest", models.ascii_text(20)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("request_id", models.Id, nullable=False),
        sa.Column("reason", models.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("waits", sa.Integer, nullable=False),
        sa.Column("not_before", models.Time),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Column("updated_at", models.Time, nullable=False),
        sa.UniqueConstraint("kind", "word"),
        sa.Index("images_state", "state", "host"),
        sa.Index("ix_images_project_id", "project_id"),
    )
    create_table(
        "instances",
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("user_id", models.Id, nullable=False),
        sa.Column("reservation_id", models.Id, nullable=False),
        sa.Column("launch_index", sa.Integer, nullable=False),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("hostname", models.ascii_text(63), nullable=False),
        sa.Column("image_id", models.Id, nullable=False),
        sa.Column("kernel_id", models.Id),
        sa.Column("ramdisk_id", models.Id),
        sa.Column("flavor", models.Name, nullable=False),
        sa.Column("vcpus", sa.Integer, nullable=False),
        sa.Column("memory_mib", sa.Integer, nullable=False),
        sa.Column("disk_gib", sa.Integer, nullable=False),
        sa.Column("key_name", models.Name),
        sa.Column("public_key", models.Text),
        sa.Column("user_data", models.Text),
        sa.Column("client_token", models.Name),
        sa.Column("wanted_zone", models.Name),
        sa.Column("host", models.Id),
        sa.Column("zone", models.Name),
        sa.Column("launched_at", models.Time),
        sa.Column("terminated_at", models.Time),
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("state", models.ascii_text(20), nullable=False),
        sa.Column("rest", models.ascii_text(20)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("request_id", models.Id, nullable=False),
        sa.Column("reason", models.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("waits", sa.Integer, nullable=False),
        sa.Column("not_before", models.Time),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Column("updated_at", models.Time, nullable=False),
        sa.Index("instances_host", "host", "state"),
        sa.Index("instances_project", "project_id", "state", "id"),
        sa.Index("instances_state", "state", "host"),
        sa.Index("ix_instances_image_id", "image_id"),
        sa.Index("ix_instances_reservation_id", "reservation_id"),
    )
    create_table(
        "key_pairs",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("user_id", models.Id, nullable=False),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("kind", models.ascii_text(20), nullable=False),
        sa.Column("fingerprint", models.Name, nullable=False),
        sa.Column("public_key", models.Text, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("project_id", "name"),
    )
    create_table(
        "networks",
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("kind", models.ascii_text(20), nullable=False),
        sa.Column("cidr", models.ascii_text(43), nullable=False),
        sa.Column("gateway", models.ascii_text(39), nullable=False),
        sa.Column("mtu", sa.Integer, nullable=False),
        sa.Column("dns", models.Name, nullable=False),
        sa.Column("project_id", models.Id),
        sa.Column("host", models.Id),
        sa.Column("last_number", sa.BigInteger, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("number"),
        sa.Index("ix_networks_host", "host"),
        sa.Index("ix_networks_project_id", "project_id"),
    )
    create_table(
        "requests",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("user_id", models.Id, nullable=False),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("action", models.ascii_text(80), nullable=False),
        sa.Column("token", models.Name),
        sa.Column("argument_hash", models.ascii_text(64), nullable=False),
        sa.Column("result", models.Text, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("project_id", "token"),
        sa.Index("ix_requests_created_at", "created_at"),
    )
    create_table(
        "security_groups",
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("description", models.Name, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.UniqueConstraint("project_id", "name"),
    )
    create_table(
        "users",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False),
        sa.Column("access_key", models.Id, nullable=False),
        sa.Column("secret", models.Text, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("access_key"),
        sa.UniqueConstraint("name"),
    )
    create_table(
        "addresses",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("network_id", models.Id, sa.ForeignKey("networks.id"), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("address", models.ascii_text(39), nullable=False),
        sa.Column("mac", models.ascii_text(17), nullable=False),
        sa.Column("tap", models.ascii_text(15), nullable=False),
        sa.Column("instance_id", models.Id, nullable=False),
        sa.Column("hostname", models.ascii_text(63), nullable=False),
        sa.Column("since", sa.Integer, nullable=False),
        sa.Column("leaving", sa.Integer),
        sa.UniqueConstraint("mac"),
        sa.UniqueConstraint("network_id", "number"),
        sa.UniqueConstraint("tap"),
        sa.Index("addresses_leaving", "network_id", "leaving"),
        sa.Index("ix_addresses_instance_id", "instance_id"),
    )
    create_table(
        "group_members",
        sa.Column("group_id", models.Id, sa.ForeignKey("security_groups.id"), primary_key=True),
        sa.Column("instance_id", models.Id, primary_key=True),
        sa.Index("ix_group_members_instance_id", "instance_id"),
    )
    create_table(
        "projects",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("manager_id", models.Id, sa.ForeignKey("users.id"), nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("name"),
    )
    create_table(
        "rules",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("group_id", models.Id, sa.ForeignKey("security_groups.id"), nullable=False),
        sa.Column("protocol", models.ascii_text(4), nullable=False),
        sa.Column("from_port", sa.Integer),
        sa.Column("to_port", sa.Integer),
        sa.Column("cidr", models.ascii_text(43)),
        sa.Column("source_group_id", models.Id, sa.ForeignKey("security_groups.id")),
        sa.Column("same", models.ascii_text(120), nullable=False),
        sa.Column("description", models.Name),
        sa.UniqueConstraint("group_id", "same"),
        sa.Index("ix_rules_source_group_id", "source_group_id"),
    )
    create_table(
        "memberships",
        sa.Column("project_id", models.Id, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("user_id", models.Id, sa.ForeignKey("users.id"), primary_key=True),
        sa.Index("ix_memberships_user_id", "user_id"),
    )
    create_table(
        "quotas",
        sa.Column("project_id", models.Id, sa.ForeignKey("projects.id"), primary_key=True),
        sa.Column("resource", models.ascii_text(40), primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )
