"""Every kind of thing that can be wrong, once: what the auditor tells and the sweeps mend.

A comparison takes what a host shows and what the rows say and returns findings.  The daemons'
sweeps mend what their own comparisons find; `minicloud-manage audit` shows the same.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Kind:
    """`wrong`: why it must not be; `fix`: what `audit --fix` does about it, or, where it can do
    nothing (`mended` is false), what the operator can."""

    name: str
    wrong: str
    fix: str
    mended: bool = True


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    `id` is the thing's (an instance's, a volume's, a name on the host), `what` says it in words,
    `where` is the daemon that saw it or "database".  `since` (UTC) and `request_id` are those of
    the thing's last event where it has one, else `since` is the artefact's own time.  `facts` are
    for whoever mends it; "about" among them is the thing whose events tell more, "why" what the
    row itself says.
    """

    kind: str
    id: str
    what: str
    where: str = ""
    since: str | None = None
    request_id: str | None = None
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Finding:
        """Unknown keys are ignored: a newer daemon may tell more."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    @property
    def about(self) -> str:
        return self.facts.get("about", self.id)

    @property
    def text(self) -> str:
        """`what`, and why when somebody said it."""
        why = self.facts.get("why")
        return f"{self.what}: {why}" if why else self.what

    @property
    def same(self) -> tuple[str, str, str, str]:
        """What makes two findings the same one, looked at twice."""
        return (self.where, self.kind, self.id, self.what)


def stamp(at: dt.datetime | float | None) -> str | None:
    """A time as a finding tells it: UTC, to the second; a number is a file's time."""
    if isinstance(at, int | float):
        at = dt.datetime.fromtimestamp(at, dt.UTC)
    return None if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


KINDS: dict[str, Kind] = {}


def _kind(name: str, wrong: str, fix: str, *, mended: bool = True) -> str:
    KINDS[name] = Kind(name, wrong, fix, mended)
    return name


# --- the daemons ----------------------------------------------------------------------------

DISTRUSTED = _kind(
    "distrusted-database",
    "The database knows an older state of this daemon than its host: it was restored or is"
    " another one, so nothing is cleaned up.",
    "Look whether this is the right database; if it is, `audit --fix --trust`: what no row names"
    " is removed by the next sweeps.",
    mended=False,
)
DEAF = _kind(
    "deaf-daemon",
    "The daemon's heart beats, but nobody reads its queue: nudges and asks are lost.",
    "Restart the daemon.",
    mended=False,
)
DOUBLED = _kind(
    "doubled-daemon",
    "More than one process reads the daemon's queue: each gets a part of its messages.",
    "Stop the one that is not at `service list`'s host.",
    mended=False,
)

# --- rows alone -----------------------------------------------------------------------------

STUCK = _kind(
    "stuck-row",
    "Nobody works on the row, nor has looked at it for two sweeps.",
    "The daemon whose work it is looks at all that waits for it now.",
)
UNKNOWN_STATE = _kind(
    "unknown-state",
    "No state table has this state: nobody will ever end it.",
    "Bring all daemons to one release, or restore the row.",
    mended=False,
)
UNKNOWN_HOST = _kind(
    "unknown-host",
    "No such daemon is registered: nobody looks after the row.",
    "Start that host's daemon, or end the thing.",
    mended=False,
)
ADDRESS_WITHOUT_OWNER = _kind(
    "address-without-owner",
    "The address is booked for an instance that is not there any more.",
    "The booking leaves; its network's host gives it back.",
)
ADDRESS_NOT_FREED = _kind(
    "address-not-freed",
    "Nothing answers for the address any more, yet it is booked.",
    "The booking is deleted.",
)
NO_ADDRESS = _kind(
    "instance-without-address",
    "Every instance that holds anything has an address.",
    "Terminate the instance and run another.",
    mended=False,
)
MEMBER_WITHOUT_INSTANCE = _kind(
    "member-without-instance",
    "The security group has a member that is not there any more.",
    "The membership is deleted, and the group applied anew.",
)
ATTACHMENT_ASTRAY = _kind(
    "attachment-astray",
    "The volume is attached to an instance that is not there, or is itself deleted.",
    "The volume is detached.",
)
ATTACHMENT_BOOKING = _kind(
    "attachment-booking",
    "Exactly an attachment that is not detached holds its volume and its device.",
    "What is detached holds nothing; what is not holds what nobody else holds.",
)
TWO_OWNERS = _kind(
    "two-owners",
    "A volume, and a device of an instance, has one attachment at a time.",
    "Detach one of them.",
    mended=False,
)
TAG_WITHOUT_THING = _kind(
    "tag-without-thing",
    "Tags go with what they are on.",
    "The tag is deleted.",
)
APPLIED_OF_THE_GONE = _kind(
    "applied-of-the-gone",
    "What a host has applied is remembered only of things that exist.",
    "The memory is deleted.",
)
UPLOAD_WITHOUT_BUCKET = _kind(
    "upload-without-bucket",
    "A part belongs to an upload and an upload to a bucket.",
    "The row is deleted; its file goes with the object store's next sweep.",
)
QUOTA = _kind(
    "quota-exceeded",
    "The project has more than its quota (lowering the quota does that too).",
    "Raise the quota, or end something of the project's.",
    mended=False,
)
CAPACITY = _kind(
    "capacity-exceeded",
    "More is booked on the host than the scheduler may give (a host that shrank does that too).",
    "End something on that host, or give it more.",
    mended=False,
)

