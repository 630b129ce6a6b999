"""Quotas: how much a project may have.  Usage is never stored, it is a sum over the rows; who
books holds the project first, so that two bookings cannot both take the last unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from minicloud import config, errors
from minicloud.auth import policy
from minicloud.cloud import projects
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, done, once, reading, transaction

CONF = config.declare(
    "quota",
    [
        cfg.IntOpt(
            "instances",
            default=10,
            min=-1,
            help="Instances a project may have at once, unless `project quota` says otherwise;"
            " -1 is unlimited, here and below.",
        ),
        cfg.IntOpt(
            "cores", default=20, min=-1, help="CPUs of all instances of a project together."
        ),
        cfg.IntOpt(
            "ram",
            default=51200,
            min=-1,
            help="Memory of all instances of a project together, in MiB.",
        ),
        cfg.IntOpt("volumes", default=10, min=-1, help="Volumes a project may have at once."),
        cfg.IntOpt(
            "gigabytes",
            default=1000,
            min=-1,
            help="GiB of all volumes of a project together.",
        ),
        cfg.IntOpt(
            "security_groups", default=100, min=1, help="Security groups a project may have."
        ),
        cfg.IntOpt(
            "security_group_rules", default=60, min=1, help="Rules a security group may have."
        ),
        cfg.IntOpt("key_pairs", default=1000, min=1, help="Key pairs a project may have."),
        cfg.IntOpt("images", default=1000, min=1, help="Images a project may have."),
        cfg.IntOpt("buckets", default=1000, min=1, help="Buckets a project may have."),
        cfg.IntOpt(
            "uploads",
            default=1000,
            min=1,
            help="Multipart uploads a bucket may have that are neither complete nor aborted.",
        ),
    ],
)

UNLIMITED = -1
OF_INSTANCES = ("instances", "cores", "ram")
OF_VOLUMES = ("volumes", "gigabytes")
RESOURCES = OF_INSTANCES + OF_VOLUMES  # what `project quota` can set
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Limit:
    """`limit` is -1 when there is none; ram is in MiB."""

    resource: str
    limit: int
    used: int


@reading
def find(tx: Tx, ctx: Context, project: str) -> list[Limit]:
    """Limits and usage of the project of that name; ProjectNotFound."""
    policy.require(ctx, "quotas")
    id = projects.existing(tx, project).id
    limits, used = _limits(tx, id), _used(tx, id)
    return [Limit(name, limits[name], used[name]) for name in RESOURCES]


@reading
def own(tx: Tx, ctx: Context) -> list[Limit]:
    """Limits and usage of the asker's project."""
    policy.require(ctx, "quotas: own")
    limits, used = _limits(tx, ctx.project_id), _used(tx, ctx.project_id)
    return [Limit(name, limits[name], used[name]) for name in RESOURCES]


def exceeded(tx: Tx) -> list[tuple[models.Project, Limit]]:
    """What projects have above their limits."""
    found = []
    for project in tx.scalars(sa.select(models.Project).order_by(models.Project.name)):
        limits, used = _limits(tx, project.id), _used(tx, project.id)
        found += [
            (project, Limit(name, limits[name], used[name]))
            for name in RESOURCES
            if UNLIMITED != limits[name] < used[name]
        ]
    return found


@transaction
def change(tx: Tx, ctx: Context, project: str, resource: str, value: int) -> None:
    """The project's limit of `resource` is `value`, -1 for none; what it has already it keeps.

    ProjectNotFound; InvalidValue for another resource or a number that is not a limit.
    """
    policy.require(ctx, "quotas")
    if resource not in RESOURCES:
        raise errors.InvalidValue(
            value=resource[:40], name="key", reason=f"It is one of {', '.join(RESOURCES)}."
        )
    if not UNLIMITED <= value <= LARGEST:
        raise errors.InvalidValue(
            value=value, name=resource, reason="It is -1 (unlimited) or a number from 0."
        )
    if once(tx, ctx, "project quota", None, [project, resource, value]) is not None:
        return
    quota, id = models.Quota, projects.held(tx, project).id
    tx.changed(sa.delete(quota).where(quota.project_id == id, quota.resource == resource))
    tx.execute(sa.insert(quota), [{"project_id": id, "resource": resource, "value": value}])
    done(tx, ctx, [])


