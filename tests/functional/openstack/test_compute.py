"""Compute v2.1: the same machines as EC2's, in OpenStack's words."""

from __future__ import annotations

import base64
import dataclasses
import itertools

import pytest
import sqlalchemy as sa

from minicloud import context, states
from minicloud.api.openstack.compute import service
from minicloud.cloud import images, instances, quotas, statuses, volumes
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import reading

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEDTTpvsyTYBzNrMVZkW2lyqcjxEr5CiwTfwLjB3XtB me@here"


@pytest.fixture
def image(door):
    [found] = door.ask("image", "GET", "/images?name=tty").json["images"]
    return found["id"]


@pytest.fixture
def create(door, image):
    """Make servers: `create("web", min_count=2)`; the answer."""

    def ask(name="web", who=None, **members):
        server = {"name": name, "imageRef": image, "flavorRef": "6", **members}
        return door.ask("compute", "POST", "/servers", {"server": server}, who=who)

    return ask


def show(door, id):
    return door.ask("compute", "GET", f"/servers/{id}")


def wait_for(cloud, door, id, status):
    return cloud.wait(
        lambda: (
            (found := show(door, id).json["server"])["status"] == status
            and found["OS-EXT-STS:task_state"] is None
            and found
        )
    )


def names(door, query=""):
    found = door.ask("compute", "GET", f"/servers/detail{query}")
    assert found.status == 200, found.body
    return [one["name"] for one in found.json["servers"]]


# --- a life -----------------------------------------------------------------------------------


def test_a_server_lives_as_clients_expect_it(door, cloud, create, image):
    made = create(user_data=base64.b64encode(b"#!/bin/sh").decode())
    assert made.status == 202
    id = made.json["server"]["id"]
    server = wait_for(cloud, door, id, "ACTIVE")
    assert server["OS-EXT-STS:vm_state"] == "active"
    assert server["OS-EXT-STS:power_state"] == 1
    assert (server["image"]["id"], server["flavor"]["id"]) == (image, "6")
    [address] = server["addresses"]["private"]
    assert address["addr"].startswith("10.0.0.")
    assert address["OS-EXT-IPS:type"] == "fixed"
    assert address["OS-EXT-IPS-MAC:mac_addr"].startswith("02:")
    assert "OS-EXT-SRV-ATTR:host" not in server

    def act(body):
        return door.ask("compute", "POST", f"/servers/{id}/action", body)

    started = act({"os-start": None})
    assert (started.status, started.fault) == (409, "conflictingRequest")
    assert act({"os-stop": None}).status == 202
    assert wait_for(cloud, door, id, "SHUTOFF")["OS-EXT-STS:power_state"] == 4
    assert act({"os-stop": None}).status == 409
    assert act({"os-start": None}).status == 202
    wait_for(cloud, door, id, "ACTIVE")
    assert act({"reboot": {"type": "SOFT"}}).status == 202
    wait_for(cloud, door, id, "ACTIVE")
    console = act({"os-getConsoleOutput": {"length": 1}})
    assert console.status == 200
    assert len(console.json["output"].splitlines()) <= 1
    assert door.ask("compute", "DELETE", f"/servers/{id}").status == 204
    cloud.wait(lambda: show(door, id).status == 404)
    gone = show(door, id)
    assert gone.json == {
        "itemNotFound": {"code": 404, "message": f"The instance ID '{id}' does not exist"}
    }
    assert act({"os-start": None}).status == 404
    assert door.ask("compute", "DELETE", f"/servers/{id}").status == 404
    assert names(door) == []
    refused = create(return_reservation_id="maybe")
    assert (refused.status, refused.fault) == (400, "badRequest")
    assert names(door) == []


def test_a_server_without_a_host_is_gone_at_once(door, create):
    id = create().json["server"]["id"]
    found = show(door, id).json["server"]
    assert (found["status"], found["OS-EXT-STS:task_state"]) == ("BUILD", "scheduling")
    assert door.ask("compute", "DELETE", f"/servers/{id}").status == 204
    assert show(door, id).status == 404


