"""What must be true of a cloud that is left alone: every word here is a finding, none is fine.

Three parts of the promise: every row is settled and true on the host, and what was accepted has
happened once; nothing is there without an owner, nothing promised is missing; nothing has two
owners.
"""

from __future__ import annotations

import collections
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from minicloud import states

Findings = Iterator[str]


class Cloud(Protocol):
    """What is looked at: the files of all hosts are below `path`."""

    path: pathlib.Path

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer of the database."""

    def down(self) -> list[str]:
        """The daemons that are dead."""


WORKING = " UNION ALL ".join(
    f"SELECT '{machine.name}', id, state FROM {machine.model.__tablename__} WHERE state IN ("
    + ", ".join(f"'{state}'" for state in sorted({*machine.work, "uploading"}))
    # an image that nobody has begun to upload waits for its user, not for us
    + f") AND NOT (state = 'uploading' AND {'1' if machine.name == 'image' else '0'} = 1"
    + " AND host IS NULL)"
    for machine in states.MACHINES
)


def findings(cloud: Cloud) -> list[str]:
    """All that is wrong; cheap while something is still being done."""
    working = [f"{kind} {id} is {state}" for kind, id, state in cloud.rows(WORKING)]
    try:
        return working or [word for part in PARTS for word in part(cloud)]
    except FileNotFoundError as error:
        return [f"a host changes while we look: {error.filename}"]


def differ(what: str, rows: Any, host: Any) -> Findings:
    """`rows` promise exactly what is on the `host`."""
    rows, host = set(rows), set(host)
    for one in sorted(rows - host):
        yield f"{what}: {one} is missing"
    for one in sorted(host - rows):
        yield f"{what}: {one} belongs to nobody"


def instances(cloud: Cloud) -> Findings:
    """Domains are those of the rows, in their state; nothing was started twice."""
    rows = dict(cloud.rows("SELECT id, state FROM instances WHERE state <> 'terminated'"))
    domains = {domain["id"]: domain for domain in on_hosts(cloud)}
    # one in error without a host never had a domain
    never = {id for (id,) in cloud.rows("SELECT id FROM instances WHERE host IS NULL")}
    yield from differ("domain", set(rows) - never, domains)
    starts: collections.Counter[str] = collections.Counter()
    for id, before, after in cloud.rows(
        "SELECT resource_id, from_state, to_state FROM events WHERE kind = 'instance' ORDER BY id"
    ):
        if after == "scheduling":  # from a host that was fenced: its domain is made anew
            starts[id] = 0
        starts[id] += after == "running" and before in ("building", "starting", "rebooting")
    for id, domain in domains.items():
        if rows.get(id, domain["state"]) != domain["state"]:
            yield f"instance {id} is {rows[id]}, its domain {domain['state']}"
        if domain["starts"] != starts[id]:
            yield f"instance {id} was started {domain['starts']} times, asked {starts[id]} times"


def addresses(cloud: Cloud) -> Findings:
    """Each instance has its address, and the network answers for exactly those."""
    live = [
        id
        for id, state, where in cloud.rows("SELECT id, state, host FROM instances")
        # one that no host could take has given its address back
        if state != "terminated" and (state, where) != ("error", None)
    ]
    booked = cloud.rows("SELECT instance_id, address, mac, leaving, tap FROM addresses")
    yield from differ("address", live, [row[0] for row in booked])
    for id, address, _, leaving, _ in booked:
        if leaving is not None:
            yield f"address {address} of {id} is still leaving"
    yield from once("address", [row[1] for row in booked])
    answered = [
        pair
        for file in cloud.path.glob("**/networks/simulated/*/*.json")
        for pair in json.loads(file.read_text()).items()
    ]
    yield from differ("answer", [(row[1], row[2]) for row in booked], answered)
    for (name,) in cloud.rows("SELECT name FROM networks WHERE host IS NULL"):
        yield f"network {name} is served by nobody"
    for (id,) in cloud.rows("SELECT instance_id FROM group_leavings"):
        yield f"the groups {id} was in are remembered"
    filters = cloud.path.glob("**/instances/simulated/*/firewall")
    protected = [tap for file in filters for tap in json.loads(file.read_text())["ports"]]
    placed = {id for (id,) in cloud.rows("SELECT id FROM instances WHERE host IS NOT NULL")}
    yield from differ("filter", [row[4] for row in booked if row[0] in placed], protected)


def members(cloud: Cloud) -> Findings:
    """Who is in a group, or has a label, is there."""
    query = "SELECT instance_id FROM group_members WHERE instance_id NOT IN (%s)"
    live = "SELECT id FROM instances WHERE state <> 'terminated'"
    for (id,) in cloud.rows(query % live):
        yield f"group member {id} is no instance"
    things = (
        f"{live} UNION ALL SELECT id FROM images WHERE state <> 'deleted'"
        " UNION ALL SELECT id FROM volumes WHERE state <> 'deleted'"
        " UNION ALL SELECT id FROM security_groups UNION ALL SELECT id FROM key_pairs"
    )
    for (id,) in cloud.rows(f"SELECT resource_id FROM tags WHERE resource_id NOT IN ({things})"):
        yield f"a label of {id}, which is not there"


def applied(cloud: Cloud) -> Findings:
    """What is synced was applied up to what is wanted; nothing else is remembered."""
    synced = {
        **dict(cloud.rows("SELECT id, wanted FROM networks")),
        **dict(cloud.rows("SELECT id, wanted FROM security_groups")),
        **dict(cloud.rows("SELECT id, wanted FROM volumes WHERE state <> 'deleted'")),
    }
    for thing, who, value in cloud.rows("SELECT thing, host, applied FROM applied"):
        if thing not in synced:
            yield f"{who} remembers {thing}, which is not there"
        elif value > synced[thing]:
            yield f"{who} applied {thing} up to {value}, wanted is {synced[thing]}"


def volumes(cloud: Cloud) -> Findings:
    """Bytes are those of the rows; exports those of attachments, one a volume; guests have the
    disks of theirs and no other."""
    rows = cloud.rows("SELECT id FROM volumes WHERE state <> 'deleted' AND host IS NOT NULL")
    yield from differ("volume", [id for (id,) in rows], listed(cloud, "volumes"))
    attached = cloud.rows(
        "SELECT coalesce(export, id), volume_id, instance_id, device FROM attachments"
        " WHERE state = 'attached'"
    )
    yield from differ("export", [row[0] for row in attached], listed(cloud, "exports"))
    yield from once("volume's writer", [row[1] for row in attached])
    yield from once("device", [(row[2], row[3]) for row in attached])
    domains = on_hosts(cloud)
    running = {domain["id"] for domain in domains if domain["state"] == "running"}
    present = [
        (domain["id"], letter)
        for domain in domains
        if domain["id"] in running
        for letter in domain["volumes"]
    ]
    yield from once("disk", present)
    yield from differ("disk", [(row[2], row[3]) for row in attached if row[2] in running], present)
    held = "SELECT id FROM attachments WHERE state = 'detached' AND %s IS NOT NULL"
    for column in ("holds_volume", "holds_device"):
        for (id,) in cloud.rows(held % column):
            yield f"attachment {id} is detached and keeps its {column}"


def files(cloud: Cloud) -> Findings:
    """The object store has the bytes of what is active, and no others."""
    named = [
        file
        for query in (
            "SELECT file FROM images WHERE state = 'active'",
            "SELECT file FROM objects WHERE state = 'active'",
            "SELECT file FROM parts WHERE number IS NOT NULL",
        )
        for (file,) in cloud.rows(query)
    ]
    yield from once("file", named)
    yield from differ("file", named, [path.name for path in (cloud.path / "images").iterdir()])
    for (number,) in cloud.rows("SELECT count(*) FROM parts WHERE number IS NULL"):
        if number:
            yield f"{number} parts that nobody sends"
    for (id,) in cloud.rows("SELECT id FROM objects WHERE live IS NOT NULL AND state <> 'active'"):
        yield f"object {id} is found and not active"
    if cloud.down() or cloud.rows("SELECT id FROM hosts WHERE fenced_at IS NOT NULL"):
        return  # whoever died there in the middle of a file cleans up when it is back
    for path in cloud.path.glob("lib/**/*"):
        if path.suffix == ".part" or re.search(r"\.epoch\.\d+$", path.name):
            yield f"the temporary file {path.name} is left"
    for path in cloud.path.glob("instances/**/*.part"):
        yield f"the temporary file {path.name} is left"


def events(cloud: Cloud) -> Findings:
    """The events of a row are a way through its table, without a gap, to where the row is."""
    last: dict[str, str] = {}
    for id, before, to in cloud.rows(
        "SELECT resource_id, from_state, to_state FROM events ORDER BY id"
    ):
        if before != last.get(id):
            yield f"{id} was moved from {before} to {to} and had been {last.get(id)}"
        last[id] = to
    for machine in states.MACHINES:
        for id, state in cloud.rows(f"SELECT id, state FROM {machine.model.__tablename__}"):
            if last.get(id) != state:
                yield f"{machine.name} {id} is {state}, its events end with {last.get(id)}"


# what a daemon may say at ERROR or CRITICAL when others die: nothing but that it was replaced
SAYS = re.compile(r"^\S+ \S+ \d+ (ERROR|CRITICAL) |^Traceback")
HARMLESS = ("was replaced by another process",)
# … and what its sweep says of an artefact that came before its row, or outlived it
ORPHAN = r"WARNING .*\bno row has (?!network)"


def logs(cloud: Any, woken: bool) -> Findings:
    """No daemon met what it did not expect; none had to clean up, unless one had `woken` that
    went on for a step with what had been done meanwhile."""
    for line in cloud.log_lines():
        bad = SAYS.match(line) and not any(word in line for word in HARMLESS)
        if bad or (not woken and re.search(ORPHAN, line)):
            yield f"log: {line}"


PARTS: tuple[Callable[[Cloud], Findings], ...] = (
    *(instances, addresses, members, applied, volumes, files, events),
)


def once(what: str, owned: list[Any]) -> Findings:
    """Nothing has two owners."""
    for one, number in collections.Counter(owned).items():
        if number > 1:
            yield f"{what} {one} has {number} owners"


def on_hosts(cloud: Cloud) -> list[dict[str, Any]]:
    """The domains of all hosts."""
    files = cloud.path.glob("**/instances/simulated/*/*.json")
    return [json.loads(file.read_text()) for file in files]


def listed(cloud: Cloud, kind: str) -> list[str]:
    """The volumes or exports of all volume hosts."""
    return [
        path.name
        for directory in cloud.path.glob(f"**/simulated/*/{kind}")
        for path in directory.iterdir()
    ]
