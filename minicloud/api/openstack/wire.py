"""HTTP and JSON of the OpenStack APIs: routes, bodies, faults.

A service's operation is a function under `@route(method, path)` of its service.  Variables of the
path are its arguments; what it returns is the JSON of the answer (None: no body), or a whole
`wsgi.Response`.  Errors need no `try`: `fault` and the text of their class are what a client gets.

    @route("GET", "/flavors/{flavor_id}")
    def show_flavor(ctx: Context, req: Request, flavor_id: str) -> dict[str, Any]:

Done here, so that no function does it: the token, the body against its schema, request ids, 404,
405 and 413 in the protocol's own form.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import fastjsonschema
import jsonschema
import routes

from minicloud import context, errors, wsgi
from minicloud.api.openstack import endpoint
from minicloud.auth import database

JSON = "application/json"
LONGEST = 255  # characters of a variable in a path, and of most texts in a body
FIELDS = 200  # of a query
LIMIT = 1000  # things in a page, whatever is asked for
DEEPEST = 40  # lists and objects in each other in a body
EXPLAINED = 20  # faults of a body among which the one to tell is chosen

# Nova's names of faults (2011 and since) and the status that goes with each
STATUS = {
    "badRequest": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "itemNotFound": 404,
    "badMethod": 405,
    "conflictingRequest": 409,
    "overLimit": 413,
    "computeFault": 500,
    "notImplemented": 501,
    "serviceUnavailable": 503,
}

Function = Callable[..., Any]
Schema = Mapping[str, Any]
Faulty = Callable[[int, errors.Error], Any]  # HTTP status, error → body


@dataclasses.dataclass(frozen=True)
class Request:
    """What a function may want to know beside its arguments; `body` fits the route's schema."""

    base: str  # scheme, host and port as the client said them
    query: Mapping[str, str]
    body: Any
    raw: wsgi.Request

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean of the query; BadRequest for what is none."""
        given = self.query.get(name)
        return default if given is None else boolean(name, given)

    def number(self, name: str) -> int | None:
        """A number from 0 of the query; BadRequest for what is none."""
        given = self.query.get(name)
        if given is None:
            return None
        if not re.fullmatch("[0-9]{1,18}", given):
            raise errors.InvalidBody(where=name, reason=f"'{given[:40]}' is not a number")
        return int(given)

    def limit(self) -> int:
        """How many things a page may have."""
        given = self.number("limit")
        return LIMIT if given is None else min(given, LIMIT) or LIMIT

    def next_page(self, path: str, marker: str) -> str:
        """The address of the page after `marker`."""
        query = {**self.query, "marker": marker}
        return f"{self.base}{path}?{urllib.parse.urlencode(query)}"


def boolean(name: str, given: str) -> bool:
    """What a client means by a word; BadRequest when it means nothing."""
    words = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    found = words.get(given.lower())
    if found is None:
        raise errors.InvalidBody(where=name, reason=f"'{given[:40]}' is not a boolean")
    return found


@dataclasses.dataclass(frozen=True)
class _Route:
    method: str
    template: str
    function: Function
    status: int
    check: Callable[[], Callable[[Any], Any]] | None
    schema: Schema | None
    public: bool


class Service:
    """One API: its routes, and how it words an error."""

    def __init__(self, name: str, prefix: str, faulty: Faulty) -> None:
        self.name = name
        self.prefix = prefix
        self._faulty = faulty
        self._routes: dict[str, _Route] = {}
        self._mapper = routes.Mapper(controller_scan=None, register=False)

    def route(
        self,
        method: str,
        path: str,
        *,
        schema: Schema | None = None,
        status: int = 200,
        public: bool = False,
    ) -> Callable[[Function], Function]:
        """Register a function for a path below the service's prefix; `/{name}` is a variable.

        `schema` is what the body must fit, None for routes without one; `status` that of a
        success; `public` routes need no token.
        """

        def register(function: Function) -> Function:
            template = path if public and path in ("/", self.prefix) else self.prefix + path
            check = None if schema is None else checker(schema)
            name = f"{method} {template}"
            self._routes[name] = _Route(method, template, function, status, check, schema, public)
            self._mapper.connect(
                name, template.rstrip("/") or "/", conditions={"method": [method]}
            )
            return function

        return register

    def routes(self) -> list[tuple[str, str, str]]:
        """Path, method and function's name of every route."""
        return sorted(
            (one.template, one.method, one.function.__name__) for one in self._routes.values()
        )

    def app(self) -> wsgi.Application:
        """The WSGI callable of the API, with the routes registered by now."""
        self._mapper.create_regs()
        return wsgi.application(self._handle, self._fault, endpoint.CONF.body_limit)

    # --- a request ------------------------------------------------------------------------

    def _handle(self, raw: wsgi.Request) -> wsgi.Response:
        route, variables = self._find(raw)
        if not route.public:
            _authenticate(raw)
        with context.use(raw.ctx):
            req = Request(
                base=_base(raw),
                query=_query(raw.query_string),
                body=None if route.schema is None else _body(raw, route),
                raw=raw,
            )
            return self._response(route, raw, route.function(raw.ctx, req, **variables))

    def _find(self, raw: wsgi.Request) -> tuple[_Route, dict[str, str]]:
        path = raw.path.rstrip("/") or "/"
        found = self._match(path, "GET" if raw.method == "HEAD" else raw.method)
        if found is not None:
            variables, route = found
            return self._routes[route.name], {
                name: _decoded(raw, text) for name, text in variables.items()
            }
        methods = sorted({route.method for route in self._routes.values()})
        allowed = [method for method in methods if self._match(path, method)]
        if allowed:
            raise errors.MethodNotAllowed(
                method=raw.method[:20], path=raw.path[:200], allowed=allowed
            )
        raise errors.NoSuchPath(path=raw.path[:200])

    def _match(self, path: str, method: str) -> Any:
        """Variables, still encoded, and the route of Routes; None when there is none."""
        return self._mapper.routematch(path, {"REQUEST_METHOD": method})

    def _response(self, route: _Route, raw: wsgi.Request, result: Any) -> wsgi.Response:
        if isinstance(result, wsgi.Response):
            answer = result
        elif result is None:
            answer = wsgi.Response(status=route.status, content_type=JSON)
        else:
            answer = wsgi.Response(json=result, status=route.status)
        return self._identified(answer, raw)

    def _identified(self, answer: wsgi.Response, raw: wsgi.Request) -> wsgi.Response:
        """With the request's id, under both names that clients look for."""
        for name in ("x-openstack-request-id", f"x-{self.name}-request-id"):
            answer.headers[name] = raw.ctx.request_id
        return answer

    def _fault(self, error: errors.Error, raw: wsgi.Request) -> wsgi.Response:
        status = STATUS.get(error.fault, error.status)
        answer = wsgi.Response(json=self._faulty(status, error), status=status)
        if isinstance(error, errors.MethodNotAllowed):
            answer.allow = error.facts["allowed"]
        if status == 401:
            answer.www_authenticate = f'Keystone uri="{endpoint.identity_url()}"'
        return self._identified(answer, raw)


