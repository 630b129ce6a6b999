"""HTTP in and out of every front door: request id, body limit, access log, errors as answers.

A front door is two functions.  `handle(request)` answers or raises; `fault(error, request)` says
an error in the door's own protocol.  Whatever goes wrong, the client gets an answer of that
protocol with the request id, and the log one line for each request.  Requests and responses are
WebOb's; docs/decisions/006 says what of WebOb a front door leaves alone.
"""

from __future__ import annotations

import functools
import logging
import time
import urllib.parse
from collections.abc import Callable, Iterable
from typing import Any

import webob.response
from typing_extensions import override
from webob.request import BaseRequest

from minicloud import concurrency, connections, context, errors
from minicloud.context import Context

LOG = logging.getLogger(__name__)

Start = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


class Request(BaseRequest):
    """What a client sent; `read` gives the body, once, `body_file_raw` what is too long for that.

    `ctx` knows the request id and the client's address; the front door replaces it when it knows
    who asks.  `path` and `headers` are not WebOb's: a signature is over what was sent.
    """

    def __init__(self, environ: dict[str, Any], body_limit: int) -> None:
        super().__init__(environ)
        self.ctx = Context(context.new_request_id(), address=self.remote_addr or "")
        self.body_limit = body_limit

    @property
    @override
    def path(self) -> str:
        """Still percent-encoded, without the query."""
        raw = self.environ.get("RAW_PATH_INFO")  # the server's; not every server has it
        return raw or urllib.parse.quote(self.environ.get("PATH_INFO", "").encode("latin-1"))

    @functools.cached_property
    @override
    def headers(self) -> dict[str, str]:  # type: ignore[override]
        """By names in lower case; a header that came twice is joined by commas.

        The server's own list knows more than WSGI's variables: a name with an underscore, and
        whether a content type was sent or is the server's invention.
        """
        found: dict[str, str] = {}
        for name, value in self.environ.get("headers_raw", super().headers.items()):
            key = name.lower()
            found[key] = f"{found[key]},{value}" if key in found else value
        return found

    def read(self) -> bytes:
        """The whole body, at most `body_limit` bytes; RequestTooLarge without reading more."""
        length = self.length()
        if length is None:
            return self._read(self.body_limit + 1)
        if length > self.body_limit:
            raise errors.RequestTooLarge(limit=self.body_limit)
        body = self._read(length) if length else b""
        if len(body) < length:
            raise errors.BadRequest(reason="The request's body ended early")
        return body

    def length(self) -> int | None:
        """Bytes of the body; None when the client sends chunks until it is done."""
        given = self.headers.get("content-length")
        if not given:
            chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
            return None if chunked else 0
        if not connections.LENGTH.fullmatch(given):
            raise errors.BadRequest(reason="The header Content-Length is not a number")
        return int(given)

    def _read(self, length: int) -> bytes:
        try:
            body = bytes(self.body_file_raw.read(length))
        except TimeoutError as error:
            raise errors.RequestTimedOut from error
        except (OSError, ValueError) as error:  # gone, or its chunks make no sense
            raise errors.BadRequest(reason="The request's body cannot be read") from error
        if len(body) > self.body_limit:
            raise errors.RequestTooLarge(limit=self.body_limit)
        return body


class Response(webob.response.Response):
    """WebOb's, with the content type exactly as it is given, if any is."""

    default_content_type = ""
    default_charset = ""


Handle = Callable[[Request], Response]
Fault = Callable[[errors.Error, Request], Response]


def application(
    handle: Handle, fault: Fault, body_limit: int, access: int = logging.INFO
) -> Application:
    """A WSGI callable that never raises: see the module's first lines.  `access` is the level at
    which its requests are logged."""

    def serve(environ: dict[str, Any], start_response: Start) -> Iterable[bytes]:
        began = time.monotonic()
        request = Request(environ, body_limit)
        with context.use(request.ctx):
            refused = environ.get(concurrency.REFUSED)
            response = fault(refused, request) if refused else _answer(handle, fault, request)
        with context.use(request.ctx):  # by now it may know who asked
            _log(access, request, response, time.monotonic() - began)
        response.headerlist.append(("x-amzn-requestid", request.ctx.request_id))
        # not by calling the response: that would make S3's relative Location absolute
        start_response(response.status, response.headerlist)
        if request.method == "HEAD":
            return webob.response.EmptyResponse(response.app_iter)
        return response.app_iter

    return serve


def _answer(handle: Handle, fault: Fault, request: Request) -> Response:
    try:
        _check_path(request.path)
        return handle(request)
    except errors.Error as error:
        if error.status != 500:
            return fault(error, request)
        LOG.exception("failed")
    except Exception:
        LOG.exception("failed")
    return fault(errors.Error(), request)  # details are the log's, not the client's


def _check_path(path: str) -> None:
    """A path that is an address, or holds a fragment, is another one to whoever parses it."""
    if path[:1] not in ("", "/") or "#" in path:
        raise errors.BadRequest(reason="The request's path must begin with / and hold no #")


def _log(level: int, request: Request, response: Response, seconds: float) -> None:
    LOG.log(
        level,
        "%s %s %d %d bytes %.1f ms %s from %s",
        ascii(request.method[:20])[1:-1],  # a client's own bytes never reach a terminal
        ascii(request.path[:200])[1:-1],
        response.status_code,
        response.content_length or 0,
        seconds * 1000,
        request.ctx.user or "-",
        request.ctx.address or "-",
    )
