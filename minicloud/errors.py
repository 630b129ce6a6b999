"""Every error of minicloud, once: what each protocol calls it and what it says.

Raise `errors.X(fact=value)`: the facts fill `text` and travel with the error, also over RPC.
`ec2` is the code in EC2's XML (the names are AWS's, see the EC2 API reference, "Error codes"),
`s3` in S3's, `status` the HTTP status, `fault` the name of OpenStack's fault object.
"""

from __future__ import annotations

from typing import Any, ClassVar

from typing_extensions import override


class Error(Exception):
    """Base of all: `facts` are plain values, `str(error)` is the sentence a user reads."""

    ec2: ClassVar[str] = "InternalError"
    s3: ClassVar[str] = ""  # "": as objectstore/app.py maps its kind
    status: ClassVar[int] = 500
    fault: ClassVar[str] = "computeFault"
    text: ClassVar[str] = "An internal error has occurred"

    def __init__(self, **facts: Any) -> None:
        self.facts = facts
        super().__init__(self.text.format(**facts))

    @override
    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self).__name__, self.facts)


def _rebuild(name: str, facts: dict[str, Any]) -> Error:
    return by_name(name)(**facts)


def by_name(name: str) -> type[Error]:
    """The class of that name, or `Error` when this release does not know it."""
    found = globals().get(name)
    return found if isinstance(found, type) and issubclass(found, Error) else Error


# --- what a request did wrong ---------------------------------------------------------------


class BadRequest(Error):
    ec2, status, fault = "InvalidParameterValue", 400, "badRequest"
    text = "{reason}"


class InvalidValue(BadRequest):
    text = "Value ({value}) for parameter {name} is invalid. {reason}"


class MissingParameter(BadRequest):
    ec2 = "MissingParameter"
    text = "The request must contain the parameter {name}"


class InvalidCombination(BadRequest):
    ec2 = "InvalidParameterCombination"


class UnknownParameter(BadRequest):
    ec2 = "UnknownParameter"
    text = "The parameter {name} is not recognized"


class InvalidFilter(BadRequest):
    ec2 = "InvalidParameterValue"
    text = "The filter '{name}' is invalid"


class InvalidNextToken(BadRequest):
    ec2 = "InvalidNextToken"
    text = "The token is not one this cloud gave out"


class InvalidMarker(BadRequest):
    text = "marker [{marker}] not found"


class InvalidBody(BadRequest):
    text = "Invalid input for {where}: {reason}"


class InvalidAction(BadRequest):
    ec2 = "InvalidAction"
    text = "The action {action} is not valid for this web service"


class NotBuilt(BadRequest):
    """AWS knows the action or value, this cloud does not serve it yet."""

    ec2 = "UnsupportedOperation"
    text = "{what} is not supported by this cloud"


class MalformedId(BadRequest):
    ec2 = "InvalidParameterValue"
    text = 'Invalid id: "{id}" (expecting "{expected}")'


class InvalidInstanceIdMalformed(MalformedId):
    ec2 = "InvalidInstanceID.Malformed"


class InvalidImageIdMalformed(MalformedId):
    ec2 = "InvalidAMIID.Malformed"


class InvalidGroupIdMalformed(MalformedId):
    ec2 = "InvalidGroupId.Malformed"


class InvalidVolumeIdMalformed(MalformedId):
    ec2 = "InvalidVolumeID.Malformed"


class MissingAction(BadRequest):
    ec2 = "MissingAction"
    text = "The request must contain the parameter Action"


class FilterLimitExceeded(BadRequest):
    ec2 = "FilterLimitExceeded"
    text = "A request may hold {limit} filter values, this one has {given}"


class DryRun(Error):
    """The request would have succeeded; raised to roll it back."""

    ec2, status = "DryRunOperation", 412
    text = "Request would have succeeded, but DryRun flag is set"


class RequestTooLarge(BadRequest):
    ec2, status, fault = "RequestEntityTooLarge", 413, "overLimit"
    text = "The request body is larger than {limit} bytes"