def fault(status: int, error: errors.Error) -> dict[str, Any]:
    """Nova's form of an error."""
    return {error.fault: {"code": status, "message": str(error)}}


def _authenticate(raw: wsgi.Request) -> None:
    """Who asks: from here on the request's context knows."""
    text = raw.headers.get("x-auth-token")
    if not text:
        raise errors.MissingToken
    _, account = database.by_token(text)
    raw.ctx = account.acting(raw.ctx)


# --- addresses ------------------------------------------------------------------------------


def _decoded(raw: wsgi.Request, text: str) -> str:
    try:
        found = urllib.parse.unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise errors.NoSuchPath(path=raw.path[:200]) from None
    if len(found) > LONGEST:
        raise errors.NoSuchPath(path=raw.path[:200])
    return found


def _query(text: str) -> dict[str, str]:
    """Names and values; of several with one name the last counts."""
    try:
        pairs = urllib.parse.parse_qsl(
            text, keep_blank_values=True, errors="strict", max_num_fields=FIELDS
        )
    except (UnicodeDecodeError, ValueError) as error:
        raise errors.BadRequest(reason="The query is not UTF-8, or too long") from error
    return dict(pairs)


def _base(raw: wsgi.Request) -> str:
    """Scheme and host as the client said them: what links in discovery documents must carry."""
    host = raw.headers.get("host", "")
    if not re.fullmatch(
        r"[A-Za-z0-9._-]{1,255}(:[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](:[0-9]{1,5})?", host
    ):
        host = "localhost"
    scheme = "https" if raw.headers.get("x-forwarded-proto") == "https" else "http"
    return f"{scheme}://{host}"


