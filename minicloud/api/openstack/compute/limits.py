"""What a project may have and has."""

from __future__ import annotations

from typing import Any

from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import route
from minicloud.cloud import groups, hosts, quotas, zones
from minicloud.context import Context

NAMES = {
    "instances": ("maxTotalInstances", "totalInstancesUsed"),
    "cores": ("maxTotalCores", "totalCoresUsed"),
    "ram": ("maxTotalRAMSize", "totalRAMUsed"),
}


@route("GET", "/limits")
def show_limits(ctx: Context, req: wire.Request) -> dict[str, Any]:
    absolute: dict[str, int] = {}
    for one in quotas.own(ctx):
        if one.resource not in NAMES:
            continue  # block storage's own
        most, used = NAMES[one.resource]
        absolute |= {most: one.limit, used: one.used}
    absolute |= {
        "maxTotalKeypairs": quotas.CONF.key_pairs,
        "maxSecurityGroups": quotas.CONF.security_groups,
        "maxSecurityGroupRules": quotas.CONF.security_group_rules,
        "totalSecurityGroupsUsed": len(groups.find(ctx).items),
        # none of these is built, so none may be had
        "maxServerMeta": 0,
        "maxImageMeta": 0,
        "maxPersonality": 0,
        "maxPersonalitySize": 0,
        "maxTotalFloatingIps": 0,
        "totalFloatingIpsUsed": 0,
        "maxServerGroups": 0,
        "maxServerGroupMembers": 0,
        "totalServerGroupsUsed": 0,
    }
    return {"limits": {"rate": [], "absolute": absolute}}


@route("GET", "/os-availability-zone")
def list_zones(ctx: Context, req: wire.Request) -> dict[str, Any]:
    found = [
        {"zoneName": zone.name, "zoneState": {"available": zone.available}, "hosts": None}
        for zone in zones.find(ctx)
    ]
    return {"availabilityZoneInfo": found}


@route("GET", "/os-availability-zone/detail")
def list_zones_in_detail(ctx: Context, req: wire.Request) -> dict[str, Any]:
    """Zones with their hosts and daemons, for admins."""
    in_zone: dict[str, dict[str, Any]] = {}
    for service in hosts.services(ctx):
        row = service.row
        daemons = in_zone.setdefault(row.zone, {}).setdefault(row.host, {})
        daemons[f"minicloud-{row.daemon}"] = {
            "active": not row.disabled,
            "available": service.alive,
            "updated_at": wire.time(row.heartbeat, micro=True),
        }
    found = [
        {
            "zoneName": zone.name,
            "zoneState": {"available": zone.available},
            "hosts": in_zone.get(zone.name, {}),
        }
        for zone in zones.find(ctx)
    ]
    return {"availabilityZoneInfo": found}
