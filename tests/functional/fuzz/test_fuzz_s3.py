"""Requests for every operation of S3 with something wrong in them, signed and not."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import pathlib
import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest
from botocore import auth, awsrequest, credentials

from minicloud import states
from minicloud.auth import s3 as signing
from minicloud.cloud import projects
from minicloud.db import models
from minicloud.db.session import Tx, transaction
from minicloud.objectstore import app, operations
from minicloud.objectstore.manager import Manager
from tests.functional.fuzz import chance as chances
from tests.functional.fuzz.chance import Chance
from tests.functional.fuzz.doors import ENGINES, Answer, Ask, Loud, Row, Rows, Watched, query
from tests.functional.s3.conftest import _user

pytestmark = ENGINES

ME = states.Daemon("objectstore@h1", "h1", 1)
HOST = "localhost:3333"
LEVELS = {0: "service", 1: "bucket", 2: "object"}
SUMS = {"x-amz-checksum-crc32": "y/U6HA==", "content-md5": "1B2M2Y8AsgTpgAmY7PhCfg=="}
HEADERS = (
    *(
        "Range",
        "If-Match",
        "If-None-Match",
        "If-Modified-Since",
        "If-Unmodified-Since",
        "If-Range",
    ),
    *("Content-Length", "Transfer-Encoding", "Content-Type", "Content-Encoding", "Content-MD5"),
    *("Expires", "Cache-Control", "Content-Disposition", "Content-Language", "Expect", "Host"),
    *("Date", "x-amz-date", "x-amz-content-sha256", "x-amz-decoded-content-length"),
    *("x-amz-trailer", "x-amz-sdk-checksum-algorithm", "x-amz-checksum-crc32", "x-amz-acl"),
    *("x-amz-checksum-sha256", "x-amz-checksum-crc64nvme", "x-amz-checksum-type"),
    *("x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-meta-a", "x-amz-meta-", "x-amz-"),
    *("x-amz-copy-source", "x-amz-copy-source-range", "x-amz-copy-source-if-match"),
    *("x-amz-copy-source-if-modified-since", "x-amz-metadata-directive", "x-amz-storage-class"),
    *("x-amz-tagging", "x-amz-grant-read", "x-amz-server-side-encryption", "x-amz-mp-object-size"),
    *("x-amz-security-token", "x-amz-bypass-governance-retention", "x-amz-if-match-size"),
)
QUERIES = (
    *("list-type", "prefix", "delimiter", "marker", "max-keys", "start-after", "encoding-type"),
    *("continuation-token", "fetch-owner", "key-marker", "upload-id-marker", "max-uploads"),
    *("uploadId", "partNumber", "part-number-marker", "max-parts", "versionId", "versions"),
    *("response-content-type", "response-expires", "response-cache-control", "x-id", "torrent"),
    *("X-Amz-Signature", "X-Amz-Expires", "AWSAccessKeyId", "Signature", "Expires"),
)
RANGES = (
    *("bytes=0-0", "bytes=5-", "bytes=-5", "bytes=-0", "bytes=9-1", "bytes=0-0,2-3", "bytes="),
    *("bytes=-", f"bytes={'9' * 18}-", f"bytes=0-{'9' * 30}", "items=0-1", "bytes=\u0661-\u0662"),
)

Right = tuple[str, str, dict[str, str], bytes]  # method, target, headers, body


def right(its: dict[str, str]) -> list[Right]:
    """A request for each operation, as a client makes it."""
    xsi = 'xmlns:i="http://www.w3.org/2001/XMLSchema-instance" i:type="Group"'
    grantee = f"<Grantee {xsi}><URI>{operations.EVERYBODY}</URI></Grantee>"
    acl = (
        "<AccessControlPolicy><Owner><ID>x</ID></Owner><AccessControlList><Grant>"
        f"{grantee}<Permission>READ</Permission></Grant></AccessControlList></AccessControlPolicy>"
    ).encode()
    delete = b"<Delete><Quiet>true</Quiet><Object><Key>a</Key><ETag>x</ETag></Object></Delete>"
    complete = (
        "<CompleteMultipartUpload xmlns='http://s3.amazonaws.com/doc/2006-03-01/'><Part>"
        f"<PartNumber>1</PartNumber><ETag>{its['etag']}</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    where = b"<LocationConstraint>nova</LocationConstraint>"
    region = b"<CreateBucketConfiguration>" + where + b"</CreateBucketConfiguration>"
    upload = f"/box/up?uploadId={its['upload']}"
    subs = [
        sub for method, level, sub in operations.names() if (method, level) == ("GET", "bucket")
    ]
    copied = {"x-amz-copy-source": "/box/a", "x-amz-copy-source-range": "bytes=0-1"}
    copied |= {"x-amz-metadata-directive": "REPLACE"}
    meta = {"x-amz-meta-a": "b", "x-amz-acl": "public-read", "Content-Type": "text/plain"}
    return [
        ("GET", "/", {}, b""),
        ("PUT", "/new-bucket", {"x-amz-acl": "private"}, region),
        ("HEAD", "/box", {}, b""),
        ("DELETE", "/empty", {}, b""),
        *(("GET", f"/box?{sub}", {}, b"") for sub in subs),
        ("GET", "/box?list-type=2&prefix=a&delimiter=/&max-keys=1&encoding-type=url", {}, b""),
        ("GET", "/box?marker=a&max-keys=2", {}, b""),
        ("PUT", "/box?acl", {}, acl),
        ("POST", "/box?delete", {"Content-MD5": md5(delete)}, delete),
        ("GET", "/box/a", {"Range": "bytes=1-3", "x-amz-checksum-mode": "ENABLED"}, b""),
        ("GET", "/box/a?response-content-type=text/html", {"If-Match": "*"}, b""),
        ("HEAD", "/box/a", {"If-Modified-Since": "Sat, 01 Jan 2011 00:00:00 GMT"}, b""),
        ("GET", "/box/a?acl", {}, b""),
        ("GET", "/box/a?tagging", {}, b""),
        ("PUT", "/box/a?acl", {}, acl),
        ("PUT", "/box/new", meta | {"If-None-Match": "*"}, b"bytes"),
        ("PUT", "/box/a%20%C3%BC", {"Content-MD5": md5(b"bytes")}, b"bytes"),
        ("PUT", "/box/copy", copied, b""),
        ("DELETE", "/box/a", {"If-Match": "*"}, b""),
        ("POST", "/box/new?uploads", {"x-amz-checksum-algorithm": "CRC32"} | meta, b""),
        ("PUT", f"{upload}&partNumber=2", {}, b"bytes"),
        ("PUT", f"{upload}&partNumber=3", copied, b""),
        ("GET", f"{upload}&max-parts=1", {}, b""),
        ("POST", upload, {}, complete),
        ("DELETE", upload, {}, b""),
    ]


def md5(body: bytes) -> str:
    return base64.b64encode(hashlib.md5(body).digest()).decode()


def judge(ask: Ask, answer: Answer) -> None:
    """An error is S3's document; a success has none of it."""
    id = answer.headers["x-amz-request-id"]
    assert re.fullmatch("req-[0-9a-f-]{36}", id)
    if ask.method == "HEAD" or answer.status in (204, 304):
        assert not answer.body
    elif answer.status >= 400:
        document = ET.fromstring(answer.body)
        assert document.tag == "Error"
        assert re.fullmatch("[A-Za-z0-9]+", document.findtext("Code") or "")
        assert document.findtext("Message")
        assert document.findtext("RequestId") == id
    elif answer.headers.get("content-type") == "application/xml" and "list" not in ask.target:
        assert not answer.body or ET.fromstring(answer.body).tag
    if answer.status in (200, 206) and "content-length" in answer.headers and ask.method != "HEAD":
        assert int(answer.headers["content-length"]) == len(answer.body)