# --- compute hosts --------------------------------------------------------------------------

GUEST_WITHOUT_ROW = _kind(
    "guest-without-row",
    "A domain or a directory of a guest's files on this host has no row that says so.",
    "It is removed, a few at a time; its disk is kept in trash/ for a day.",
)
GUEST_DIFFERS = _kind(
    "guest-differs",
    "The row says something else than the hypervisor.",
    "The row follows the hypervisor.",
)
ROOT_DISK_GONE = _kind(
    "disk-gone",
    "The guest's root disk is not on its host; nothing starts it with an empty one.",
    "Mount what belongs at `[compute] instances_path`, or terminate the instance.",
    mended=False,
)
DISK_GONE = _kind(
    "disk-not-in-guest",
    "The volume is attached, but the running guest has no such disk.",
    "The volume becomes detached.",
)
DISK_WITHOUT_ROW = _kind(
    "disk-without-attachment",
    "The guest has a volume's disk that no attachment names.",
    "The guest is asked to let go of the disk.",
)
TAP_WITHOUT_GUEST = _kind(
    "tap-without-guest",
    "A network card on the host belongs to no guest of it.",
    "The card is deleted.",
)
FILTER_DIFFERS = _kind(
    "filter-differs",
    "The host's packet filter is not what the security groups and addresses make of it.",
    "The filter is replaced in one step.",
)
PART_LEFT = _kind(
    "part-left",
    "A temporary file of a process that is gone.",
    "The file is deleted.",
)

# --- network hosts --------------------------------------------------------------------------

NETWORK_WITHOUT_ROW = _kind(
    "network-without-row",
    "Bridges, namespace or files of a network that no row names.",
    "All of it is removed.",
)
NETWORK_LACKS = _kind(
    "network-lacks",
    "Something a served network consists of is not on its host.",
    "The network is served anew.",
)
ANSWER_WITHOUT_BOOKING = _kind(
    "answer-without-booking",
    "DHCP answers for an address that is not booked for this card.",
    "The lease and the entry are withdrawn.",
)
BOOKING_NOT_ANSWERED = _kind(
    "booking-not-answered",
    "DHCP does not answer for an address that is booked.",
    "The network is served anew.",
)

# --- volume hosts ---------------------------------------------------------------------------

VOLUME_WITHOUT_ROW = _kind(
    "volume-without-row",
    "A file of a volume on this host has no row that says so.",
    "It is put aside for a day, a few at a time.",
)
VOLUME_DIFFERS = _kind(
    "volume-differs",
    "The row says something else of the volume's bytes than the disk.",
    "The row follows the disk.",
)
EXPORT_WITHOUT_ROW = _kind(
    "export-without-attachment",
    "A volume is exported to nobody who has it attached.",
    "The export is withdrawn, and whoever is in it put out.",
)
EXPORT_MISSING = _kind(
    "export-missing",
    "An attached volume is not exported.",
    "It is exported anew.",
)

# --- the object store -----------------------------------------------------------------------

FILE_WITHOUT_ROW = _kind(
    "file-without-row",
    "A file of the object store belongs to no image, object or part.",
    "The file is deleted, a few at a time.",
)
IMAGE_DIFFERS = _kind(
    "image-differs",
    "The row says something else of the image's bytes than the disk.",
    "The row follows the disk: in error while the file is missing or has another size.",
)
OBJECT_LOST = _kind(
    "object-lost",
    "The bytes of an object or of a part are not there.",
    "Put the file back from a backup, or delete the object.",
    mended=False,
)
UPLOAD_CUT_OFF = _kind(
    "upload-cut-off",
    "Nobody sends the bytes this row waits for.",
    "The upload is given up.",
)