class RequestHeadTooLarge(BadRequest):
    ec2, s3, status = "RequestHeadTooLarge", "RequestHeaderSectionTooLarge", 431
    text = "The request's first line or its headers are larger than {limit} bytes"


class RequestTimedOut(BadRequest):
    ec2, s3, status = "RequestTimeout", "RequestTimeout", 408
    text = "The request did not come in time"


class InvalidRange(BadRequest):
    status = 416
    text = "The range is not within the {size} bytes"


class NoSuchPath(Error):
    ec2, status, fault = "InvalidRequest", 404, "itemNotFound"
    text = "There is nothing at {path}"


class MethodNotAllowed(Error):
    ec2, status, fault = "InvalidRequest", 405, "badMethod"
    text = "{method} is not allowed at {path}"


# --- who is asking --------------------------------------------------------------------------


class Unauthorized(Error):
    ec2, status, fault = "AuthFailure", 401, "unauthorized"
    text = "{reason}"


class MissingAuthentication(Unauthorized):
    ec2 = "MissingAuthenticationToken"
    text = "The request is not signed"


class MissingToken(Unauthorized):
    text = "The request has no header X-Auth-Token"


class InvalidToken(Unauthorized):
    """It is not ours, has expired, was revoked, or whoever had it is gone: all the same."""

    text = "The token is not valid, or not valid any more"


class WrongPassword(Unauthorized):
    """Also for a user or project that is not there: nobody learns which."""

    text = "The user, the password or the project is wrong"


class IncompleteSignature(Unauthorized):
    """The signature's parts are not all there, or not of their form."""

    ec2, status = "IncompleteSignature", 400


class SignatureWrong(Unauthorized):
    ec2, status = "SignatureDoesNotMatch", 403


class RequestExpired(Unauthorized):
    ec2, status = "RequestExpired", 400
    text = (
        "The request was signed {skew_s} seconds away from this cloud's clock; {limit_s} are"
        " allowed"
    )


class Forbidden(Error):
    ec2, status, fault = "UnauthorizedOperation", 403, "forbidden"
    text = "You are not authorized to perform this operation: {reason}"


# --- what is not there ----------------------------------------------------------------------


class NotFound(Error):
    ec2, status, fault = "InvalidParameterValue", 404, "itemNotFound"
    text = "{kind} {id} does not exist"


class InstanceNotFound(NotFound):
    ec2 = "InvalidInstanceID.NotFound"
    text = "The instance ID '{id}' does not exist"


class ImageNotFound(NotFound):
    ec2 = "InvalidAMIID.NotFound"
    text = "The image id '{id}' does not exist"


class VolumeNotFound(NotFound):
    ec2 = "InvalidVolume.NotFound"
    text = "The volume '{id}' does not exist"


class AttachmentNotFound(NotFound):
    ec2 = "InvalidAttachment.NotFound"
    text = "The volume '{id}' is not attached to {to}"


class KeyPairNotFound(NotFound):
    ec2 = "InvalidKeyPair.NotFound"
    text = "The key pair '{id}' does not exist"


class GroupNotFound(NotFound):
    ec2 = "InvalidGroup.NotFound"
    text = "The security group '{id}' does not exist"


class RuleNotFound(NotFound):
    ec2 = "InvalidPermission.NotFound"
    text = "The specified rule does not exist in this security group"


class FlavorNotFound(NotFound):
    ec2 = "InvalidParameterValue"
    text = "Invalid value '{id}' for InstanceType"


class ZoneNotFound(NotFound):
    ec2 = "InvalidParameterValue"
    text = "Invalid availability zone: [{id}]"


class HypervisorNotFound(NotFound):
    text = "The hypervisor '{id}' does not exist"


class UptimeUnknown(BadRequest):
    status, fault = 501, "notImplemented"
    text = "The uptime of a hypervisor is not told by this cloud"


class RoleNotFound(NotFound):
    text = "The role '{id}' does not exist"