def test_what_ec2_started_is_a_server_with_the_same_facts(door, create):
    ctx = Context("req-1", door.bob.user_id, door.bob.project_id, "bob", "bobs")
    [view] = instances.run(ctx, image="ami-tty", count_min=1, count_max=1, flavor="m1.nano")
    found = show(door, view.row.id).json["server"]
    [address] = found["addresses"]["private"]
    assert address["addr"] == view.addresses[0].address
    assert found["image"]["id"] == view.row.image_id
    id = create("mine").json["server"]["id"]
    [same] = instances.find(dataclasses.replace(ctx, request_id="req-2"), ids=[id]).items
    assert same.row.name == "mine"


def test_a_server_names_its_volumes_as_long_as_it_has_them(door, cloud, create):
    cloud.volume("h1")
    id = create().json["server"]["id"]
    wait_for(cloud, door, id, "ACTIVE")

    def ctx():
        request = context.new_request_id()
        return Context(request, door.bob.user_id, door.bob.project_id, "bob", "bobs")

    def named():
        found = show(door, id).json["server"]["os-extended-volumes:volumes_attached"]
        return [one["id"] for one in found]

    volume = volumes.create(ctx(), size_gib=1, zone="nova").row.id

    def found():
        [one] = volumes.find(ctx(), ids=[volume]).items
        return one

    cloud.wait(lambda: found().row.state == "available")
    volumes.attach(ctx(), volume, id, "/dev/vdb")
    assert named() == [volume]
    cloud.wait(lambda: found().attachments[0].state == "attached")
    volumes.detach(ctx(), volume)
    cloud.wait(lambda: named() == [])


# --- creating ---------------------------------------------------------------------------------


def test_many_servers_are_numbered(door, create):
    made = create("web", min_count=1, max_count=3, return_reservation_id=True)
    found = names(door, f"?reservation_id={made.json['reservation_id']}")
    assert sorted(found) == ["web-1", "web-2", "web-3"]


def test_a_request_that_does_not_fit_leaves_nothing(door, create):
    refused = create(min_count=11, max_count=11)
    assert (refused.status, refused.fault) == (403, "forbidden")
    assert "quota" in refused.message
    assert names(door) == []


@pytest.mark.parametrize(
    "members",
    [
        {"imageRef": "ec2aaaaa-0000-0000-0000-000000000000"},
        {"imageRef": "no image"},
        {"imageRef": ""},
        {"flavorRef": "99"},
        {"flavorRef": None},
        {"key_name": "none"},
        {"security_groups": [{"name": "none"}]},
        {"security_groups": [{}]},
        {"availability_zone": "mars"},
        {"user_data": "not base64!"},
        {"min_count": 0},
        {"min_count": "x"},
        {"min_count": 3, "max_count": 2},
        {"name": ""},
        {"name": " "},
        {"name": "a\u0000b"},
        {"name": "x" * 256},
        {"unknown": 1},
        {"metadata": {"a": "b"}},
        {"config_drive": True},
        {"networks": [{"uuid": "ec2aaaaa-0000-0000-0000-000000000000"}]},
        {"block_device_mapping_v2": [{"source_type": "volume"}]},
        {"block_device_mapping_v2": 2},
    ],
)
def test_what_cannot_be_made_is_a_bad_request_that_says_why(door, create, members):
    refused = create(**members)
    assert (refused.status, refused.fault) == (400, "badRequest")
    assert refused.message
    assert names(door) == []


def test_what_clients_say_though_it_happens_anyway_is_taken(create):
    device = {"source_type": "image", "destination_type": "local", "boot_index": 0, "uuid": "x"}
    made = create(
        networks="auto",
        config_drive="",
        metadata={},
        personality=[],
        block_device_mapping_v2=[device],
        min_count="1",
        **{"OS-DCF:diskConfig": "AUTO"},
    )
    assert made.status == 202


# --- looking ----------------------------------------------------------------------------------


