"""The front door on the S3 port: S3, and image bytes for the cloud's own daemons.

    PUT /v1/images/<uuid>   the bytes of an image whose row is "uploading"
    GET, HEAD               the bytes of an active image; one range may be asked for

These paths take internal signatures only (`auth.internal`); no bucket can be called `v1`.  All
others are S3's (`operations`), and so are keys of that name where the host names the bucket.  The
form of every error is S3's (S3 API reference, "Error responses").
"""

from __future__ import annotations

import functools
import hmac
import logging
import re

from minicloud import config, context, errors, wsgi
from minicloud.auth import database, internal, s3, signature
from minicloud.checkpoint import checkpoint
from minicloud.cloud import image_bytes
from minicloud.db import models
from minicloud.objectstore import conditions, formats, operations, requests, store, uploads, xml
from minicloud.objectstore.manager import Manager

LOG = logging.getLogger(__name__)

BODY_LIMIT = 4 << 20  # of what is not streamed
BYTES = "application/octet-stream"
IMAGE = re.compile(r"/v1/images/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
SHA256 = re.compile(r"[0-9a-f]{64}")

# the first that fits: what S3 calls it, and its status there
CODES: tuple[tuple[type[errors.Error], str, int], ...] = (
    (errors.SignatureWrong, "SignatureDoesNotMatch", 403),
    (errors.Unauthorized, "AccessDenied", 403),
    (errors.Forbidden, "AccessDenied", 403),
    (errors.NotFound, "NoSuchKey", 404),
    (errors.RequestTooLarge, "EntityTooLarge", 400),
    (errors.InvalidRange, "InvalidRange", 416),
    (errors.MethodNotAllowed, "MethodNotAllowed", 405),
    (errors.BadRequest, "InvalidRequest", 400),
    (errors.Conflict, "OperationAborted", 409),
    (errors.Unavailable, "ServiceUnavailable", 503),
    (errors.Error, "InternalError", 500),
)


def app(manager: Manager) -> wsgi.Application:
    """The WSGI callable of the object store; it may be served before the manager has started."""
    return wsgi.application(functools.partial(_handle, manager), _fault, BODY_LIMIT)


def _handle(manager: Manager, request: wsgi.Request) -> wsgi.Response:
    match = IMAGE.fullmatch(request.path)
    elsewhere = requests.in_host(request) and not internal.signs(request.headers)
    if match is None or elsewhere:
        return _s3(manager, request)
    internal.check(request.method, request.path, request.headers)
    if not manager.ready:
        raise errors.Unavailable(reason="the object store is starting")
    if request.method in ("GET", "HEAD"):
        return _get(manager, request, match[1])
    if request.method == "PUT":
        return _put(manager, request, match[1])
    raise errors.MethodNotAllowed(method=request.method, path=request.path)


def _s3(manager: Manager, request: wsgi.Request) -> wsgi.Response:
    """What everybody may ask: S3."""
    bucket, key, path = requests.place(request)
    received = signature.Received(
        request.method, request.path, request.query_string, request.headers, b""
    )
    signed = s3.verify(received, request.ctx, database.by_access_key, path)
    request.ctx = signed.ctx
    if not manager.ready:
        raise errors.Unavailable(reason="the object store is starting")
    with context.use(request.ctx):
        answer = operations.answer(requests.Call(manager, request, signed, bucket, key))
    return _identified(answer, request)


def _fault(error: errors.Error, request: wsgi.Request) -> wsgi.Response:
    code, status = next(
        (code, status) for known, code, status in CODES if isinstance(error, known)
    )
    if error.s3:
        code, status = error.s3, error.status
    items = [
        ("Code", error.facts.get("code") or code),
        ("Message", str(error)[:1000]),
        ("Resource", request.path[:1000]),
        ("RequestId", request.ctx.request_id),
    ]
    if isinstance(error, errors.AuthorizationHeaderMalformed):
        items.append(("Region", str(config.CONF.region)))
    size = error.facts["size"] if isinstance(error, errors.InvalidRange) else None
    if size is not None:
        items.append(("ActualObjectSize", str(size)))
    answer = wsgi.Response(xml.error(items), status, content_type="application/xml")
    if size is not None:
        answer.headers["Content-Range"] = f"bytes */{size}"
    return _identified(answer, request)


def _identified(answer: wsgi.Response, request: wsgi.Request) -> wsgi.Response:
    answer.headers["x-amz-request-id"] = request.ctx.request_id
    return answer


# --- reading ----------------------------------------------------------------------------------


def _get(manager: Manager, request: wsgi.Request, id: str) -> wsgi.Response:
    image = uploads.get(id)
    if image.state != "active" or image.host != manager.me.host:
        raise errors.ImageNotFound(id=id)
    size = _size_on_disk(image)
    part = conditions.wanted(request.headers.get("range", ""), size)
    start, length = part or (0, size)
    answer = wsgi.Response(
        app_iter=store.send(image.file, start, length),
        content_type=BYTES,
        content_length=length,
        etag=image.sha256,
        accept_ranges="bytes",
    )
    if part:
        answer.status_code = 206
        answer.content_range = (start, start + length, size)
    return _identified(answer, request)


def _size_on_disk(image: models.Image) -> int:
    try:
        size = store.size(image.file)
    except OSError as error:
        LOG.error("image %s: %s", image.id, error)
        size = -1
    if size != image.size:
        LOG.error("image %s: %s has %d bytes, not %s", image.id, image.file, size, image.size)
        raise errors.Unavailable(reason=f"the bytes of image {image.id} are missing")
    return size


# --- writing ----------------------------------------------------------------------------------


def _put(manager: Manager, request: wsgi.Request, id: str) -> wsgi.Response:
    length = request.length()
    if length is None:
        raise errors.BadRequest(reason="The request must say its body's length")
    if length > image_bytes.max_bytes():
        raise errors.RequestTooLarge(limit=image_bytes.max_bytes())
    if id in manager.receiving:
        raise errors.Conflict(reason=f"The image {id} is being uploaded by another request")
    manager.receiving.add(id)
    try:
        image = uploads.begin(id, manager.me)
        try:
            sha256 = _take(request, image, length)
        except Exception as error:
            _give_up(request.ctx, id, error)
            raise
    finally:
        manager.receiving.discard(id)
    return _identified(wsgi.Response(content_type=BYTES, etag=sha256), request)


def _take(request: wsgi.Request, image: models.Image, length: int) -> str:
    """The bytes are on disk and the image is active; its SHA-256."""
    try:
        received = store.receive(image.file, request.body_file_raw.read, length)
    except store.Truncated:
        raise errors.BadRequest(reason="The request's body ended early") from None
    wanted = request.headers.get("x-amz-content-sha256", "").lower()
    if SHA256.fullmatch(wanted) and not hmac.compare_digest(wanted, received.sha256):
        raise errors.BadRequest(reason=f"The body's SHA-256 is {received.sha256}, not {wanted}")
    format, virtual_size = formats.inspect(
        image.kind, received.size, received.head, image_bytes.max_bytes()
    )
    uploads.finish(
        request.ctx,
        image,
        size=received.size,
        sha256=received.sha256,
        format=format,
        virtual_size=virtual_size,
    )
    checkpoint("upload.committed")
    LOG.info("image %s: active, %d bytes, %s", image.id, received.size, format)
    return received.sha256


def _give_up(ctx: context.Context, id: str, error: Exception) -> None:
    """The row says why; when the database is away, the next sweep does this."""
    reason = str(error) if isinstance(error, errors.Error) else "internal error"
    try:
        uploads.give_up(ctx, id, reason)
    except errors.Error as away:
        LOG.warning("image %s: left to the next sweep: %s", id, away)