def refuse_more(tx: Tx, these: Any, error: type[errors.QuotaExceeded], quota: str) -> None:
    """Return when there may be one more of `these`, whose owner is held; else raise `error`.
    `quota` is the option's name."""
    used = tx.scalars(sa.select(sa.func.count()).where(these)).one()
    limit = getattr(CONF, quota)
    if used >= limit:
        raise error(resource=quota.replace("_", " "), limit=limit, used=used, wanted=1)


def fitting(tx: Tx, project_id: str, flavor: models.Flavor, count_min: int, count_max: int) -> int:
    """How many instances of the flavor the project may still start, `count_max` at most.

    The project is held.  QuotaExceeded, or VcpuLimitExceeded, with the numbers when it is less
    than `count_min`.
    """
    limits, used = _limits(tx, project_id), _used_by_instances(tx, project_id)
    each = {"instances": 1, "cores": flavor.vcpus, "ram": flavor.memory_mib}
    count = count_max
    for name in OF_INSTANCES:
        if limits[name] == UNLIMITED or not each[name]:
            continue
        fits = max(0, limits[name] - used[name]) // each[name]
        if fits < count_min:
            error = errors.VcpuLimitExceeded if name == "cores" else errors.QuotaExceeded
            raise error(
                resource=name,
                limit=limits[name],
                used=used[name],
                wanted=count_min * each[name],
            )
        count = min(count, fits)
    return count


def check_volume(tx: Tx, project_id: str, size_gib: int) -> None:
    """Return when the project may have another volume of that size; VolumeLimitExceeded.

    The project is held.
    """
    limits, used = _limits(tx, project_id), _used_by_volumes(tx, project_id)
    for name, wanted in zip(OF_VOLUMES, (1, size_gib), strict=True):
        if limits[name] != UNLIMITED and used[name] + wanted > limits[name]:
            raise errors.VolumeLimitExceeded(
                resource=name, limit=limits[name], used=used[name], wanted=wanted
            )


def _limits(tx: Tx, project_id: str) -> Mapping[str, int]:
    quota = models.Quota
    statement = sa.select(quota.resource, quota.value).where(quota.project_id == project_id)
    own: dict[str, int] = dict(iter(tx.execute(statement)))
    return {name: own.get(name, getattr(CONF, name)) for name in RESOURCES}


def _used(tx: Tx, project_id: str) -> Mapping[str, int]:
    return {**_used_by_instances(tx, project_id), **_used_by_volumes(tx, project_id)}


def _used_by_volumes(tx: Tx, project_id: str) -> Mapping[str, int]:
    """One in error that no host has holds nothing."""
    volume = models.Volume
    holds_nothing = sa.and_(volume.state == "error", volume.host.is_(None))
    statement = sa.select(sa.func.count(), sa.func.sum(volume.size_gib)).where(
        volume.project_id == project_id, volume.state != "deleted", sa.not_(holds_nothing)
    )
    sums = tx.execute(statement).one()
    return {name: int(value or 0) for name, value in zip(OF_VOLUMES, sums, strict=True)}


def _used_by_instances(tx: Tx, project_id: str) -> Mapping[str, int]:
    """What the project's instances hold.  One in error that no host has holds nothing, and
    nothing but terminating can be asked of it."""
    instance = models.Instance
    holds_nothing = sa.and_(instance.state == "error", instance.host.is_(None))
    statement = sa.select(
        sa.func.count(), sa.func.sum(instance.vcpus), sa.func.sum(instance.memory_mib)
    ).where(
        instance.project_id == project_id, instance.state != "terminated", sa.not_(holds_nothing)
    )
    sums = tx.execute(statement).one()
    return {name: int(value or 0) for name, value in zip(OF_INSTANCES, sums, strict=True)}