def waits(table: str, row: Row) -> bool:
    """What is left of an upload that failed until the daemon has removed its bytes."""
    return table in ("events", "requests") or (table == "objects" and row["state"] == "deleting")


@dataclasses.dataclass
class Cloud:
    door: Watched
    keys: projects.Credentials
    right: list[Right]
    things: tuple[str, ...]

    def ask(self, chance: Chance, known: Right) -> Answer:
        """The request with defects, signed after them most often."""
        method, target, headers, body = known
        headers = {"Host": HOST} | headers
        for _ in range(chance.choice((1, 1, 2, 3))):
            way = chance.choice("bbbhhqp" if body else "hhhqqp")
            if way == "b":
                body = self.body(chance, body)
            elif way == "q":
                target = self.query(chance, target)
            elif way == "p":
                target = self.path(chance, target)
            elif chance.random() < 0.1:
                headers["Range"] = chance.choice(RANGES).encode().decode("latin-1")
            else:
                chances.changed_header(chance, headers, HEADERS)
        if chance.random() < 0.04:
            method = chance.choice(("PUT", "POST", "DELETE", "HEAD", "OPTIONS", "PATCH", "put"))
        ask = Ask(method, target, headers, body)
        if body and not has(headers, "content-length") and not has(headers, "transfer-encoding"):
            headers["Content-Length"] = str(len(body))
        return self.door.ask(chance, self.signed(chance, ask))

    def signed(self, chance: Chance, ask: Ask) -> Ask:
        how = chance.random()
        if how < 0.08:
            return ask
        who = credentials.Credentials(self.keys.access_key, self.keys.secret)
        request = awsrequest.AWSRequest(
            ask.method, f"http://{HOST}{ask.target}", headers=ask.headers
        )
        if how < 0.15:
            request.auth_path = urllib.parse.urlsplit(ask.target).path
            auth.HmacV1Auth(who).add_auth(request)
        else:
            signer = auth.S3SigV4Auth(who, "s3", "nova")
            given = next((ask.headers[one] for one in ask.headers if one.lower() == DIGEST), None)
            signer.payload = lambda _: given or hashlib.sha256(ask.body).hexdigest()
            signer.add_auth(request)
        ask.headers = dict(request.headers.items())
        if chance.random() < 0.05:
            chances.changed_header(chance, ask.headers, ("Authorization", "X-Amz-Date", "Date"))
        return ask

    def body(self, chance: Chance, body: bytes) -> bytes:
        if not body.startswith(b"<") or chance.random() < 0.3:
            return chances.garbled_bytes(chance, body)
        if chance.random() < 0.3:
            return chance.choice(DOCUMENTS)(body)
        words = re.split(rb"([<>/ ='\"])", body)
        at = chance.randrange(len(words))
        word = chances.text(chance, words[at].decode(errors="replace"), self.things)
        words[at] = word.encode(errors="surrogatepass")
        return b"".join(words)

    def query(self, chance: Chance, target: str) -> str:
        path, _, given = target.partition("?")
        pairs = urllib.parse.parse_qsl(given, keep_blank_values=True)
        more = lambda: [(chance.choice(QUERIES), chances.text(chance, "1", self.things))]  # noqa: E731
        return f"{path}?{query(chances.changed_pairs(chance, pairs, self.things, more))}"

    def path(self, chance: Chance, target: str) -> str:
        path, mark, rest = target.partition("?")
        words = path.split("/")
        at = chance.randrange(1, len(words))
        word = chances.text(chance, words[at], self.things)[:2000].encode(errors="surrogatepass")
        words[at] = chance.choice(
            (urllib.parse.quote(word), "".join(f"%{byte:02x}" for byte in word), "%", "%zz", "")
        )
        return "/".join(words) + mark + rest


