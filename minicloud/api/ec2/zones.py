"""Regions and availability zones: the one region of this cloud, the zones its hosts belong to."""

from __future__ import annotations

from typing import Any

from minicloud import config, errors
from minicloud.api.ec2 import endpoint
from minicloud.api.ec2 import filters as filters_
from minicloud.api.ec2.actions import action
from minicloud.cloud import zones
from minicloud.context import Context

OPT_IN = "opt-in-not-required"

# filter → member of what is shown
_REGION_FILTERS = {
    "region-name": "RegionName",
    "endpoint": "Endpoint",
    "opt-in-status": "OptInStatus",
}
_ZONE_FILTERS = {
    "zone-name": "ZoneName",
    "zone-id": "ZoneId",
    "zone-type": "ZoneType",
    "state": "State",
    "region-name": "RegionName",
    "group-name": "GroupName",
    "opt-in-status": "OptInStatus",
}


@action(filters=_REGION_FILTERS)
def describe_regions(
    ctx: Context,
    *,
    region_names: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    region = {
        "RegionName": config.CONF.region,
        "Endpoint": endpoint.url(),
        "OptInStatus": OPT_IN,
    }
    for name in region_names or ():
        if name != region["RegionName"]:
            raise errors.BadRequest(reason=f"Invalid region: [{name[:80]}]")
    return {"Regions": filters_.choose([region], filters, _REGION_FILTERS)}


@action(filters=_ZONE_FILTERS)
def describe_availability_zones(
    ctx: Context,
    *,
    zone_names: list[str] | None = None,
    zone_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    found = {zone.name: _view(zone) for zone in zones.find(ctx)}
    asked = [*(zone_names or ()), *(zone_ids or ())]
    for name in asked:
        if name not in found:
            raise errors.ZoneNotFound(id=name[:80])
    chosen = [found[name] for name in dict.fromkeys(asked)] if asked else list(found.values())
    return {"AvailabilityZones": filters_.choose(chosen, filters, _ZONE_FILTERS)}


def _view(zone: zones.Zone) -> dict[str, Any]:
    return {
        "ZoneName": zone.name,
        "ZoneId": zone.name,
        "State": "available" if zone.available else "unavailable",
        "RegionName": config.CONF.region,
        "GroupName": config.CONF.region,
        "NetworkBorderGroup": config.CONF.region,
        "ZoneType": "availability-zone",
        "OptInStatus": OPT_IN,
        "Messages": [],
    }
