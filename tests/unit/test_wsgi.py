"""What every front door does with HTTP, right or wrong."""

import io
import logging
import re
from wsgiref import util

import pytest

from minicloud import concurrency, context, errors, wsgi

LIMIT = 100


def ask(handle, **environ):
    """The status, headers and body of an answer to a request of this environment."""
    given = {"wsgi.input": io.BytesIO(environ.pop("body", b"")), **environ}
    util.setup_testing_defaults(given)
    started = []
    answer = wsgi.application(handle, fault, LIMIT)(given, lambda *start: started.append(start))
    body = b"".join(answer)
    getattr(answer, "close", bool)()  # as every server does
    [(status, headers)] = started
    return status, dict(headers), body


def fault(error, request):
    return wsgi.Response(f"{error.ec2}: {error}".encode(), error.status)


def echo(request):
    return wsgi.Response(request.read())


@pytest.mark.parametrize(
    ("given", "status", "text"),
    [
        ({"CONTENT_LENGTH": "3", "body": b"abc"}, 200, "abc"),
        ({"CONTENT_LENGTH": "2", "body": b"abc"}, 200, "ab"),
        ({"CONTENT_LENGTH": str(LIMIT), "body": b"x" * LIMIT}, 200, "x" * LIMIT),
        ({"body": b"nobody said how long"}, 200, ""),
        ({"CONTENT_LENGTH": "", "body": b"abc"}, 200, ""),
        ({"CONTENT_LENGTH": "4", "body": b"abc"}, 400, "ended early"),
        ({"CONTENT_LENGTH": str(LIMIT + 1), "body": b"x" * 999}, 413, "100 bytes"),
        ({"CONTENT_LENGTH": "9" * 18}, 413, "100 bytes"),
        ({"CONTENT_LENGTH": "9" * 5000}, 400, "not a number"),
        ({"CONTENT_LENGTH": "-1"}, 400, "not a number"),
        ({"CONTENT_LENGTH": "+1"}, 400, "not a number"),
        ({"CONTENT_LENGTH": "1e3"}, 400, "not a number"),
        ({"CONTENT_LENGTH": "٣"}, 400, "not a number"),
        ({"CONTENT_LENGTH": "3, 3", "body": b"abc"}, 400, "not a number"),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "body": b"abc"}, 200, "abc"),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "body": b"x" * LIMIT}, 200, "x" * LIMIT),
        ({"HTTP_TRANSFER_ENCODING": "chunked", "body": b"x" * 101}, 413, "100 bytes"),
    ],
)
def test_a_body_is_read_whole_or_refused(given, status, text):
    answered, headers, body = ask(echo, REQUEST_METHOD="POST", **given)
    assert int(answered.split()[0]) == status
    assert text in body.decode()
    assert headers["Content-Length"] == str(len(body))


@pytest.mark.parametrize("path", ["v1", "*", "http://other/v1", "/v1#part"])
def test_a_path_that_two_would_read_differently_is_refused(path):
    status, _, body = ask(echo, RAW_PATH_INFO=path)
    assert (int(status.split()[0]), b"path" in body) == (400, True)


class Gone(io.RawIOBase):
    def read(self, size=-1):
        raise ConnectionResetError("the client went away")


def test_a_client_that_goes_away_is_no_failure_of_ours(caplog):
    status, _, body = ask(
        echo, REQUEST_METHOD="POST", CONTENT_LENGTH="3", **{"wsgi.input": Gone()}
    )
    assert (status, b"cannot be read" in body) == ("400 Bad Request", True)
    assert "Traceback" not in caplog.text


class Silent(io.RawIOBase):
    def read(self, size=-1):
        raise TimeoutError("timed out")


def test_a_client_that_is_too_slow_is_told_so():
    status, _, body = ask(
        echo, REQUEST_METHOD="POST", CONTENT_LENGTH="3", **{"wsgi.input": Silent()}
    )
    assert (status, b"RequestTimeout" in body) == ("408 Request Timeout", True)


def test_what_the_server_refused_never_reaches_the_door(caplog):
    caplog.set_level(logging.INFO, "minicloud.wsgi")
    error = errors.BadRequest(reason="no HTTP")
    status, headers, body = ask(pytest.fail, **{concurrency.REFUSED: error})
    assert (status, body) == ("400 Bad Request", b"InvalidParameterValue: no HTTP")
    assert headers["x-amzn-requestid"].startswith("req-")
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError("inner"), errors.CommandFailed(
    command="secret", status=1, stderr="inner"), KeyError("inner")])  # fmt: skip