def has(headers: dict[str, str], name: str) -> bool:
    return any(one.lower() == name for one in headers)


DIGEST = "x-amz-content-sha256"
DOCUMENTS: tuple[Callable[[bytes], bytes], ...] = (
    lambda body: b'<!DOCTYPE a [<!ENTITY b "c">]>' + body,
    lambda body: (
        b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
        b'<!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>' + body
    ),
    lambda body: b'<!DOCTYPE a SYSTEM "file:///etc/passwd">' + body,
    lambda body: b'<?xml version="1.0" encoding="utf-16"?>' + body,
    lambda body: b'<?xml version="1.0" encoding="x-unheard-of"?>' + body,
    lambda body: b'<?xml version="1.1"?>' + body,
    lambda body: body.decode(errors="replace").encode("utf-16"),
    lambda body: b"\xef\xbb\xbf" + body,
    lambda body: b"<a>" * 100_000,
    lambda body: b"<a>" * 9 + b"</a>" * 9,
    lambda body: body.partition(b">")[0] + b">" + b"<x/>" * 100_001,
    lambda body: body.replace(
        b">", b" " + b" ".join(b"a%d='1'" % n for n in range(20_000)) + b">", 1
    ),
    lambda body: body.replace(b"><", b">&b;<", 1),
    lambda body: body.replace(b"><", b"><![CDATA[" + b"x" * 100_000 + b"]]><", 1),
    lambda body: body.replace(b"><", b"><!-- -- --><", 1),
    lambda body: body.replace(b"><", b"><?php x ?><", 1),
    lambda body: body.replace(b"><", b">&#0;<", 1),
    lambda body: body.replace(b"><", b">&#xD800;<", 1),
    lambda body: re.sub(b"<(/?)", rb"<\1x:", body),
    lambda body: body + body,
    lambda body: body[:-1],
    lambda body: body.replace(b"<Object>", b"<Object><Key>k</Key></Object><Object>" * 1001),
    lambda body: body.replace(b"<Part>", b"<Part>" * 7),
    lambda body: b"",
    lambda body: b" ",
    lambda body: b"\0" + body,
)