class ThingNotFound(NotFound):
    """For ids of any kind: the kind of this one is unknown, or has no tags."""

    ec2, status = "InvalidID", 400
    text = "The ID '{id}' is not valid"


class ElasticAddressNotFound(NotFound):
    ec2 = "InvalidAddress.NotFound"
    text = "Address '{id}' not found."


class AllocationNotFound(NotFound):
    ec2 = "InvalidAllocationID.NotFound"
    text = "The allocation ID '{id}' does not exist"


class VpcNotFound(NotFound):
    ec2 = "InvalidVpcID.NotFound"
    text = "The vpc ID '{id}' does not exist"


class SubnetNotFound(NotFound):
    ec2 = "InvalidSubnetID.NotFound"
    text = "The subnet ID '{id}' does not exist"


class SnapshotNotFound(NotFound):
    ec2 = "InvalidSnapshot.NotFound"
    text = "The snapshot '{id}' does not exist."


class UserNotFound(NotFound):
    text = "The user '{id}' does not exist"


class HostNotFound(NotFound):
    text = "The host {host} is not known"


class ProjectNotFound(NotFound):
    text = "The project '{id}' does not exist"


class NoNetwork(NotFound):
    """AWS: no VPC was named and there is no default one."""

    ec2, status, fault = "VPCIdNotSpecified", 400, "badRequest"
    text = "There is no network for instances of the project '{project}'"


# --- what stands in the way -----------------------------------------------------------------


class Conflict(Error):
    ec2, status, fault = "IncorrectState", 409, "conflictingRequest"
    text = "{reason}"


class WrongState(Conflict):
    """Compare-and-swap lost, or the table does not know the move."""

    ec2 = "IncorrectState"
    text = "The {kind} {id} is {state}: it cannot become {to} now"


class WrongInstanceState(WrongState):
    ec2 = "IncorrectInstanceState"
    text = "The instance '{id}' is not in a state from which it can be {to} (it is {state})"


class WrongVolumeState(WrongState):
    text = "The volume '{id}' is not in a state from which it can be {to} (it is {state})"


class VolumeInUse(Conflict):
    ec2, status = "VolumeInUse", 400
    text = "The volume '{id}' is attached to {instance}"


class ZoneMismatch(Conflict):
    ec2, status = "InvalidVolume.ZoneMismatch", 400
    text = "The volume '{id}' is in zone {zone}, the instance in {other}"


class IdempotentMismatch(Conflict):
    ec2, status = "IdempotentParameterMismatch", 400
    text = "The client token '{token}' was used before with other arguments"


class KeyPairExists(Conflict):
    ec2, status = "InvalidKeyPair.Duplicate", 400
    text = "The key pair '{name}' already exists"


class InvalidKey(BadRequest):
    ec2 = "InvalidKey.Format"
    text = "The key is not in a valid OpenSSH public key format: {reason}"


class GroupExists(Conflict):
    ec2, status = "InvalidGroup.Duplicate", 400
    text = "The security group '{name}' already exists"


class GroupReserved(Conflict):
    ec2, status = "CannotDelete", 400
    text = "The security group 'default' cannot be deleted by a user"


class GroupInUse(Conflict):
    ec2, status = "DependencyViolation", 400
    text = "The security group '{id}' is in use by {user}"


class RuleExists(Conflict):
    ec2, status = "InvalidPermission.Duplicate", 400
    text = 'The rule "{rule}" already exists in this security group'


class RuleMalformed(BadRequest):
    ec2 = "InvalidPermission.Malformed"


class NameTaken(Conflict):
    text = "A {kind} named '{name}' already exists"


class NotFenced(Conflict):
    text = "The host {host} is not fenced{why}: minicloud-manage host fence {host}"


class StillAlive(Conflict):
    text = (
        "The {daemon} daemon of host {host} still lives: it would go on, or be back in a moment."
        " Switch the host off or cut it from the network first (--force fences it all the same)"
    )


class GivenAway(Conflict):
    """The operator has given this machine's host name to another machine."""

    text = "{daemon} is another machine's now: this one had the name before it was rebound"


