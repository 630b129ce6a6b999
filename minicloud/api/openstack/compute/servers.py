"""Servers: create, look, delete, reboot, start, stop, read the console."""

from __future__ import annotations

import datetime
import hashlib
from typing import TYPE_CHECKING, Any

from minicloud import config, errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute import flavors
from minicloud.api.openstack.compute.service import (
    last_part,
    links,
    listed,
    route,
    server_action,
)
from minicloud.cloud import flavors as sizes
from minicloud.cloud import instances, statuses
from minicloud.cloud.instances import InstanceView, Search
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Instance

_COUNT = {"type": ["integer", "string"], "pattern": "^[0-9]{1,9}$", "minimum": 1}
_SERVER = wire.obj(
    {
        "name": wire.NAME,
        "imageRef": wire.TEXT,
        "flavorRef": {"type": ["string", "integer"], "maxLength": wire.LONGEST},
        "key_name": {"type": ["string", "null"], "maxLength": wire.LONGEST},
        "user_data": {"type": ["string", "null"]},
        "min_count": _COUNT,
        "max_count": _COUNT,
        "availability_zone": {"type": ["string", "null"], "maxLength": wire.LONGEST},
        "security_groups": {
            "type": "array",
            "items": wire.obj({"name": wire.NAME}, ("name",)),
        },
        "return_reservation_id": {"type": ["boolean", "string"]},
        "adminPass": {"type": "string"},
        "OS-DCF:diskConfig": {"enum": ["AUTO", "MANUAL"]},
        # asked for below: what they may say is what happens anyway
        "metadata": {"type": ["object", "null"]},
        "config_drive": {},
        "networks": {},
        "personality": {},
        "block_device_mapping_v2": {"type": ["array", "null"]},
        "block_device_mapping": {},
        "accessIPv4": {},
        "accessIPv6": {},
    },
    ("name", "flavorRef"),
)
CREATE = {
    "type": "object",
    "properties": {
        "server": _SERVER,
        "os:scheduler_hints": wire.EMPTY,
        "OS-SCH-HNT:scheduler_hints": wire.EMPTY,
    },
    "required": ["server"],
}
REBOOT = wire.obj({"type": {"enum": ["HARD", "Hard", "hard", "SOFT", "Soft", "soft"]}}, ("type",))
CONSOLE = {
    "type": ["object", "null"],
    "properties": {"length": {"type": ["integer", "string", "null"], "pattern": "^-?[0-9]{1,9}$"}},
    "additionalProperties": False,
}

# query → field of Search that holds the same text
SAME = {
    "name": "name",
    "key_name": "key_name",
    "reservation_id": "reservation_id",
    "availability_zone": "zone",
    "ip": "address",
}
ADMINS = {"host": "host", "project_id": "project_id", "tenant_id": "project_id"}
UNLIMITED = -1  # lines of a console


# --- making ---------------------------------------------------------------------------------


@route("POST", "/servers", schema=CREATE, status=202)
def create_server(ctx: Context, req: wire.Request) -> dict[str, Any]:
    given = req.body["server"]
    _refuse_more(given)
    whole = wire.boolean("return_reservation_id", str(given.get("return_reservation_id", False)))
    count = int(given.get("min_count") or 1)
    try:
        views = instances.run(
            ctx,
            image=_image(given),
            count_min=count,
            count_max=int(given.get("max_count") or count),
            flavor=flavors.called(ctx, last_part(str(given["flavorRef"]))).name,
            key_name=given.get("key_name") or None,
            groups=[group["name"] for group in given.get("security_groups", [])],
            user_data=given.get("user_data") or None,
            zone=given.get("availability_zone") or None,
            name=given["name"].strip(),
        )
    except errors.NotFound as error:  # the server is what was asked for, and its parts are wrong
        raise errors.BadRequest(reason=str(error)) from error
    first = views[0].row
    if whole:
        return {"reservation_id": first.reservation_id}
    return {
        "server": {
            "id": first.id,
            "links": links(req, f"/servers/{first.id}"),
            "OS-DCF:diskConfig": "MANUAL",
            "security_groups": [{"name": name} for _, name in views[0].groups],
        }
    }


def _image(given: dict[str, Any]) -> str:
    if not given.get("imageRef"):
        raise errors.NotBuilt(what="A server without imageRef")
    return last_part(given["imageRef"])