def test_lists_are_filtered(door, create, image):
    for name in ("web-1", "web-2", "db.1", "50%"):
        create(name)
    assert names(door) == ["50%", "db.1", "web-2", "web-1"]
    assert names(door, "?name=web") == ["web-2", "web-1"]
    assert names(door, "?name=%5Eweb-1%24") == ["web-1"]
    assert names(door, "?name=eb.1") == ["web-1"]
    assert names(door, "?name=db%5C.1") == ["db.1"]
    assert names(door, "?name=%25") == ["50%"]
    assert names(door, "?name=W") == []
    assert names(door, "?name=(a%2B)%2B%24") == []
    assert len(names(door, "?status=build")) == 4
    assert names(door, "?status=ACTIVE") == []
    assert names(door, "?status=nonsense") == []
    assert len(names(door, f"?image={image}&flavor=6&deleted=False")) == 4
    assert names(door, "?flavor=1") == []
    assert names(door, "?ip=10.0.0.2%24") == ["web-1"]
    assert names(door, "?changes-since=2000-01-01T00:00:00Z") == names(door)
    for time in ("x", "0001-01-01T00:00:00%2B23:00", "9999-12-31T23:59:59-23:00"):
        assert door.ask("compute", "GET", f"/servers?changes-since={time}").status == 400


def test_lists_come_in_pages(door, create):
    for number in range(5):
        create(f"s{number}")
    seen, path = [], "/servers/detail?limit=2"
    while path:
        page = door.ask("compute", "GET", path).json
        seen += [one["name"] for one in page["servers"]]
        path = (
            page["servers_links"][0]["href"].partition("/v2.1")[2]
            if ("servers_links" in page)
            else None
        )
    assert seen == ["s4", "s3", "s2", "s1", "s0"]
    for wrong in ("marker=x", "marker=ec2aaaaa-0000-0000-0000-000000000000", "limit=-1"):
        assert door.ask("compute", "GET", f"/servers?{wrong}").fault == "badRequest"


def test_another_projects_server_is_like_none(door, create, carol, root):
    id = create(who=carol).json["server"]["id"]
    none = "ec2aaaaa-0000-0000-0000-000000000000"
    for method, path, body in (
        ("GET", "/servers/{}", None),
        ("DELETE", "/servers/{}", None),
        ("POST", "/servers/{}/action", {"os-stop": None}),
        ("POST", "/servers/{}/action", {"os-getConsoleOutput": {}}),
    ):
        other = door.ask("compute", method, path.format(id), body)
        never = door.ask("compute", method, path.format(none), body)
        assert other.status == never.status == 404
        assert other.body.replace(id.encode(), b"") == never.body.replace(none.encode(), b"")
    assert names(door) == names(door, "?marker=") == []
    assert door.ask("compute", "GET", f"/servers?marker={id}").status == 400
    assert door.ask("compute", "GET", "/servers/detail?all_tenants=1").status == 403
    all_of_them = door.ask("compute", "GET", "/servers/detail?all_tenants=1", who=root).json
    assert [one["id"] for one in all_of_them["servers"]] == [id]


@pytest.mark.parametrize("id", ["web", "i-0123456789abcdef0", "%2e%2e", "%ff", "a%00b", "x" * 300])
def test_what_is_no_id_is_not_found(door, id):
    assert show(door, id).fault == "itemNotFound"


def test_every_state_has_its_words_and_the_filter_says_the_same(door, create):
    id = create().json["server"]["id"]

    @reading
    def fits(tx, word):
        condition = statuses.condition([word])
        return tx.scalars(sa.select(models.Instance.id).where(condition)).first() == id

    assert fits("BUILD")
    assert not fits("ACTIVE")
    words = {*statuses.STATUSES.values(), statuses.REBOOTING, statuses.REBUILD}
    living = states.INSTANCE.states - states.INSTANCE.finals
    for state, rest in itertools.product(living, (None, "running", "stopped")):
        assert statuses.status(state, rest) in words
        settled = state in states.INSTANCE.settled
        assert settled == (statuses.task_state(state, rest) is None)


# --- the rest ---------------------------------------------------------------------------------