class AnotherCloud(Conflict):
    """Nothing of this host may be compared with rows of a cloud it does not belong to."""

    text = (
        "the database is that of cloud {found}, but this host belongs to cloud {known}: see"
        " [database] connection, or remove {file} to give the host to the other cloud"
    )


class InUse(Conflict):
    ec2 = "DependencyViolation"
    text = "The {kind} '{name}' is in use: {reason}"


class QuotaExceeded(Error):
    ec2, status, fault = "InstanceLimitExceeded", 403, "forbidden"
    text = (
        "Your quota of {resource} allows {limit}, {used} are used and {wanted} more were asked for"
    )


class VcpuLimitExceeded(QuotaExceeded):
    ec2 = "VcpuLimitExceeded"


class VolumeLimitExceeded(QuotaExceeded):
    ec2 = "VolumeLimitExceeded"


class AttachmentLimitExceeded(QuotaExceeded):
    ec2, status = "AttachmentLimitExceeded", 400


class GroupLimitExceeded(QuotaExceeded):
    ec2, status = "SecurityGroupLimitExceeded", 400


class RuleLimitExceeded(QuotaExceeded):
    ec2, status = "RulesPerSecurityGroupLimitExceeded", 400


class InstanceGroupsLimitExceeded(QuotaExceeded):
    ec2, status = "SecurityGroupsPerInstanceLimitExceeded", 400


class KeyPairLimitExceeded(QuotaExceeded):
    ec2, status = "KeyPairLimitExceeded", 400


class ImageLimitExceeded(QuotaExceeded):
    ec2, status = "ResourceLimitExceeded", 400


class TagLimitExceeded(QuotaExceeded):
    ec2, status = "TagLimitExceeded", 400


class NoMoreAddresses(Error):
    ec2, status, fault = "InsufficientFreeAddressesInSubnet", 400, "conflictingRequest"
    text = "The network '{network}' has {free} free addresses, {wanted} were asked for"


class NoValidHost(Error):
    """Only ever the reason of an instance in `error`: decided after the answer."""

    ec2, status, fault = "InsufficientInstanceCapacity", 500, "computeFault"
    text = "No host can take this instance: {refusals}"


class NoVolumeHost(Error):
    """Only ever the reason of a volume in `error`: decided after the answer."""

    ec2, status, fault = "InsufficientVolumeCapacity", 500, "computeFault"
    text = "No host can take this volume: {refusals}"


class Unavailable(Error):
    ec2, status, fault = "Unavailable", 503, "serviceUnavailable"
    text = "The cloud cannot do this now: {reason}"


# --- the object store: `s3` is the code in S3's XML (S3 API reference, "Error responses") ---


class NoSuchBucket(NotFound):
    s3, status = "NoSuchBucket", 404
    text = "The specified bucket '{bucket}' does not exist"


class NoSuchKey(NotFound):
    s3, status = "NoSuchKey", 404
    text = "The specified key does not exist"


class NoSuchUpload(NotFound):
    s3, status = "NoSuchUpload", 404
    text = "The specified multipart upload does not exist: it may have been aborted or completed"


class NotConfigured(NotFound):
    status = 404
    text = "The bucket has no {what} configuration"


class BucketAlreadyExists(Conflict):
    s3, status = "BucketAlreadyExists", 409
    text = "The bucket name '{bucket}' is taken by another project"


class BucketAlreadyOwnedByYou(Conflict):
    s3, status = "BucketAlreadyOwnedByYou", 409
    text = "The bucket '{bucket}' is yours already"


class TooManyBuckets(QuotaExceeded):
    s3, status = "TooManyBuckets", 400


class TooManyUploads(QuotaExceeded):
    """S3 itself knows no such limit, and no name for it; this is Ceph's for a full quota."""

    s3, status = "QuotaExceeded", 403


class BucketNotEmpty(Conflict):
    s3, status = "BucketNotEmpty", 409
    text = "The bucket '{bucket}' is not empty"


