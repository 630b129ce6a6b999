"""Which function a path and a method of an OpenStack API find."""

import io
import json
from wsgiref import util

import jsonschema
import pytest

from minicloud import errors
from minicloud.api.openstack import wire

SERVICE = wire.Service("things", "/v1", wire.fault)


def told(name):
    def function(ctx, req, **variables):
        return {name: variables}

    return function


# the one with a variable first: a fixed path is found all the same
for _method, _path in (
    ("GET", "/things/{thing_id}"),
    ("DELETE", "/things/{thing_id}"),
    ("GET", "/things/detail"),
    ("POST", "/things"),
    ("PUT", "/things/{thing_id}/parts/{part}"),
    ("GET", "/"),
):
    SERVICE.route(_method, _path, public=True)(told(f"{_method} {_path}"))


def ask(method, path):
    environ = {"REQUEST_METHOD": method, "RAW_PATH_INFO": path, "wsgi.input": io.BytesIO()}
    util.setup_testing_defaults(environ)
    started = []
    body = b"".join(SERVICE.app()(environ, lambda *given: started.append(given)))
    [(status, headers)] = started
    return int(status.split()[0]), dict(headers), body


@pytest.mark.parametrize(
    ("method", "path", "name", "variables"),
    [
        ("GET", "/v1/things/7", "GET /things/{thing_id}", {"thing_id": "7"}),
        ("GET", "/v1/things/7/", "GET /things/{thing_id}", {"thing_id": "7"}),
        ("DELETE", "/v1/things/detail", "DELETE /things/{thing_id}", {"thing_id": "detail"}),
        ("GET", "/v1/things/detail", "GET /things/detail", {}),
        ("GET", "/v1/things/a%2Fb%20%C3%BC", "GET /things/{thing_id}", {"thing_id": "a/b ü"}),
        ("GET", "/v1/things/{x}:*.json", "GET /things/{thing_id}", {"thing_id": "{x}:*.json"}),
        (
            *("PUT", "/v1/things/1/parts/2"),
            *("PUT /things/{thing_id}/parts/{part}", {"thing_id": "1", "part": "2"}),
        ),
        ("GET", "/", "GET /", {}),
    ],
)
def test_a_path_finds_its_function_with_its_variables_decoded(method, path, name, variables):
    status, _, body = ask(method, path)
    assert (status, json.loads(body)) == (200, {name: variables})


def test_head_is_a_get_without_the_body():
    status, headers, body = ask("HEAD", "/v1/things/7")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(ask("GET", "/v1/things/7")[2]))


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/things/7", "DELETE, GET"),
        ("PUT", "/v1/things/detail", "DELETE, GET"),
        ("GET", "/v1/things", "POST"),
        ("get", "/v1/things/7", "DELETE, GET"),
        ("GET", "/v1/things/7/parts/8", "PUT"),
    ],
)
def test_a_path_with_another_method_says_which_are_allowed(method, path, allowed):
    status, headers, body = ask(method, path)
    assert (status, headers["Allow"]) == (405, allowed)
    assert json.loads(body)["badMethod"]["code"] == 405


@pytest.mark.parametrize(
    "path",
    [
        *("/v1", "/things/7", "/v1/things/7/8", "/V1/things/7", "//v1/things/7", "/v1//things/7"),
        *("/v1/things/%ff", "/v1/things/" + "x" * 256, "/v1/thingsdetail", "/v2/things/7"),
    ],
)
def test_any_other_path_is_not_there(path):
    status, headers, body = ask("GET", path)
    assert (status, headers.get("Allow")) == (404, None)
    assert "itemNotFound" in json.loads(body)


def test_of_a_body_with_very_many_faults_only_the_first_are_looked_at(monkeypatch):
    """Wording one takes some time, and a body has room for hundreds of thousands."""
    given, worded = {"things": [1] * 1000}, []
    schema = wire.obj({"things": {"type": "array", "items": wire.TEXT}})
    iter_errors = jsonschema.Draft7Validator.iter_errors

    def counted(*args, **facts):
        for error in iter_errors(*args, **facts):
            worded.append(error)
            yield error

    monkeypatch.setattr(jsonschema.Draft7Validator, "iter_errors", counted)
    with pytest.raises(errors.InvalidBody, match=r"things/[0-9]+: 1 is not of type 'string'"):
        wire.check(given, schema, wire.checker(schema))
    assert 0 < len(worded) <= wire.EXPLAINED