def test_key_pairs_are_made_imported_shown_and_deleted(door):
    def ask(method, path="", body=None):
        return door.ask("compute", method, f"/os-keypairs{path}", body)

    made = ask("POST", "", {"keypair": {"name": "a"}}).json["keypair"]
    assert "PRIVATE KEY" in made["private_key"]
    taken = ask("POST", "", {"keypair": {"name": "a"}})
    assert (taken.status, taken.fault) == (409, "conflictingRequest")
    ask("POST", "", {"keypair": {"name": "b", "public_key": KEY}})
    bad = ask("POST", "", {"keypair": {"name": "c", "public_key": "ssh-rsa x"}})
    assert bad.status == 400
    listed = [one["keypair"]["name"] for one in ask("GET").json["keypairs"]]
    assert sorted(listed) == ["a", "b"]
    assert ask("GET", "/b").json["keypair"]["public_key"].startswith(KEY.rsplit(" ", 1)[0])
    assert ask("DELETE", "/b").status == 202
    assert ask("DELETE", "/b").status == 404
    assert ask("GET", "/b").status == 404


def test_flavors_are_called_by_number_and_not_by_name(door):
    detail = door.ask("compute", "GET", "/flavors/detail?is_public=None").json["flavors"]
    assert {one["name"]: one["ram"] for one in detail}["m1.nano"] == 96
    assert door.ask("compute", "GET", "/flavors/6").json["flavor"]["name"] == "m1.nano"
    assert door.ask("compute", "GET", "/flavors/m1.nano").status == 404
    page = door.ask("compute", "GET", "/flavors?limit=2&marker=2").json
    assert [one["id"] for one in page["flavors"]] == ["3", "4"]


def test_limits_say_what_is_used(door, create):
    create()
    absolute = door.ask("compute", "GET", "/limits").json["limits"]["absolute"]
    assert (absolute["maxTotalInstances"], absolute["totalInstancesUsed"]) == (10, 1)
    assert absolute["totalRAMUsed"] == 96


def test_images_are_shown_to_the_clients_that_ask_compute_for_them(door, image):
    [one] = door.ask("compute", "GET", "/images/detail").json["images"]
    assert (one["id"], one["name"], one["status"]) == (image, "tty", "ACTIVE")
    assert door.ask("compute", "GET", f"/images/{image}").json == {"image": one}
    [brief] = door.ask("compute", "GET", "/images?name=tty").json["images"]
    assert set(brief) == {"id", "name", "links"}
    assert door.ask("compute", "GET", "/images?name=none").json == {"images": []}
    assert door.ask("compute", "GET", "/images/tty").status == 404


def test_quotas_of_its_own_project_are_shown_to_everybody_and_all_to_admins(door, carol, root):
    quotas.change(context.admin(), door.bob.project, "cores", 7)
    own = f"/os-quota-sets/{door.bob.project_id}"

    def shown(path, **more):
        found = door.ask("compute", "GET", path, **more).json["quota_set"]
        return found["instances"], found["cores"], found["key_pairs"], found["floating_ips"]

    assert shown(own) == shown(own, who=root) == (10, 7, 1000, 0)
    assert shown(f"{own}/defaults") == (10, 20, 1000, 0)
    assert door.ask("compute", "GET", own, who=carol).status == 403
    assert door.ask("compute", "GET", "/os-quota-sets/nobody", who=root).status == 404


def test_security_groups_and_their_rules(door):
    def ask(method, path, body=None):
        return door.ask("compute", method, path, body)

    group = {"name": "web", "description": "d"}
    made = ask("POST", "/os-security-groups", {"security_group": group}).json["security_group"]
    rule = {
        "parent_group_id": made["id"],
        "ip_protocol": "tcp",
        "from_port": 80,
        "to_port": "80",
        "cidr": "10.0.0.0/8",
    }
    added = ask("POST", "/os-security-group-rules", {"security_group_rule": rule})
    assert added.status == 200
    path = f"/os-security-groups/{made['id']}"
    [seen] = ask("GET", path).json["security_group"]["rules"]
    assert seen["ip_range"] == {"cidr": "10.0.0.0/8"}
    assert ask("DELETE", f"/os-security-group-rules/{seen['id']}").status == 202
    assert ask("GET", path).json["security_group"]["rules"] == []
    assert ask("DELETE", path).status == 202
    assert ask("GET", path).status == 404
    listed = ask("GET", "/os-security-groups").json["security_groups"]
    assert [one["name"] for one in listed] == ["default"]


