"""The EC2 front door: HTTP to an action and back.

`GET` or `HEAD` without parameters and signature answers the API's versions, as Nova's did: that
is how to see that it lives.  Everything else must be signed.
"""

from __future__ import annotations

import re

from minicloud import context, errors, nouns, wsgi
from minicloud.api.aws import protocol
from minicloud.api.ec2 import actions, endpoint
from minicloud.auth import database, signature

XML = "text/xml;charset=UTF-8"
VERSION = "2016-11-15"  # the model's; what a request without Version means

# their status is HTTP's business; to whatever else a client does wrong EC2 answers 400
_OWN_STATUS = (
    errors.NoSuchPath,
    errors.MethodNotAllowed,
    errors.RequestTooLarge,
    errors.Unauthorized,
    errors.Forbidden,
    errors.DryRun,
)
# "longer IDs" came with 2016; clients of older versions expect eight digits
_LONG_ID = re.compile(
    rb">((?:i|r|ami|aki|ari|sg|sgr|eni|key|vol|snap|eipalloc)-[0-9a-f]{8})[0-9a-f]{9}<"
)


nouns.load("minicloud.api.ec2")


def app() -> wsgi.Application:
    """The WSGI callable of the EC2 API, its models loaded."""
    for name in actions.names():
        protocol.operation(actions.SERVICE, name)
    return wsgi.application(_handle, _fault, endpoint.CONF.ec2_body_limit)


def _handle(request: wsgi.Request) -> wsgi.Response:
    if request.path not in endpoint.PATHS:
        raise errors.NoSuchPath(path=request.path[:200])
    if request.method not in ("GET", "HEAD", "POST"):
        raise errors.MethodNotAllowed(method=request.method[:20], path=request.path)
    if (
        request.method != "POST"
        and not request.query_string
        and "authorization" not in request.headers
    ):
        return wsgi.Response(f"{VERSION}\n".encode(), content_type="text/plain")
    received = signature.Received(
        request.method, request.path, request.query_string, request.headers, request.read()
    )
    request.ctx = signature.verify(received, actions.SERVICE, request.ctx, database.by_access_key)
    with context.use(request.ctx):
        return _act(request, received)


def _act(request: wsgi.Request, received: signature.Received) -> wsgi.Response:
    pairs = [*received.parameters(), *signature.decode(_text(received.body))]
    given = dict(pairs)
    if not given.get("Action"):
        raise errors.MissingAction
    version = given.get("Version") or VERSION
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|1\.0", version):
        raise errors.InvalidValue(
            value=version[:80], name="Version", reason="Expected a date like " + VERSION
        )
    operation, result = actions.call(request.ctx, given["Action"], pairs)
    body = protocol.render(operation, result, version, request.ctx.request_id)
    if version < "2016":
        body = _LONG_ID.sub(rb">\1<", body)
    return wsgi.Response(body, content_type=XML)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise errors.BadRequest(reason="The request's body is not UTF-8") from error


def _fault(error: errors.Error, request: wsgi.Request) -> wsgi.Response:
    own = isinstance(error, _OWN_STATUS) or error.status >= 500
    answer = wsgi.Response(
        protocol.fault(error.ec2, str(error), request.ctx.request_id),
        error.status if own else 400,
        content_type=XML,
    )
    if isinstance(error, errors.MethodNotAllowed):
        answer.allow = ("GET", "HEAD", "POST")
    return answer