def test_an_unexpected_failure_tells_the_client_nothing_and_the_log_everything(error, caplog):
    def handle(request):
        raise error

    status, headers, body = ask(handle)
    assert status == "500 Internal Server Error"
    assert body == b"InternalError: An internal error has occurred"
    assert "inner" in caplog.text
    assert "Traceback" in caplog.text
    assert re.fullmatch("req-[0-9a-f-]{36}", headers["x-amzn-requestid"])


def test_an_expected_failure_is_said_in_the_doors_words(caplog):
    def handle(request):
        raise errors.Unavailable(reason="it is late")

    status, _, body = ask(handle)
    assert status == "503 Service Unavailable"
    assert body == b"Unavailable: The cloud cannot do this now: it is late"
    assert "Traceback" not in caplog.text


def test_the_context_of_the_log_is_the_requests_and_ends_with_it():
    seen = []

    def handle(request):
        seen.append((context.current(), request.ctx))
        return wsgi.Response()

    _, headers, _ = ask(handle, REMOTE_ADDR="10.0.0.7")
    [(current, own)] = seen
    assert current is own
    assert own.request_id == headers["x-amzn-requestid"]
    assert (own.address, own.user, own.roles) == ("10.0.0.7", "", ())
    assert context.current() is None


def test_a_request_is_as_it_was_sent():
    seen = []

    def handle(request):
        seen.append(request)
        return wsgi.Response()

    ask(
        handle,
        REQUEST_METHOD="GET",
        PATH_INFO="/a b/\xc3\xbc",
        QUERY_STRING="x=%20&y",
        CONTENT_TYPE="text/x",
        HTTP_X_AMZ_DATE="now",
    )
    ask(handle, RAW_PATH_INFO="/a%2Fb/%FF", PATH_INFO="/a/b/\xff")
    first, second = seen
    assert (first.path, first.query_string) == ("/a%20b/%C3%BC", "x=%20&y")
    assert first.headers["x-amz-date"] == "now"
    assert first.headers["content-type"] == "text/x"
    assert second.path == "/a%2Fb/%FF"


def test_the_answer_to_head_has_the_length_and_no_body():
    closed = []

    class Chunks:
        def __iter__(self):
            yield b"ab"

        def close(self):
            closed.append(True)

    for facts in ({"body": b"ab"}, {"app_iter": Chunks(), "content_length": 2}):
        response = wsgi.Response(**facts)
        _, headers, sent = ask(lambda request, it=response: it, REQUEST_METHOD="HEAD")
        assert (headers["Content-Length"], sent) == ("2", b"")
    assert closed == [True]


def test_each_request_is_one_line_that_no_client_can_forge(caplog):
    caplog.set_level(logging.INFO, "minicloud.wsgi")
    ask(echo, REQUEST_METHOD="GET\nX", RAW_PATH_INFO="/\x1b[31m\n2026 root\x85" + "x" * 5000)
    [line] = [record.getMessage() for record in caplog.records]
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 400


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "text/xml;charset=UTF-8"])
def test_headers_are_sent_as_the_door_gave_them(kind):
    def handle(request):
        return wsgi.Response(b"x", 201, content_type=kind, location="/box")

    status, headers, _ = ask(handle)
    assert (status, headers["Content-Type"], headers["Location"]) == ("201 Created", kind, "/box")
    assert "Content-Type" not in ask(lambda request: wsgi.Response(b"x"))[1]


@pytest.mark.parametrize("kind", ["PATH_INFO", "QUERY_STRING", "HTTP_X", "HTTP_HOST"])
def test_bytes_that_are_no_text_reach_the_door_as_they_are(kind):
    def handle(request):
        told = [request.path, request.query_string, *request.headers.values()]
        return wsgi.Response("\n".join(told).encode("latin-1"))

    status, _, body = ask(handle, **{kind: "/\xff\x00\xc3"})
    assert status == "200 OK"
    assert b"/\xff\x00\xc3" in body or b"/%FF%00%C3" in body


def test_names_of_headers_are_the_clients_and_not_wsgis():
    seen = []

    def handle(request):
        seen.append(request.headers)
        return wsgi.Response()

    sent = (("X-Amz-Meta-a_b", "1"), ("X-Twice", "2"), ("x-twice", "3"))
    ask(handle, headers_raw=sent, CONTENT_TYPE="text/plain", HTTP_X_AMZ_META_A_B="1")
    assert seen == [{"x-amz-meta-a_b": "1", "x-twice": "2,3"}]
