"""The metadata service: what a guest can ask at 169.254.169.254 (EC2's paths, IMDSv1 and IMDSv2).

Each network has a listening socket of its own, opened by the network daemon and handed to this one
(see `network/metadata_sockets.py` for the messages).  The socket says which network, the peer's
address which guest: no header is believed.  A new key is a function under `@leaf`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import select
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from minicloud import concurrency, config, errors, wsgi
from minicloud.cloud.metadata import GuestFacts, decoded
from minicloud.wiring import DOMAIN

LOG = logging.getLogger(__name__)

Lookup = Callable[[str, str], GuestFacts | None]  # network id, address
Leaf = Callable[[GuestFacts], str | None]  # None: this guest has no such key

# AWS, EC2 User Guide, "Retrieve instance metadata": versions that clients still name
VERSIONS = (
    *("1.0", "2007-01-19", "2007-03-01", "2007-08-29", "2007-10-10", "2007-12-15", "2008-02-01"),
    *("2008-09-01", "2009-04-04", "2011-01-01", "2012-01-12", "2014-02-25", "2014-11-05"),
    *("2015-10-20", "2016-04-19", "2016-09-02", "2018-09-24", "2019-10-01", "2020-10-27"),
    *("2021-03-23", "2021-07-15", "latest"),
)
DOCUMENT_VERSION = "2017-09-30"  # of the identity document, as AWS's own say
ROOT_DEVICE = "vda"
TTL_S = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "x-aws-ec2-metadata-token"  # noqa: S105 (a header's name)
LONGEST_TTL_S = 21600  # six hours, AWS's limit
MESSAGE_BYTES = 65536
RETRY_S = 1.0

LEAVES: dict[str, Leaf] = {}


class TokenWrong(errors.Unauthorized):
    text = "The token is not valid"


# --- the keys -------------------------------------------------------------------------------


def leaf(path: str) -> Callable[[Leaf], Leaf]:
    """Serve the function's answer at `meta-data/PATH`; `{mac}` stands for the guest's own."""

    def declare(function: Leaf) -> Leaf:
        LEAVES[path] = function
        return function

    return declare


@leaf("ami-id")
def _ami_id(guest: GuestFacts) -> str:
    return guest.image_id


@leaf("ami-launch-index")
def _ami_launch_index(guest: GuestFacts) -> str:
    return str(guest.launch_index)


@leaf("ami-manifest-path")
def _ami_manifest_path(guest: GuestFacts) -> str:
    return "(unknown)"  # AWS's own words where there is no manifest


@leaf("block-device-mapping/ami")
def _ami_device(guest: GuestFacts) -> str:
    return ROOT_DEVICE


@leaf("block-device-mapping/root")
def _root_device(guest: GuestFacts) -> str:
    return f"/dev/{ROOT_DEVICE}"


@leaf("hostname")
@leaf("local-hostname")
@leaf("network/interfaces/macs/{mac}/local-hostname")
def _hostname(guest: GuestFacts) -> str:
    return guest.hostname


@leaf("instance-action")
def _instance_action(guest: GuestFacts) -> str:
    return "none"


@leaf("instance-id")
def _instance_id(guest: GuestFacts) -> str:
    return guest.id


@leaf("instance-life-cycle")
def _instance_life_cycle(guest: GuestFacts) -> str:
    return "on-demand"


@leaf("instance-type")
def _instance_type(guest: GuestFacts) -> str:
    return guest.instance_type


@leaf("kernel-id")
def _kernel_id(guest: GuestFacts) -> str | None:
    return guest.kernel_id


@leaf("ramdisk-id")
def _ramdisk_id(guest: GuestFacts) -> str | None:
    return guest.ramdisk_id


@leaf("local-ipv4")
@leaf("network/interfaces/macs/{mac}/local-ipv4s")
def _local_ipv4(guest: GuestFacts) -> str:
    return guest.address


@leaf("mac")
@leaf("network/interfaces/macs/{mac}/mac")
def _mac(guest: GuestFacts) -> str:
    return guest.mac


@leaf("network/interfaces/macs/{mac}/device-number")
def _device_number(guest: GuestFacts) -> str:
    return "0"


@leaf("network/interfaces/macs/{mac}/owner-id")
def _owner_id(guest: GuestFacts) -> str:
    return guest.project_id


@leaf("network/interfaces/macs/{mac}/subnet-ipv4-cidr-block")
def _subnet(guest: GuestFacts) -> str:
    return guest.cidr


@leaf("placement/availability-zone")
def _zone(guest: GuestFacts) -> str:
    return guest.zone


@leaf("placement/region")
def _region(guest: GuestFacts) -> str:
    return guest.region


@leaf("public-keys/0/openssh-key")
def _public_key(guest: GuestFacts) -> str | None:
    return guest.public_key


@leaf("reservation-id")
def _reservation_id(guest: GuestFacts) -> str:
    return guest.reservation_id


@leaf("security-groups")
@leaf("network/interfaces/macs/{mac}/security-groups")
def _security_groups(guest: GuestFacts) -> str:
    return "\n".join(guest.groups)


@leaf("services/domain")
def _services_domain(guest: GuestFacts) -> str:
    return DOMAIN


# --- paths ----------------------------------------------------------------------------------


def application(network_id: str, lookup: Lookup) -> wsgi.Application:
    """The service for the guests of one network."""

    def handle(request: wsgi.Request) -> wsgi.Response:
        # one answer for whoever is unknown, whatever it asks
        guest = lookup(network_id, request.ctx.address)
        if guest is None:
            raise errors.NoSuchPath(path=ascii(request.path[:200]))
        words = [word for word in urllib.parse.unquote(request.path).split("/") if word]
        if request.method == "PUT":
            return _text(_token(request, guest, words))
        if request.method not in ("GET", "HEAD"):
            raise errors.MethodNotAllowed(method=ascii(request.method[:20]), path=request.path)
        given = request.headers.get(TOKEN)
        if given is not None and not token_holds(given, guest.id):
            raise TokenWrong
        found = _found(guest, words)
        if found is None:
            raise errors.NoSuchPath(path=ascii(request.path[:200]))
        return found

    # a guest may ask as often as it likes: its lines must not fill its host's disk
    return wsgi.application(handle, _fault, body_limit=1024, access=logging.DEBUG)


def _found(guest: GuestFacts, words: list[str]) -> wsgi.Response | None:
    if not words:
        return _text("\n".join(VERSIONS))
    version, *path = words
    if version not in VERSIONS:
        return None
    match path:
        case []:
            tops = ["dynamic", "meta-data", *(["user-data"] if guest.user_data else [])]
            return _text("\n".join(tops))
        case ["user-data"] if guest.user_data:
            return wsgi.Response(user_data(guest), content_type="application/octet-stream")
        case ["meta-data", *rest]:
            found = _entry(metadata(guest), rest, guest)
        case ["dynamic", *rest]:
            found = _entry({"instance-identity/document": document(guest)}, rest, guest)
        case _:
            return None
    return None if found is None else _text(found)


def metadata(guest: GuestFacts) -> dict[str, str]:
    """Every key the guest has, by path below `meta-data/`."""
    values = ((path.format(mac=guest.mac), get(guest)) for path, get in LEAVES.items())
    return {path: value for path, value in values if value is not None}


def document(guest: GuestFacts) -> str:
    """The instance identity document (AWS, EC2 User Guide): JSON, unsigned."""
    facts = {
        "accountId": guest.project_id,
        "architecture": guest.architecture,
        "availabilityZone": guest.zone,
        "billingProducts": None,
        "devpayProductCodes": None,
        "imageId": guest.image_id,
        "instanceId": guest.id,
        "instanceType": guest.instance_type,
        "kernelId": guest.kernel_id,
        "marketplaceProductCodes": None,
        "pendingTime": f"{guest.launched_at:%Y-%m-%dT%H:%M:%SZ}",
        "privateIp": guest.address,
        "ramdiskId": guest.ramdisk_id,
        "region": guest.region,
        "version": DOCUMENT_VERSION,
    }
    return json.dumps(facts, indent=2)


def user_data(guest: GuestFacts) -> bytes:
    """The bytes a user gave; what is not base64 is given as it is."""
    text = guest.user_data or ""
    try:
        return decoded(text)
    except ValueError:
        return text.encode()


def _entry(tree: dict[str, str], words: list[str], guest: GuestFacts) -> str | None:
    """A key's value, or the names below a path: those with more below them end in a slash."""
    path = "/".join(words)
    if path in tree:
        return tree[path]
    prefix = f"{path}/" if path else ""
    below = [key.removeprefix(prefix) for key in tree if key.startswith(prefix)]
    if path == "public-keys" and below:
        return f"0={guest.key_name or 'default'}"  # the one list that is not of names below
    names = {name + slash for name, slash, _ in (key.partition("/") for key in below)}
    return "\n".join(sorted(names)) or None