@pytest.fixture
def cloud(
    caller: object,
    options: Callable[..., None],
    rows: Rows,
    loud: Loud,
    tmp_path: pathlib.Path,
) -> Cloud:
    """An object store with a right to the rows and no threads of its own."""
    files = tmp_path / "files"
    options("objectstore", path=str(files))
    _enter()
    manager = Manager()
    manager.me = ME
    manager.start()
    watched = Watched(app.app(manager), judge, rows, loud, apart=waits)
    made = Cloud(watched, _user("bob"), [], ())
    calm = Chance("")
    calm.random = lambda: 1.0  # type: ignore[method-assign]

    def done(method: str, target: str, body: bytes = b"") -> Answer:
        headers = {"Host": HOST, "Content-Length": str(len(body))}
        ask = made.signed(calm, Ask(method, target, headers, body))
        rows.wrote = False
        answer = watched.plain(ask)
        assert answer.status == 200, answer
        return answer

    for bucket in ("box", "empty"):
        done("PUT", f"/{bucket}")
    for key in ("a", "b/c", "%00%0a", "x" * 1024):
        done("PUT", f"/box/{key}", b"bytes of it")
    upload = ET.fromstring(done("POST", "/box/up?uploads").body).findtext("{*}UploadId") or ""
    etag = done("PUT", f"/box/up?uploadId={upload}&partNumber=1", b"x").headers["etag"]
    its = {"upload": upload, "etag": etag}
    made.right = right(its)
    made.things = ("box", "a", "empty", "up", *its.values())
    kept = {file.name: file.read_bytes() for file in files.iterdir()}

    def put_files_back() -> None:
        for file in files.iterdir():
            if file.name not in kept:
                file.unlink()
        for name, data in kept.items():
            if not (files / name).exists():
                (files / name).write_bytes(data)

    rows.after_back = put_files_back
    watched.looks = lambda done: (
        made.signed(calm, Ask("GET", target, {"Host": HOST}))
        for target in (
            *("/", "/box", "/box?list-type=2&encoding-type=url", "/box?uploads"),
            done.target.partition("?")[0],
        )
    )
    rows.keep()
    return made


@transaction
def _enter(tx: Tx) -> None:
    tx.add(models.Host(id=ME.id, host=ME.host, daemon="objectstore", machine_id="m", epoch=1))


def test_every_operation_has_a_right_request(cloud: Cloud) -> None:
    asked = set()
    for method, target, _, _ in cloud.right:
        path, _, given = target.partition("?")
        level = LEVELS[len([word for word in path.split("/") if word])]
        names = [name for name, _ in urllib.parse.parse_qsl(given, keep_blank_values=True)]
        subs = [name for name in names if name in operations.SUB_RESOURCES]
        asked.add((method, level, subs[0] if subs else ""))
    assert set(operations.names()) <= asked