class InvalidBucketName(BadRequest):
    s3, status = "InvalidBucketName", 400
    text = "The bucket name '{bucket}' is not valid: 3 to 63 of a-z, 0-9, . and -"


class KeyTooLong(BadRequest):
    s3, status = "KeyTooLongError", 400
    text = "A key has up to 1024 bytes of UTF-8"


class BadDigest(BadRequest):
    s3, status = "BadDigest", 400
    text = "The {name} you specified did not match what we received"


class InvalidDigest(BadRequest):
    s3, status = "InvalidDigest", 400
    text = "The header {name} is not a valid digest"


class IncompleteBody(BadRequest):
    s3, status = "IncompleteBody", 400
    text = "The body has fewer bytes than the request said"


class InvalidChunkSize(BadRequest):
    s3, status = "InvalidChunkSizeError", 403
    text = "Only the last chunk of a body may have fewer than {limit} bytes"


class MissingContentLength(BadRequest):
    s3, status = "MissingContentLength", 411
    text = "The request must say its body's length"


class EntityTooLarge(BadRequest):
    s3, status = "EntityTooLarge", 400
    text = "A request may carry {limit} bytes at most"


class EntityTooSmall(BadRequest):
    s3, status = "EntityTooSmall", 400
    text = "Part {number} is smaller than {limit} bytes and not the last"


class InvalidPart(BadRequest):
    s3, status = "InvalidPart", 400
    text = "Part {number} was not uploaded, or its ETag or checksum is another"


class InvalidPartOrder(BadRequest):
    s3, status = "InvalidPartOrder", 400
    text = "The parts are not in ascending order"


class InvalidArgument(BadRequest):
    s3, status = "InvalidArgument", 400
    text = "{reason}"


class MalformedXML(BadRequest):
    s3, status = "MalformedXML", 400
    text = "The XML is not well-formed or not what this request takes"


class MetadataTooLarge(BadRequest):
    s3, status = "MetadataTooLarge", 400
    text = "Metadata may have {limit} bytes, these are more"


class PreconditionFailed(BadRequest):
    s3, status = "PreconditionFailed", 412
    text = "The condition {name} does not hold"


class S3NotBuilt(BadRequest):
    s3, status = "NotImplemented", 501
    text = "{what} is not implemented by this cloud"


class AccessDenied(Unauthorized):
    s3, status = "AccessDenied", 403
    text = "{reason}"


class InvalidAccessKeyId(Unauthorized):
    s3, status = "InvalidAccessKeyId", 403
    text = "The access key you provided is not known here, or not in that project"


class RequestTimeTooSkewed(Unauthorized):
    s3, status = "RequestTimeTooSkewed", 403
    text = (
        "The request was signed {skew_s} seconds away from this cloud's clock; {limit_s}"
        " are allowed"
    )


class AuthorizationHeaderMalformed(Unauthorized):
    s3, status = "AuthorizationHeaderMalformed", 400
    text = "{reason}"


class ContentSHA256Mismatch(BadRequest):
    s3, status = "XAmzContentSHA256Mismatch", 400
    text = "The x-amz-content-sha256 you specified did not match what we received"


# --- what a daemon meets while it applies ---------------------------------------------------


class Final(Error):
    """Trying again cannot help: the row ends as its state's line says, with this reason."""

    text = "{reason}"


class ImageBroken(Final):
    text = "The image {id} cannot be used: {reason}"


class DiskGone(Final):
    text = "Its disk is not on this host"


class TryLater(Error):
    """Another part is away; the row waits and is tried again."""

    text = "{reason}"


class Overtaken(Error):
    """Somebody moved the row while this worker was on it: stop quietly."""

    text = "{id} was changed by another request"


class Fenced(Error):
    """This daemon's epoch is no longer its own: its host was fenced, or another process is it
    now.  The process must end."""

    text = "{daemon} epoch {epoch} may not act: its host is fenced, or another process is it now"


class CommandFailed(Error):
    """A tool ended badly; `stderr` is its last words, bounded."""

    text = "{command} ended with {status}: {stderr}"
