"""SigV4 as botocore's own clients make it, and every way to get it wrong."""

import dataclasses
import datetime
import urllib.parse

import pytest
from botocore import auth, awsrequest, credentials

from minicloud import context, errors
from minicloud.auth import signature
from minicloud.auth.database import Identity

SECRET = "a secret of forty characters, more or less"
BODY = b"Action=DescribeInstances&Version=2016-11-15"
FORM = "application/x-www-form-urlencoded; charset=utf-8"
HOST = "127.0.0.1:8773"
URL = f"http://{HOST}/services/Cloud"
ALICE = Identity(
    user_id="ec2-u", user="alice", project_id="ec2-p", project="web", is_admin=False, secret=SECRET
)


def look_up(access_key, project):
    known = access_key == "ALICE" and project in (None, "web", "a/b")
    return ALICE if known else None


def verify(received, look_up=look_up):
    return signature.verify(received, "ec2", context.Context("req-1", address="10.0.0.9"), look_up)


def signed(
    *, key="ALICE", secret=SECRET, region="nova", service="ec2", body=BODY, url=URL, headers=()
):
    """What a client of botocore sends: a POST with the signature in the header."""
    request = awsrequest.AWSRequest("POST", url, data=body)
    request.headers["Host"] = HOST
    request.headers["Content-Type"] = FORM
    for name, value in headers:
        request.headers[name] = value
    auth.SigV4Auth(credentials.Credentials(key, secret), service, region).add_auth(request)
    return received(request)


def presigned(*, key="ALICE", secret=SECRET, expires=60, query="Action=DescribeInstances"):
    """A URL that somebody was given: everything is in the query."""
    request = awsrequest.AWSRequest("GET", f"{URL}?{query}")
    request.headers["Host"] = HOST
    signer = auth.SigV4QueryAuth(credentials.Credentials(key, secret), "ec2", "nova", expires)
    signer.add_auth(request)
    return received(request)


def received(request):
    url = urllib.parse.urlsplit(request.url)
    return signature.Received(
        method=request.method,
        path=url.path,
        query=url.query,
        headers={
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        },
        body=request.data or b"",
    )


@pytest.fixture
def at(monkeypatch):
    """Let the client's clock be so many seconds ahead of ours."""

    def set_clock(ahead_s):
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=ahead_s)
        monkeypatch.setattr(auth, "get_current_datetime", lambda: now)

    return set_clock


def change(request, **changes):
    return dataclasses.replace(request, **changes)


def with_header(request, name, value):
    return change(request, headers={**request.headers, name: value})


def without_header(request, name):
    return change(request, headers={k: v for k, v in request.headers.items() if k != name})


# --- what is right ---------------------------------------------------------------------------


def test_a_signed_request_says_who_asks():
    ctx = verify(signed())
    assert (ctx.user_id, ctx.user) == ("ec2-u", "alice")
    assert (ctx.project_id, ctx.project) == ("ec2-p", "web")
    assert (ctx.request_id, ctx.address, ctx.roles) == ("req-1", "10.0.0.9", ())


def test_an_administrator_has_the_role():
    root = dataclasses.replace(ALICE, is_admin=True)
    assert verify(signed(), lambda key, project: root).is_admin


@pytest.mark.parametrize("project", ["web", "a/b"])
def test_the_access_key_may_name_the_project(project):
    seen = []
    verify(signed(key=f"ALICE:{project}"), lambda *asked: seen.append(asked) or ALICE)
    assert seen == [("ALICE", project)]


def test_a_presigned_url_says_who_asks():
    assert verify(presigned()).user == "alice"
    query = "Action=X&Filter.1.Value=a%20b%2Bc%2Fd%7E&Empty="
    assert verify(presigned(query=query)).user == "alice"


def test_a_query_beside_a_signed_body_is_signed_too():
    request = signed(url=f"{URL}?b=2&a=1&a=0")
    assert verify(request).user == "alice"
    with pytest.raises(errors.SignatureWrong):
        verify(change(request, query="b=2&a=1&a=3"))