def test_each_operation_given_nonsense_answers_in_its_protocol(cloud: Cloud) -> None:
    for number, chance in enumerate(chances.examples(700)):
        cloud.ask(chance, cloud.right[number % len(cloud.right)])
    cloud.door.met(200, 206, 400, 403, 404)


# --- bodies in chunks that carry signatures --------------------------------------------------


def test_streams_that_lie_are_refused_and_leave_nothing(cloud: Cloud) -> None:
    for chance in chances.examples(200):
        cloud.door.ask(chance, streamed(cloud, chance))
    cloud.door.met(200, 400, 403)


def streamed(cloud: Cloud, chance: Chance) -> Ask:
    """A PUT in aws-chunked with one thing in it not as it should be."""
    kind = chance.choice(signing.STREAMS)
    data = chance.randbytes(chance.choice((0, 1, 8192, 20_000)))
    trailing = kind.endswith(signing.TRAILER)
    headers = {
        "Host": HOST,
        "x-amz-content-sha256": kind,
        "x-amz-decoded-content-length": str(len(data)),
        "Content-Encoding": "aws-chunked",
    }
    if trailing:
        headers["x-amz-trailer"] = chance.choice(("x-amz-checksum-crc32", "x-amz-checksum-sha256"))
    if chance.random() < 0.3:
        names = ("x-amz-trailer", "x-amz-decoded-content-length", "x-amz-content-sha256")
        chances.changed_header(chance, headers, names)
    ask = Ask("PUT", f"/box/{chance.choice(('a', 'new'))}", headers, b"")
    still = Chance("")
    still.random = lambda: 1.0  # type: ignore[method-assign]
    ask = cloud.signed(still, ask)
    signature = ask.headers["Authorization"].rpartition("Signature=")[2]
    written = chunks(cloud, chance, kind, data, ask.headers, signature)
    if chance.random() < 0.5:
        written = chances.garbled_bytes(chance, written)
    ask.body = written
    ask.headers["Content-Length"] = str(len(written) + chance.choice((0, 0, 0, 0, 1, -1, 10**6)))
    return ask


def chunks(
    cloud: Cloud, chance: Chance, kind: str, data: bytes, headers: dict[str, str], seed: str
) -> bytes:
    stamp = headers["X-Amz-Date"]
    scope = f"{stamp[:8]}/nova/s3/aws4_request"
    key = signing._key(cloud.keys.secret, scope)
    size = chance.choice((8192, 8192, 8191, 1, 30_000))
    size = max(size, len(data) // 50)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    pieces += [b""] * chance.choice((1, 1, 1, 1, 0, 2))
    made, last = b"", seed
    for piece in pieces:
        lines = ["AWS4-HMAC-SHA256-PAYLOAD", stamp, scope, last, signing.EMPTY]
        lines.append(hashlib.sha256(piece).hexdigest())
        last = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        said = chance.choice((b"%x", b"%x", b"%x", b"%x", b"%X", b"%d", b"0%x")) % len(piece)
        said = b"fffffffffffffff" if chance.random() < 0.02 else said
        made += said
        if kind.startswith(signing.STREAMING):
            made += b";chunk-signature=" + (last.encode() if chance.random() < 0.97 else b"0" * 64)
        made += b"\r\n" + piece + (b"\r\n" if piece else b"")
    if kind.endswith(signing.TRAILER):
        name = headers.get("x-amz-trailer", "x-amz-checksum-crc32")
        digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
        text = f"{name}:{digest if 'sha256' in name else chances.text(chance, digest)}"
        line = text.encode(errors="surrogatepass").replace(b"\n", b"")
        lines = ["AWS4-HMAC-SHA256-TRAILER", stamp, scope, last]
        lines.append(hashlib.sha256(line + b"\n").hexdigest())
        last = hmac.new(key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        made += line + b"\r\n" * chance.choice((1, 1, 1, 30))
        if kind.startswith(signing.STREAMING):
            made += b"x-amz-trailer-signature:" + last.encode() + b"\r\n"
    return made + b"\r\n"