def _refuse_more(given: dict[str, Any]) -> None:
    """NotBuilt for what this cloud does not do; what comes to the same is fine."""
    networks = given.get("networks")
    if networks and networks != "auto":
        raise errors.NotBuilt(what="A choice of networks")
    if str(given.get("config_drive") or "False") not in ("False", "false"):
        raise errors.NotBuilt(what="A config drive")
    if any(not _local(one) for one in given.get("block_device_mapping_v2") or ()):
        raise errors.NotBuilt(what="A block device other than the image on a local disk")
    for name in (
        *("metadata", "personality", "block_device_mapping", "adminPass"),
        *("accessIPv4", "accessIPv6"),
    ):
        if given.get(name):
            raise errors.NotBuilt(what=f"The member {name} of a server")


def _local(device: Any) -> bool:
    """The image as root disk: how some clients say what happens anyway."""
    return (
        isinstance(device, dict)
        and device.get("source_type") == "image"
        and device.get("destination_type") == "local"
        and str(device.get("boot_index")) == "0"
    )


# --- looking --------------------------------------------------------------------------------


@route("GET", "/servers")
def list_servers(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, "/servers", detail=False)


@route("GET", "/servers/detail")
def list_servers_in_detail(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, "/servers/detail", detail=True)


def _list(ctx: Context, req: wire.Request, path: str, *, detail: bool) -> dict[str, Any]:
    if "deleted" in req.query and req.flag("deleted"):
        raise errors.NotBuilt(what="A list of deleted servers")
    everywhere = (
        req.flag("all_tenants") if req.query.get("all_tenants") else ("all_tenants" in req.query)
    )
    asked: dict[str, Any] = {
        "limit": req.limit(),
        "marker": req.query.get("marker") or None,
        "everywhere": everywhere,
    }
    what = _search(ctx, req, everywhere=everywhere)
    if not detail:
        named = instances.brief(ctx, what, **asked)
        return listed(req, "servers", [_brief(req, row) for row in named.items], named.next, path)
    page, flavor_ids = instances.search(ctx, what, **asked), _flavor_ids(ctx)
    shown = [_view(ctx, req, view, flavor_ids) for view in page.items]
    return listed(req, "servers", shown, page.next, path)


def _search(ctx: Context, req: wire.Request, *, everywhere: bool) -> Search:
    """What the query asks for; a parameter that is not known is not looked at, as in Nova."""
    query = req.query
    fields: dict[str, Any] = {SAME[name]: query[name] for name in SAME if query.get(name)}
    if everywhere:
        fields |= {ADMINS[name]: query[name] for name in ADMINS if query.get(name)}
    if query.get("status"):
        fields["statuses"] = [query["status"].upper()]
    if query.get("uuid"):
        fields["ids"] = [query["uuid"]]
    if query.get("image"):
        fields["image_id"] = last_part(query["image"])
    if query.get("flavor"):
        wanted = last_part(query["flavor"])
        names = {id: name for name, id in _flavor_ids(ctx).items()}
        fields["flavor"] = names.get(wanted, "")
    since = query.get("changes-since")
    if since:
        fields["changed_since"] = _time(since)
    return Search(**fields)


def _time(given: str) -> datetime.datetime:
    try:
        found = datetime.datetime.fromisoformat(given)
        return found.astimezone(datetime.UTC).replace(tzinfo=None) if found.tzinfo else found
    except (ValueError, OverflowError) as error:  # none, or one before the first in UTC
        raise errors.InvalidBody(where="changes-since", reason="it is not a time") from error


@route("GET", "/servers/{server_id}")
def show_server(ctx: Context, req: wire.Request, server_id: str) -> dict[str, Any]:
    found = instances.alive(ctx, server_id)
    return {"server": _view(ctx, req, found, _flavor_ids(ctx))}


@route("GET", "/servers/{server_id}/ips")
def list_addresses(ctx: Context, req: wire.Request, server_id: str) -> dict[str, Any]:
    found = _addresses(instances.alive(ctx, server_id))
    brief = {
        name: [{"version": one["version"], "addr": one["addr"]} for one in some]
        for name, some in found.items()
    }
    return {"addresses": brief}


@route("GET", "/servers/{server_id}/metadata")
def list_metadata(ctx: Context, req: wire.Request, server_id: str) -> dict[str, Any]:
    instances.alive(ctx, server_id)
    return {"metadata": {}}


@route("GET", "/servers/{server_id}/os-security-groups")
def list_groups_of_server(ctx: Context, req: wire.Request, server_id: str) -> dict[str, Any]:
    view = instances.alive(ctx, server_id)
    found = [{"id": id, "name": name} for id, name in view.groups]
    return {"security_groups": found}


# --- verbs ----------------------------------------------------------------------------------


@route("DELETE", "/servers/{server_id}", status=204)
def delete_server(ctx: Context, req: wire.Request, server_id: str) -> None:
    instances.terminate(ctx, [_id(ctx, server_id)])