def test_headers_that_botocore_never_signs_may_be_signed():
    plain = signed()
    names = ("content-type", "host", "user-agent", "x-amz-date")
    claim = dataclasses.replace(signature._claim(plain), signed_headers=names)
    request = with_header(plain, "user-agent", "a client")
    value = (
        f"AWS4-HMAC-SHA256 Credential=ALICE/{claim.date}/nova/ec2/aws4_request,"
        f"SignedHeaders={';'.join(claim.signed_headers)},"
        f"Signature={signature._sign(request, claim, SECRET)}"
    )
    request = with_header(request, "authorization", value)
    assert verify(request).user == "alice"
    with pytest.raises(errors.SignatureWrong):
        verify(with_header(request, "user-agent", "another"))


def test_the_header_date_stands_for_x_amz_date():
    assert verify(signed(headers=[("Date", "x")])).user == "alice"


def test_unsigned_headers_may_change_on_the_way():
    assert verify(with_header(signed(), "amz-sdk-request", "attempt=2")).user == "alice"


def test_a_digest_beside_the_body_is_compared():
    digest = "x-amz-content-sha256"
    assert verify(signed(headers=[(digest, signature.hashlib.sha256(BODY).hexdigest())]))
    for lie in ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "0" * 64):
        with pytest.raises(errors.SignatureWrong, match="body"):
            verify(signed(headers=[(digest, lie)]))


# --- what is not -----------------------------------------------------------------------------


def test_without_a_signature_nothing_is_looked_up():
    bare = without_header(signed(), "authorization")
    with pytest.raises(errors.MissingAuthentication):
        verify(bare, look_up=None)


@pytest.mark.parametrize(
    "tampered",
    [
        lambda request: change(request, body=BODY + b"&Force=true"),
        lambda request: change(request, body=b""),
        lambda request: change(request, method="GET"),
        lambda request: change(request, path="/"),
        lambda request: change(request, query="a=1"),
        lambda request: with_header(request, "host", "elsewhere:8773"),
        lambda request: with_header(request, "content-type", "text/plain"),
        lambda request: without_header(request, "content-type"),
    ],
)
def test_whatever_was_signed_cannot_be_changed(tampered):
    with pytest.raises(errors.SignatureWrong):
        verify(tampered(signed()))


@pytest.mark.parametrize(
    "tampered",
    [
        lambda request: change(request, query=request.query.replace("Describe", "Terminate")),
        lambda request: change(request, query=request.query.replace("Expires=60", "Expires=600")),
        lambda request: change(request, query="More=1&" + request.query),
        lambda request: change(request, body=b"Force=true"),
        lambda request: change(request, method="POST"),
        lambda request: with_header(request, "host", "elsewhere"),
    ],
)
def test_a_presigned_url_cannot_be_changed(tampered):
    assert "Expires=60&" in presigned().query
    with pytest.raises(errors.SignatureWrong):
        verify(tampered(presigned()))


def test_another_secret_is_refused():
    with pytest.raises(errors.SignatureWrong, match="does not match"):
        verify(signed(secret="wrong"))
    with pytest.raises(errors.SignatureWrong, match="does not match"):
        verify(presigned(secret="wrong"))


def test_an_unknown_key_is_named():
    with pytest.raises(errors.Unauthorized, match="MALLORY"):
        verify(signed(key="MALLORY"))
    with pytest.raises(errors.Unauthorized, match="MALLORY"):
        verify(signed(key="MALLORY:web"))


def test_only_the_owner_of_the_secret_learns_who_is_in_a_project():
    with pytest.raises(errors.Unauthorized, match="not in a project 'other'"):
        verify(signed(key="ALICE:other"))
    with pytest.raises(errors.SignatureWrong):
        verify(signed(key="ALICE:other", secret="wrong"))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"region": "us-east-1"}, "region 'nova', not 'us-east-1'"),
        ({"service": "s3"}, "service 'ec2', not 's3'"),
    ],
)
def test_another_scope_is_refused_with_the_right_one(arguments, text):
    with pytest.raises(errors.SignatureWrong, match=text):
        verify(signed(**arguments))


def test_the_scope_is_of_the_day_that_was_signed():
    request = signed()
    day = request.headers["x-amz-date"][:8]
    value = request.headers["authorization"].replace(f"/{day}/", "/20110101/")
    with pytest.raises(errors.SignatureWrong, match=f"date '{day}', not '20110101'"):
        verify(with_header(request, "authorization", value))


