"""The cloud's daemons and hosts, for admins."""

from __future__ import annotations

import zlib
from typing import Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import route
from minicloud.cloud import hosts
from minicloud.cloud.hosts import Capacity
from minicloud.context import Context


@route("GET", "/os-services")
def list_services(ctx: Context, req: wire.Request) -> dict[str, Any]:
    found = []
    for service in hosts.services(ctx):
        row = service.row
        found.append(
            {
                "id": _number(row.id),
                "binary": f"minicloud-{row.daemon}",
                "host": row.host,
                "zone": row.zone,
                "status": "disabled" if row.disabled else "enabled",
                "state": "up" if service.alive else "down",
                "updated_at": wire.time(row.heartbeat, micro=True),
                "disabled_reason": None,
            }
        )
    for name in ("binary", "host"):
        wanted = req.query.get(name)
        found = [one for one in found if wanted in (None, one[name])]
    return {"services": found}


@route("GET", "/os-hypervisors")
def list_hypervisors(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {"hypervisors": [_brief(one) for one in hosts.capacity(ctx)]}


@route("GET", "/os-hypervisors/detail")
def list_hypervisors_in_detail(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {"hypervisors": [_view(one) for one in hosts.capacity(ctx)]}


@route("GET", "/os-hypervisors/statistics")
def show_statistics(ctx: Context, req: wire.Request) -> dict[str, Any]:
    views = [_view(one) for one in hosts.capacity(ctx)]
    sums = (
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "local_gb",
        "local_gb_used",
        "free_ram_mb",
        "free_disk_gb",
        "disk_available_least",
        "running_vms",
        "current_workload",
    )
    found = {name: sum(view[name] for view in views) for name in sums}
    return {"hypervisor_statistics": {"count": len(views), **found}}


@route("GET", "/os-hypervisors/{id}")
def show_hypervisor(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    for one in hosts.capacity(ctx):
        if str(_number(one.row.id)) == id:
            return {"hypervisor": _view(one)}
    raise errors.HypervisorNotFound(id=id)


@route("GET", "/os-hypervisors/{id}/uptime")
def uptime_is_not_known(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    """Nobody asks the hosts.  Clients take this error as it is meant."""
    show_hypervisor(ctx, req, id)
    raise errors.UptimeUnknown


@route("GET", "/os-aggregates")
def list_aggregates(ctx: Context, req: wire.Request) -> dict[str, Any]:
    """There are none; who may see hosts may see that."""
    hosts.services(ctx)
    return {"aggregates": []}


def _number(id: str) -> int:
    """v2.1 without microversions has numbers here, rows have words: always the same one."""
    return zlib.crc32(id.encode()) & 0x7FFFFFFF


def _brief(one: Capacity) -> dict[str, Any]:
    return {
        "id": _number(one.row.id),
        "hypervisor_hostname": one.row.host,
        "state": "up" if one.alive else "down",
        "status": "disabled" if one.row.disabled else "enabled",
    }


def _view(one: Capacity) -> dict[str, Any]:
    row = one.row
    free_gib = row.disk_gib - one.disk_gib_used
    return {
        **_brief(one),
        "vcpus": row.vcpus,
        "vcpus_used": one.vcpus_used,
        "memory_mb": row.memory_mib,
        "memory_mb_used": one.memory_mib_used,
        "free_ram_mb": row.memory_mib - one.memory_mib_used,
        "local_gb": row.disk_gib,
        "local_gb_used": one.disk_gib_used,
        "free_disk_gb": free_gib,
        "disk_available_least": free_gib,
        "running_vms": one.instances,
        "current_workload": 0,
        "host_ip": "",
        "hypervisor_type": row.hypervisor,
        "hypervisor_version": 0,
        "cpu_info": "",
        "service": {"id": _number(row.id), "host": row.host, "disabled_reason": None},
    }