def _text(text: str) -> wsgi.Response:
    return wsgi.Response(text.encode(), content_type="text/plain")


def _fault(error: errors.Error, request: wsgi.Request) -> wsgi.Response:
    """A bare line: whatever went wrong, a guest learns no more than it asked."""
    lines = {400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
    text = lines.get(error.status, "Service Unavailable" if error.status == 503 else "Error")
    answer = _text(f"{error.status} - {text}\n")
    answer.status_code = error.status
    return answer


# --- tokens (IMDSv2) ------------------------------------------------------------------------


def _token(request: wsgi.Request, guest: GuestFacts, words: list[str]) -> str:
    if words != ["latest", "api", "token"]:
        raise errors.NoSuchPath(path=ascii(request.path[:200]))
    if "x-forwarded-for" in request.headers:
        # AWS: a proxy that was tricked into fetching says so; it gets no token
        raise errors.Forbidden(reason="a token is not given to a proxy")
    ttl_s = request.headers.get(TTL_S, "")
    if not re.fullmatch(r"[0-9]{1,5}", ttl_s) or not 1 <= int(ttl_s) <= LONGEST_TTL_S:
        raise errors.BadRequest(reason=f"{TTL_S} must be 1 to {LONGEST_TTL_S}")
    return token(guest.id, int(time.time()) + int(ttl_s))


def token(instance_id: str, until: int) -> str:
    """A token that holds for the instance before `until` (seconds since 1970); nothing is kept."""
    expiry = struct.pack("!Q", until)
    return base64.urlsafe_b64encode(expiry + _seal(instance_id, expiry)).decode()


def token_holds(given: str, instance_id: str) -> bool:
    """Whether `given` is a token of this instance whose time is not over."""
    try:
        raw = base64.urlsafe_b64decode(given.encode("ascii"))
        until = int(struct.unpack("!Q", raw[:8])[0])
    except (ValueError, struct.error):
        return False
    return hmac.compare_digest(given, token(instance_id, until)) and time.time() < until


def _seal(instance_id: str, expiry: bytes) -> bytes:
    key = config.CONF.secret_key.encode()
    if not key:
        raise errors.Unavailable(reason="secret_key is not set")
    text = b"metadata-token\0" + instance_id.encode() + b"\0" + expiry
    return hmac.new(key, text, hashlib.sha256).digest()


# --- sockets --------------------------------------------------------------------------------


def serve(path: str, lookup: Lookup) -> NoReturn:
    """Serve every socket the network daemon hands out at `path`, for ever.

    Away or ended, the daemon is asked again each second; the sockets in hand are served meanwhile.
    """
    listeners: dict[int, Any] = {}
    said = ""
    while True:
        try:
            with contextlib.closing(_connect(path)) as feed:
                LOG.info("connected to the network daemon")
                said = ""
                _follow(feed, listeners, lookup)
            LOG.warning("the network daemon went away; %d networks are served", len(listeners))
        except OSError as error:
            if said != str(error):
                LOG.warning("waiting for the network daemon: %s (%s)", error, path)
                said = str(error)
        concurrency.sleep(RETRY_S)


def _connect(path: str) -> Any:
    feed = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        feed.connect(path)
    except BaseException:
        feed.close()
        raise
    return feed


def _follow(feed: Any, listeners: dict[int, Any], lookup: Lookup) -> None:
    for message, descriptors in _messages(feed):
        if "numbers" in message:
            for number in set(listeners) - set(message["numbers"]):
                _close(listeners, number)
            continue
        number = message["number"]
        if not descriptors:
            _close(listeners, number)
            continue
        fresh = socket.socket(fileno=descriptors[0])
        serving = application(message["network"], lookup)
        concurrency.start(f"metadata-{number}", _serve_one, fresh, serving)
        _close(listeners, number)  # after the new one listens: connections waiting go over to it
        listeners[number] = fresh
        LOG.info("serving network %s (number %d)", message["network"], number)


def _serve_one(listener: Any, serving: wsgi.Application) -> None:
    try:
        concurrency.serve_wsgi(listener, serving)
    except OSError as error:
        if listener.fileno() != -1:
            LOG.error("a metadata socket failed: %s", error)


def _messages(feed: Any) -> Iterator[tuple[dict[str, Any], list[int]]]:
    while True:
        select.select([feed], [], [])  # recvmsg itself would stop every green thread
        space = socket.CMSG_SPACE(struct.calcsize("i"))
        data, rights, _, _ = feed.recvmsg(MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        if not data:
            return
        yield json.loads(data), [struct.unpack("i", raw)[0] for _, _, raw in rights]


def _close(listeners: dict[int, Any], number: int) -> None:
    listener = listeners.pop(number, None)
    if listener is not None:
        listener.close()