def test_hosts_are_shown_to_admins_alone(door, cloud, root):
    for path in ("/os-services", "/os-hypervisors", "/os-hypervisors/detail", "/os-aggregates"):
        assert door.ask("compute", "GET", path).status == 403
    services = door.ask("compute", "GET", "/os-services", who=root).json["services"]
    assert {(one["binary"], one["state"]) for one in services} >= {("minicloud-compute", "up")}
    [one] = door.ask("compute", "GET", "/os-hypervisors/detail", who=root).json["hypervisors"]
    assert one["vcpus"] > 0
    found = door.ask("compute", "GET", f"/os-hypervisors/{one['id']}", who=root)
    assert found.json["hypervisor"]["hypervisor_hostname"] == "h1"
    uptime = door.ask("compute", "GET", f"/os-hypervisors/{one['id']}/uptime", who=root)
    assert (uptime.status, uptime.fault) == (501, "notImplemented")
    assert door.ask("compute", "GET", "/os-aggregates", who=root).json == {"aggregates": []}
    zones = door.ask("compute", "GET", "/os-availability-zone").json["availabilityZoneInfo"]
    assert [zone["zoneName"] for zone in zones] == ["nova"]


def test_there_are_no_microversions(door):
    version = door.send("compute", "GET", "/v2.1/").json["version"]
    assert (version["version"], version["min_version"]) == ("", "")
    [again] = door.send("compute", "GET", "/", Host="a.example").json["versions"]
    assert again["links"][0]["href"] == "http://a.example/v2.1/"


@pytest.mark.parametrize(
    ("method", "path", "status", "fault"),
    [
        ("GET", "/nothing", 404, "itemNotFound"),
        ("PUT", "/servers", 405, "badMethod"),
        ("GET", "/os-networks", 404, "itemNotFound"),
    ],
)
def test_what_is_not_built_says_so(door, method, path, status, fault):
    answer = door.ask("compute", method, path)
    assert (answer.status, answer.fault) == (status, fault)
    assert answer.headers["x-compute-request-id"].startswith("req-")


def test_an_unknown_action_is_named(door, create):
    id = create().json["server"]["id"]
    answer = door.ask("compute", "POST", f"/servers/{id}/action", {"pause": None})
    assert (answer.status, answer.message) == (
        400,
        "The server action pause is not supported by this cloud",
    )
    assert "reboot" in service.actions()
    for body in ({}, {"reboot": {}}, {"reboot": {"type": "WARM"}}, {"reboot": 1, "os-stop": 1}):
        assert door.ask("compute", "POST", f"/servers/{id}/action", body).status == 400


def test_a_body_over_the_limit_is_refused_before_it_is_read(door, options):
    long = str((1 << 20) + 1)  # said, not sent: who refuses it need not read it
    answer = door.send(
        "compute", "POST", "/v2.1/servers", b"{}", door.token(), Content_Length=long
    )
    assert (answer.status, answer.fault) == (413, "overLimit")


def test_every_list_asks_a_constant_number_of_statements(door, create, caller):
    ctx = Context("req-9", door.bob.user_id, door.bob.project_id, "bob", "bobs")
    counts = []
    for _ in range(2):
        create(min_count=2, max_count=2)
        seen = []

        @sa.event.listens_for(sa.Engine, "before_cursor_execute")
        def count(*args, seen=seen):
            seen.append(args[2])

        instances.search(ctx, instances.Search())
        images.search(ctx, images.Search())
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        counts.append(len(seen))
    assert counts[0] == counts[1]
