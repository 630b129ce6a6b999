"""docs/adding.md is true: what it adds, where it says, works as it shows."""

from __future__ import annotations

import ast
import doctest
import io
import ipaddress
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore import config

from tests.embedded import Embedded, free_offset
from tests.house.test_sample import generated
from tests.integration.running import wait

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGE = (TOP / "docs" / "adding.md").read_text()
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLACE = re.compile(r"# (minicloud/\S+\.py)(?:, (a new file|in (?:class )?([\w.]+)))?\n")
SECTIONS = {part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ")[1:]}

# what a guest reads: the metadata service on the running cloud's rows, asked from this address
GUEST = """
import io, sys
from minicloud import config
from minicloud.api import metadata
from minicloud.cloud.metadata import guest
_, conf, network, address, key = sys.argv
config.load(["--config-file", conf], "guest")
asked = {"REQUEST_METHOD": "GET", "PATH_INFO": f"/latest/meta-data/{key}",
         "REMOTE_ADDR": address, "wsgi.input": io.BytesIO()}
serve = metadata.application(network, guest)
sys.stdout.buffer.write(b"".join(serve(asked, lambda status, headers: None)))
"""


def blocks(language: str, text: str = PAGE) -> list[str]:
    return [block for kind, block in FENCED.findall(text) if kind == language]


# --- adding -----------------------------------------------------------------------------------


def add(tree: pathlib.Path, block: str) -> None:
    """The block is where its first line says."""
    place = PLACE.match(block)
    assert place is not None, f"no place in the first line: {block}"
    path, how, name = place.groups()
    lines, file = block[place.end() :], tree / path
    if how == "a new file":
        assert not file.exists(), file
        file.write_text(lines)
        return
    before = file.read_text()
    if name is None:
        file.write_text(f"{before}\n\n{lines}")
        return
    at = _end(ast.parse(before), name)
    old = before.splitlines(keepends=True)
    gap = "\n" if how.startswith("in class") else ""
    file.write_text("".join([*old[:at], gap, lines, *old[at:]]))


def _end(tree: ast.Module, name: str) -> int:
    """The last line of what is called so: a class, the list in NAME = f(…, [ … ]), or the dict in
    NAME = f(KEYWORD={ … }) for NAME.KEYWORD."""
    first, _, keyword = name.partition(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == first:
            return node.end_lineno or 0
        if not isinstance(node, ast.Assign) or ast.unparse(node.targets[0]) != first:
            continue
        assert isinstance(node.value, ast.Call)
        if not keyword:
            [items] = [one for one in node.value.args if isinstance(one, ast.List)]
            return items.elts[-1].end_lineno or 0
        [table] = [one.value for one in node.value.keywords if one.arg == keyword]
        assert isinstance(table, ast.Dict)
        return table.values[-1].end_lineno or 0
    raise AssertionError(f"there is no {name}")


def numbered(text: str) -> str:
    """NNNN and MMMM are the next migration's number and the last one's."""
    versions = (TOP / "minicloud" / "db" / "migrations" / "versions").glob("[0-9]*.py")
    last = max(file.name[:4] for file in versions)
    return text.replace("NNNN", f"{int(last) + 1:04}").replace("MMMM", last)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The source with all that the page adds, and nothing else."""
    made = tmp_path_factory.mktemp("added")
    leave = shutil.ignore_patterns("__pycache__")
    for name in ("minicloud", "bin"):
        shutil.copytree(TOP / name, made / name, ignore=leave)
    for block in blocks("python"):
        add(made, numbered(block))
    return made


# --- using ------------------------------------------------------------------------------------


class Lesson:
    """The cloud of `tree`, and the words the page uses for it."""

    def __init__(self, tree: pathlib.Path, cloud: Embedded) -> None:
        self.tree, self.cloud = tree, cloud
        self.given = cloud.environment
        self.ec2, self.s3 = self._client("ec2"), self._client("s3")
        self.token, self.compute = self._log_in()

    def _client(self, service: str) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.given[f"AWS_ENDPOINT_URL_{service.upper()}"],
            region_name=self.given["AWS_DEFAULT_REGION"],
            aws_access_key_id=self.given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.given["AWS_SECRET_ACCESS_KEY"],
            config=config.Config(
                retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}
            ),
        )

    def _log_in(self) -> tuple[str, str]:
        domain = {"id": "default"}
        user = {
            "name": self.given["OS_USERNAME"],
            "password": self.given["OS_PASSWORD"],
            "domain": domain,
        }
        project = {"name": self.given["OS_PROJECT_NAME"], "domain": domain}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": project},
        }
        request = urllib.request.Request(
            self.given["OS_AUTH_URL"] + "/auth/tokens",
            json.dumps({"auth": auth}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            catalog = json.loads(answer.read())["token"]["catalog"]
            token = answer.headers["X-Subject-Token"]
        [url] = [one["endpoints"][0]["url"] for one in catalog if one["type"] == "compute"]
        return token, url

    def nova(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(
            self.compute + path,
            None if body is None else json.dumps(body).encode(),
            {"X-Auth-Token": self.token, "Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read()
        return json.loads(text) if text else None

    def run(self, flavor: str = "m1.nano", until: str = "running") -> str:
        answer = self.ec2.run_instances(
            ImageId="ami-tty", InstanceType=flavor, MinCount=1, MaxCount=1
        )
        id: str = answer["Instances"][0]["InstanceId"]
        wait(lambda: self._instance(id)["State"]["Name"] == until)
        return id

    def _instance(self, id: str) -> dict[str, Any]:
        [reservation] = self.ec2.describe_instances(InstanceIds=[id])["Reservations"]
        found: dict[str, Any] = reservation["Instances"][0]
        return found

    def guest(self, id: str, key: str) -> str:
        address = self._instance(id)["PrivateIpAddress"]
        return self._python("-c", GUEST, self._conf, self._network(address), address, key).stdout

    def _network(self, address: str) -> str:
        """The network it is in: no two of the page's meet."""
        listed = json.loads(self._manage("network list --json").stdout)
        here = ipaddress.IPv4Address(address)
        [id] = [one["id"] for one in listed if here in ipaddress.IPv4Network(one["cidr"])]
        return str(id)

    def manage(self, words: str) -> None:
        done = self._manage(words)
        print(done.stdout + done.stderr, end="")

    def _manage(self, words: str) -> subprocess.CompletedProcess[str]:
        program = str(self.tree / "bin" / "minicloud-manage")
        return self._python(program, "--config-file", self._conf, *words.split())

    @property
    def _conf(self) -> str:
        return str(self.cloud.state / "minicloud.conf")

    def _python(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", *words],
            env=os.environ | {"PYTHONPATH": str(self.tree)},
            cwd=self.tree,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def log(self) -> str:
        return self.cloud.log

    def sample(self, option: str) -> str:
        """What the sample configuration says of it."""
        about = self.tree / "about"
        about.mkdir(exist_ok=True)
        said = generated(about, self.tree)
        [part] = [part for part in said.split("\n\n") if f"\n#{option} =" in part]
        return part


@pytest.fixture(scope="module")
def lesson(tree: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lesson]:
    state = tmp_path_factory.mktemp("lesson") / "cloud"
    state.mkdir(mode=0o700)
    (state / "local.conf").write_text("".join(blocks("ini")))
    program = tree / "bin" / "minicloud-all"
    cloud = Embedded(state, free_offset(13000), "--hosts", "2", program=program)
    try:
        assert cloud.said[:1] == ["ready"], cloud.process.communicate()
        yield Lesson(tree, cloud)
        assert cloud.end() == 0
    finally:
        cloud.process.kill()


@pytest.mark.parametrize("name", [one for one, text in SECTIONS.items() if blocks("pycon", text)])
def test_it_is_as_the_page_shows(lesson: Lesson, name: str) -> None:
    words = ("ec2", "s3", "nova", "run", "guest", "manage", "log", "sample")
    names = {word: getattr(lesson, word) for word in words} | {"wait": wait}
    examples = doctest.DocTestParser()
    flags = doctest.ELLIPSIS | doctest.REPORT_NDIFF
    for block in blocks("pycon", SECTIONS[name]):
        test = examples.get_doctest(numbered(block), names, name, "docs/adding.md", 0)
        said = io.StringIO()
        failed, tried = doctest.DocTestRunner(optionflags=flags).run(test, out=said.write)
        assert tried
        assert not failed, said.getvalue()


def test_every_row_of_its_table_has_an_example_and_every_example_is_used() -> None:
    rows = re.findall(r"^\| \[([^\]]+)\]\(#([\w-]+)\)", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == set(SECTIONS)
    assert [(name, name.lower().replace(" ", "-")) for name, _ in rows] == rows
    assert [name for name, text in SECTIONS.items() if not blocks("python", text)] == []


def test_what_is_added_is_written_as_the_house_writes(tree: pathlib.Path) -> None:
    ruff = [sys.executable, "-m", "ruff"]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [*ruff, *words, "--no-cache", "--config", str(TOP / "pyproject.toml"), "minicloud"],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