# --- bodies ---------------------------------------------------------------------------------


def checker(schema: Schema) -> Callable[[], Callable[[Any], Any]]:
    """The compiled check of a schema, made when it is first needed."""

    @functools.cache
    def compiled() -> Callable[[Any], Any]:
        made: Callable[[Any], Any] = fastjsonschema.compile(
            dict(schema), use_default=False, use_formats=False
        )
        return made

    return compiled


def check(given: Any, schema: Schema, compiled: Callable[[], Callable[[Any], Any]]) -> None:
    """Return when the body fits; InvalidBody with the reason otherwise."""
    try:
        compiled()(given)
    except fastjsonschema.JsonSchemaException:
        raise _explained(given, schema) from None


def _explained(given: Any, schema: Schema) -> errors.Error:
    """jsonschema is slow and words well: it says what was wrong, of the first things that are."""
    wrong = jsonschema.Draft7Validator(dict(schema)).iter_errors(given)
    found = jsonschema.exceptions.best_match(itertools.islice(wrong, EXPLAINED))
    if found is None:
        return errors.BadRequest(reason="The body is not of the form expected")
    where = "/".join(str(part) for part in found.absolute_path) or "the body"
    return errors.InvalidBody(where=where[:80], reason=str(found.message)[:300])


def _body(raw: wsgi.Request, route: _Route) -> Any:
    text = raw.read()
    try:
        given = json.loads(text.decode())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise errors.BadRequest(reason="The request's body is not JSON") from error
    if _nested(text) > DEEPEST:
        raise errors.BadRequest(reason="The request's body is too deep")
    assert route.schema is not None
    assert route.check is not None
    check(given, route.schema, route.check)
    return given


def _nested(text: bytes) -> int:
    """How deep lists and objects are in each other."""
    deepest = depth = 0
    for part in re.findall(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', text):
        if part in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif part in (b"]", b"}"):
            depth -= 1
    return deepest


# --- parts that many schemas and answers have -----------------------------------------------


def obj(properties: Mapping[str, Schema], required: tuple[str, ...] = (), **more: Any) -> Schema:
    """The schema of an object with these members and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


def wrapped(name: str, inner: Schema) -> Schema:
    """The schema of `{name: inner}`."""
    return {"type": "object", "properties": {name: inner}, "required": [name]}


TEXT: Schema = {"type": "string", "maxLength": LONGEST}
NAME: Schema = {"type": "string", "minLength": 1, "maxLength": LONGEST}
EMPTY: Schema = {"type": ["object", "null"], "maxProperties": 0}


def link(href: str, rel: str = "self") -> dict[str, str]:
    return {"rel": rel, "href": href}


def time(at: Any, micro: bool = False) -> str | None:
    """A row's time, which is UTC, in ISO 8601."""
    if at is None:
        return None
    return f"{at:%Y-%m-%dT%H:%M:%S.%f}Z" if micro else f"{at:%Y-%m-%dT%H:%M:%S}Z"