@server_action("forceDelete", {})
def force_delete(ctx: Context, server_id: str, body: Any) -> None:
    instances.terminate(ctx, [_id(ctx, server_id)])


@server_action("reboot", REBOOT)
def reboot_server(ctx: Context, server_id: str, body: Any) -> None:
    """Soft or hard, a guest that does not obey is forced anyway."""
    instances.reboot(ctx, [_id(ctx, server_id)], strict=True)


@server_action("os-start", {})
def start_server(ctx: Context, server_id: str, body: Any) -> None:
    instances.start(ctx, [_id(ctx, server_id)], strict=True)


@server_action("os-stop", {})
def stop_server(ctx: Context, server_id: str, body: Any) -> None:
    instances.stop(ctx, [_id(ctx, server_id)], strict=True)


@server_action("os-getConsoleOutput", CONSOLE)
def show_console(ctx: Context, server_id: str, body: Any) -> dict[str, Any]:
    """The last `length` lines, all that is kept without it."""
    output, _ = instances.console_output(ctx, _id(ctx, server_id))
    text = output.decode(errors="replace")
    length = (body or {}).get("length")
    count = UNLIMITED if length is None else int(length)
    if count == UNLIMITED:
        return {"output": text}
    lines = text.splitlines(keepends=True)
    return {"output": "".join(lines[-count:]) if count > 0 else ""}


def _id(ctx: Context, server_id: str) -> str:
    """The id of a server that is there: 404 for a terminated one, as for what never was."""
    return instances.alive(ctx, server_id).row.id


# --- how a server looks ---------------------------------------------------------------------


def _flavor_ids(ctx: Context) -> dict[str, str]:
    return {row.name: row.id for row in sizes.find(ctx).items}


def _brief(req: wire.Request, row: Instance) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "links": links(req, f"/servers/{row.id}")}


def _view(
    ctx: Context, req: wire.Request, view: InstanceView, flavor_ids: dict[str, str]
) -> dict[str, Any]:
    row = view.row
    flavor = flavor_ids.get(row.flavor, row.flavor)
    status = statuses.status(row.state, row.rest)
    found = {
        **_brief(req, row),
        "status": status,
        "tenant_id": row.project_id,
        "user_id": row.user_id,
        "metadata": {},
        "hostId": _host_id(row),
        "image": _part(req, "images", row.image_id),
        "flavor": _part(req, "flavors", flavor),
        "created": wire.time(row.created_at),
        "updated": wire.time(row.updated_at),
        "addresses": _addresses(view),
        "accessIPv4": "",
        "accessIPv6": "",
        "config_drive": "",
        "key_name": row.key_name,
        "OS-DCF:diskConfig": "MANUAL",
        "OS-EXT-AZ:availability_zone": row.zone or row.wanted_zone or str(config.CONF.zone),
        "OS-SRV-USG:launched_at": _usage_time(row.launched_at),
        "OS-SRV-USG:terminated_at": _usage_time(row.terminated_at),
        "OS-EXT-STS:task_state": statuses.task_state(row.state, row.rest),
        "OS-EXT-STS:vm_state": statuses.vm_state(row.state, row.rest),
        "OS-EXT-STS:power_state": statuses.power_state(row.state, row.rest),
        "os-extended-volumes:volumes_attached": [
            {"id": one.volume_id} for one in view.attachments
        ],
        "security_groups": [{"name": name} for _, name in view.groups],
    }
    if status in ("ACTIVE", "BUILD"):
        found["progress"] = 100 if status == "ACTIVE" else 0
    if status == "ERROR":
        found["fault"] = {
            "code": 500,
            "message": row.reason or "",
            "created": wire.time(row.updated_at),
        }
    if ctx.is_admin:
        found |= {
            "OS-EXT-SRV-ATTR:host": row.host,
            "OS-EXT-SRV-ATTR:hypervisor_hostname": row.host,
            "OS-EXT-SRV-ATTR:instance_name": row.id,
        }
    return found


def _part(req: wire.Request, kind: str, id: str) -> dict[str, Any]:
    return {"id": id, "links": [wire.link(f"{req.base}/{kind}/{id}", "bookmark")]}


def _host_id(row: Instance) -> str:
    """Which servers share a host, without its name; another word in each project."""
    if not row.host:
        return ""
    return hashlib.sha224(f"{row.project_id}{row.host}".encode()).hexdigest()


def _usage_time(at: datetime.datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%S.%f}"


def _addresses(view: InstanceView) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for address in view.addresses:
        found.setdefault(address.network, []).append(
            {
                "version": 4,
                "addr": address.address,
                "OS-EXT-IPS:type": "fixed",
                "OS-EXT-IPS-MAC:mac_addr": address.mac,
            }
        )
    return found