@pytest.mark.parametrize("ahead_s", [-290, 290])
def test_five_minutes_between_clocks_are_allowed(at, ahead_s):
    at(ahead_s)
    assert verify(signed()).user == "alice"


@pytest.mark.parametrize("ahead_s", [-310, 310, -86400])
def test_more_is_not_and_the_error_says_how_much(at, ahead_s):
    at(ahead_s)
    text = f"{abs(ahead_s) // 100}[0-9]+ seconds"
    with pytest.raises(errors.RequestExpired, match=text) as raised:
        verify(signed())
    assert raised.value.facts["limit_s"] == 300


def test_a_presigned_url_ends_when_it_says(at):
    at(-59)
    assert verify(presigned(expires=60)).user == "alice"
    at(-3000)
    assert verify(presigned(expires=3600)).user == "alice"
    at(-62)
    with pytest.raises(errors.RequestExpired):
        verify(presigned(expires=60))
    at(310)
    with pytest.raises(errors.RequestExpired):
        verify(presigned(expires=3600))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Basic YTpi",
        "AWS ALICE:signature",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 ",
        "AWS4-HMAC-SHA256 Credential=,SignedHeaders=host,Signature=x",
        "AWS4-HMAC-SHA256 Credential=ALICE,SignedHeaders=host,Signature=x",
        "AWS4-HMAC-SHA256 Credential=ALICE/1/nova/ec2/aws5_request,SignedHeaders=host,Signature=x",
        "AWS4-HMAC-SHA256 Credential=A/20261120/n/ec2/aws4_request,SignedHeaders=host,Signature=",
        "AWS4-HMAC-SHA256 Credential=/20261120/n/ec2/aws4_request,SignedHeaders=host,Signature=x",
        "AWS4-HMAC-SHA256 Credential=A/20261120/n/ec2/aws4_request,SignedHeaders=date,Signature=x",
        "AWS4-HMAC-SHA256 Credential=A/20261120/nova/ec2/aws4_request,Signature=x",
        "AWS4-HMAC-SHA256 Credential=A/20261120/nova/ec2/aws4_request,SignedHeaders=host",
    ],
)
def test_a_signature_that_is_not_whole_is_refused(value):
    with pytest.raises(errors.IncompleteSignature):
        verify(with_header(signed(), "authorization", value))


@pytest.mark.parametrize(
    "date", ["", "yesterday", "20261120", "20261399T000000Z", "2026112٣T000000Z"]
)
def test_a_date_that_is_none_is_refused(date):
    with pytest.raises(errors.IncompleteSignature):
        verify(with_header(signed(), "x-amz-date", date))


def test_a_signature_that_is_no_text_of_ours_is_only_wrong():
    value = signed().headers["authorization"]
    value = value[: value.index("Signature=")] + "Signature=\xfc\xff"
    with pytest.raises(errors.SignatureWrong):
        verify(with_header(signed(), "authorization", value))


@pytest.mark.parametrize("key", ["", "a b", "a\0", "a\n", "\xfc", "x" * 201])
def test_a_key_that_none_can_be_is_refused_before_it_is_looked_up(key):
    value = signed().headers["authorization"].replace("=ALICE/", f"={key}/")
    with pytest.raises(errors.IncompleteSignature):
        verify(with_header(signed(), "authorization", value), look_up=None)


@pytest.mark.parametrize("expires", ["0", "-1", "604801", "1e3", "", "9" * 5000])
def test_the_end_of_a_presigned_url_is_checked(expires):
    request = presigned()
    with pytest.raises(errors.IncompleteSignature):
        verify(change(request, query=request.query.replace("Expires=60", f"Expires={expires}")))


@pytest.mark.parametrize("name", ["Algorithm", "Credential", "Date", "SignedHeaders", "Signature"])
def test_a_presigned_url_must_be_whole(name):
    request = presigned()
    query = "&".join(p for p in request.query.split("&") if not p.startswith(f"X-Amz-{name}="))
    with pytest.raises(errors.IncompleteSignature, match=name):
        verify(change(request, query=query))


def test_a_query_that_is_not_utf8_or_has_too_many_fields_is_refused():
    for query in ("a=%ff", "&".join(f"a{n}=1" for n in range(10001))):
        with pytest.raises(errors.BadRequest):
            verify(change(signed(), query=query))
