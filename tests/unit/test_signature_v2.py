"""SigV2 as botocore's own signer makes it, and every way to get it wrong."""

import base64
import datetime
import hmac
import time
import urllib.parse

import pytest
from botocore import auth, awsrequest, credentials

from minicloud import context, errors
from minicloud.auth import signature
from minicloud.auth.database import Identity

SECRET = "a secret of forty characters, more or less"
HOST = "Cloud.example:8773"
PATH = "/services/Cloud"
ALICE = Identity(
    user_id="ec2-u", user="alice", project_id="ec2-p", project="web", is_admin=False, secret=SECRET
)
ASKED = {"Action": "CreateTags", "Tag.1.Value": "a b*c~d/é+%", "Tag.1.Key": "x", "Tag.10.Key": "y"}


def look_up(access_key, project):
    return ALICE if access_key == "ALICE" and project in (None, "web") else None


def verify(received, service="ec2"):
    return signature.verify(received, service, context.Context("req-1"), look_up)


def stamp(plus_s=0):
    at = datetime.datetime.fromtimestamp(time.time() + plus_s, datetime.UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def parameters(key="ALICE", **changes):
    """Signed by hand for what botocore cannot make; None leaves a part out.  Times are functions:
    these tables are older than the tests that read them."""
    given = {
        **ASKED,
        "AWSAccessKeyId": key,
        "SignatureVersion": "2",
        "SignatureMethod": "HmacSHA256",
        "Timestamp": stamp(),
        **changes,
    }
    now = {name: value() if callable(value) else value for name, value in given.items()}
    return {name: value for name, value in now.items() if value is not None}


def sent(given, method="GET", host=HOST, signed_method=None, secret=SECRET, path=PATH):
    signed = dict(given)
    if "Signature" not in signed:
        signed["Signature"] = _by_hand(given, signed_method or method, host, secret, path)
    form = urllib.parse.urlencode(signed)
    query, body = (form, b"") if method == "GET" else ("", form.encode())
    return signature.Received(method, path, query, {"host": host}, body)


def _by_hand(given, method, host, secret, path):
    quote = lambda text: urllib.parse.quote(text, safe="-_.~")  # noqa: E731
    query = "&".join(f"{quote(name)}={quote(value)}" for name, value in sorted(given.items()))
    text = f"{method}\n{host.lower()}\n{path}\n{query}"
    name = given.get("SignatureMethod", "HmacSHA256").removeprefix("Hmac").lower()
    digest = hmac.digest(secret.encode(), text.encode(), name if name != "md5" else "sha256")
    return base64.b64encode(digest).decode()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_botocore_signs_is_accepted(method):
    request = awsrequest.AWSRequest(method, f"http://{HOST.lower()}{PATH}")
    given = dict(ASKED)
    if method == "POST":
        request.data = given
    else:
        request.params = given
    auth.SigV2Auth(credentials.Credentials("ALICE:web", SECRET)).add_auth(request)
    form = urllib.parse.urlencode(request.data if method == "POST" else request.params)
    query, body = ("", form.encode()) if method == "POST" else (form, b"")
    ctx = verify(signature.Received(method, PATH, query, {"host": HOST}, body))
    assert (ctx.user, ctx.project) == ("alice", "web")


@pytest.mark.parametrize("algorithm", ["HmacSHA256", "HmacSHA1"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "time_",
    [
        {},
        {"Timestamp": None, "Expires": lambda: stamp(3600)},
        {"Timestamp": lambda: stamp().replace("Z", ".000Z")},
        {"Timestamp": lambda: stamp().rstrip("Z")},
    ],
)
def test_both_algorithms_and_both_times_are_accepted(algorithm, method, time_):
    given = parameters(SignatureMethod=algorithm, **time_)
    assert verify(sent(given, method)).user_id == "ec2-u"


@pytest.mark.parametrize(
    "changes",
    [
        {"SignatureVersion": "1"},
        {"SignatureVersion": None},
        {"SignatureMethod": "HmacMD5"},
        {"SignatureMethod": None},
        {"Timestamp": None},
        {"Expires": lambda: stamp(60)},
        {"Timestamp": "yesterday"},
        {"Timestamp": "2026-13-01T00:00:00Z"},
        {"Signature": ""},
        {"AWSAccessKeyId": ""},
        {"AWSAccessKeyId": "é"},
    ],
)
def test_what_is_not_whole_is_refused(changes):
    with pytest.raises(errors.IncompleteSignature):
        verify(sent(parameters(**changes)))


@pytest.mark.parametrize(
    "changes",
    [
        {"Timestamp": lambda: stamp(-400)},
        {"Timestamp": lambda: stamp(400)},
        {"Timestamp": None, "Expires": lambda: stamp(-1)},
        {"Timestamp": None, "Expires": lambda: stamp(8 * 86400)},
    ],
)
def test_outside_of_its_time_it_is_refused(changes):
    with pytest.raises(errors.RequestExpired):
        verify(sent(parameters(**changes)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"secret": "another"},
        {"signed_method": "POST"},
    ],
)
def test_another_secret_or_method_is_refused(wrong):
    with pytest.raises(errors.SignatureWrong):
        verify(sent(parameters(), **wrong))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("where", ["query", "body"])
def test_nothing_can_be_added_beside_what_was_signed(method, where):
    good = sent(parameters(), method)
    query, body = good.query, good.body
    if where == "query":
        query = f"{query}&DryRun=true" if query else "DryRun=true"
    else:
        body = body + b"&DryRun=true" if body else b"DryRun=true"
    with pytest.raises(errors.SignatureWrong):
        verify(signature.Received(method, PATH, query, good.headers, body))


@pytest.mark.parametrize("part", ["Signature", "AWSAccessKeyId", "Timestamp"])
def test_a_part_given_twice_is_refused(part):
    good = sent(parameters())
    with pytest.raises(errors.IncompleteSignature, match="more than once"):
        verify(signature.Received("GET", PATH, f"{good.query}&{part}=x", good.headers, b""))


def test_an_unknown_key_is_named_and_a_signature_of_any_characters_is_only_wrong():
    with pytest.raises(errors.Unauthorized, match="NOBODY"):
        verify(sent(parameters(key="NOBODY")))
    with pytest.raises(errors.SignatureWrong):
        verify(sent(parameters(Signature="é=")))


def test_it_is_not_for_services_that_have_their_own():
    with pytest.raises(errors.MissingAuthentication):
        verify(sent(parameters()), service="s3")
