"""minicloud-manage: what is typed, what is printed, how it exits."""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from minicloud import context
from minicloud.auth import internal
from minicloud.cli import app, novarc
from minicloud.cloud import images, users

SHELLS = [name for name in ("bash", "dash", "zsh") if shutil.which(name)]


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.status == 0, self.err
        return json.loads(self.out)


Manage = Callable[..., Result]


@pytest.fixture
def manage(database: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> Manage:
    """Run a command on an empty cloud."""
    file = tmp_path / "minicloud.conf"
    file.write_text("[DEFAULT]\n")

    def run(*words: str) -> Result:
        capsys.readouterr()
        status = app.run(["--config-file", str(file), *words])
        printed = capsys.readouterr()
        return Result(status, printed.out, printed.err)

    return run


def refused(result: Result, *words: str, status: int = 1) -> None:
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    for word in words:
        assert word in result.err


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_alone_it_lists_all_commands(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(words) == 0
    out = capsys.readouterr().out
    assert "network create" in out
    assert "Create a network and show its id" in out


def test_a_nouns_help_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["network", "--help"]) == 0
    out = capsys.readouterr().out
    assert "network create" in out
    assert "user create" not in out


def test_a_commands_help_is_its_docstring_and_arguments(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert app.run(["network", "create", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: minicloud-manage network create NAME CIDR [KIND]")
    assert "the first address is the gateway's" in out
    assert "--kind KIND        default: flatdhcp" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("nonsense", "unknown command 'nonsense'"),
        ("network", "create|list"),
        ("network nonsense", "create|list"),
        ("nonsense --help", "unknown command"),
        ("network create", "NAME CIDR is missing (usage: minicloud-manage network create"),
        ("network create private --kind flat", "CIDR is missing"),
        ("user create a b", "too many arguments: b"),
        ("user create --nonsense x", "--nonsense"),
        ("user create a --adm", "--adm"),
        ("network create a 10.0.0.0/24 --mtu many", "MTU is not a number"),
        ("project quota admin instances many", "VALUE must be a number"),
        ("project quota admin instances", "VALUE is missing"),
        ("user list --config-file", "--config-file needs"),
    ],
)
def test_wrong_usage_says_what_is_wrong(manage: Manage, words: str, said: str) -> None:
    refused(manage(*words.split()), said, status=2)


def test_a_missing_file_is_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["user", "list", "--config-file", "/nonexistent"]) == 1
    assert "/nonexistent" in capsys.readouterr().err


def test_the_file_may_be_named_after_the_command(
    manage: Manage, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.run(["user", "list", f"--config-file={tmp_path}/minicloud.conf"]) == 0
    assert app.run(["user", "--config-file", f"{tmp_path}/minicloud.conf", "list"]) == 0


def test_arguments_come_in_order_by_name_or_both(manage: Manage) -> None:
    for words in (
        ["n1", "10.1.0.0/24"],
        ["--cidr", "10.2.0.0/24", "--name", "n2"],
        ["--name=n3", "10.3.0.0/24"],
        ["10.4.0.0/24", "--name", "n4"],
    ):
        assert manage("network", "create", *words).status == 0
    rows = manage("network", "list", "--json").json
    assert {row["name"]: row["cidr"] for row in rows} == {
        f"n{number}": f"10.{number}.0.0/24" for number in (1, 2, 3, 4)
    }


def test_help_and_usage_errors_need_no_heavy_modules() -> None:
    script = (
        "import sys; from minicloud.cli import app; app.run([]); app.run(['x']);"
        " sys.exit('sqlalchemy' in sys.modules or 'oslo_config' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the database -----------------------------------------------------------------------------


def test_sync_shows_the_version_and_can_be_repeated(manage: Manage) -> None:
    first = manage("db", "sync")
    assert (first.status, first.err) == (0, "")
    assert manage("db", "sync").out == first.out == manage("db", "version").out


def test_a_database_that_is_away_is_one_line(manage: Manage, options: Callable[..., None]) -> None:
    options("database", connection="sqlite:////nonexistent/db")
    refused(manage("user", "list"), "database")


# --- users and projects -----------------------------------------------------------------------


def test_users_come_and_go(manage: Manage) -> None:
    made = manage("user", "create", "alice")
    assert (made.status, made.err) == (0, "")
    assert manage("user", "create", "root", "--admin").status == 0
    rows = manage("user", "list", "--json").json
    assert [(row["name"], row["admin"]) for row in rows] == [("alice", False), ("root", True)]
    assert rows[0]["id"] == made.out.strip()
    assert manage("user", "delete", "alice").status == 0
    assert [row["name"] for row in manage("user", "list", "--json").json] == ["root"]


def test_refusals_name_what_stands_in_the_way(manage: Manage) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    refused(manage("user", "create", "alice"), "'alice' already exists")
    refused(manage("user", "delete", "alice"), "lab")
    refused(manage("user", "delete", "bob"), "'bob' does not exist")
    refused(manage("project", "create", "lab2", "bob"), "bob")
    refused(manage("project", "add", "none", "alice"), "none")


def test_projects_have_members(manage: Manage) -> None:
    for name in ("alice", "bob"):
        manage("user", "create", name)
    manage("project", "create", "lab", "alice")
    for _ in range(2):
        assert manage("project", "add", "lab", "bob").status == 0
    assert manage("project", "list", "--json").json[0]["members"] == ["alice", "bob"]
    for _ in range(2):
        assert manage("project", "remove", "lab", "bob").status == 0
    [row] = manage("project", "list", "--json").json
    assert (row["name"], row["manager"], row["members"]) == ("lab", "alice", ["alice"])
    assert manage("project", "delete", "lab").status == 0
    assert manage("project", "list", "--json").json == []


def test_quotas_are_shown_and_set(manage: Manage) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    assert manage("project", "quota", "lab", "--json").json == [
        {"key": "instances", "limit": 10, "used": 0},
        {"key": "cores", "limit": 20, "used": 0},
        {"key": "ram", "limit": 51200, "used": 0},
        {"key": "volumes", "limit": 10, "used": 0},
        {"key": "gigabytes", "limit": 1000, "used": 0},
    ]
    assert manage("project", "quota", "lab", "instances", "-1").status == 0
    assert manage("project", "quota", "lab", "--json").json[0]["limit"] == -1
    refused(manage("project", "quota", "lab", "nonsense", "1"), "instances, cores, ram")
    refused(manage("project", "quota", "lab", "cores", "-2"))


def test_an_environment_for_a_directory_that_is_not_there_names_it(manage: Manage) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    done = manage("project", "environment", "lab", "alice", "/no-such/alice.rc")
    refused(done, "There is no directory /no-such")


# --- lists ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noun",
    ["user", "project", "network", "image", "instance_type", "service", "host", "config"],
)
def test_every_list_has_a_table_and_json(manage: Manage, noun: str) -> None:
    plain, objects = manage(noun, "list"), manage(noun, "list", "--json")
    assert (plain.status, objects.status, plain.err) == (0, 0, "")
    assert len(plain.out.splitlines()) == 1 + len(objects.json)


def test_instance_types_are_the_original_five_and_a_tiny_one(manage: Manage) -> None:
    rows = manage("instance_type", "list", "--json").json
    assert {row["name"] for row in rows} == {
        "m1.tiny", "m1.small", "m1.medium", "m1.large", "m1.xlarge", "m1.nano",
    }  # fmt: skip


def test_secrets_are_not_listed(manage: Manage, options: Callable[..., None]) -> None:
    options("rpc", transport_url="rabbit://minicloud:hunter2@127.0.0.1/")
    out = manage("config", "list").out
    assert "transport_url" in out
    assert "hunter2" not in out


def test_a_table_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from minicloud.cli import table

    table.show(("name",), [("a\x1b[2Jb\nc",)], as_json=False)
    assert capsys.readouterr().out == "name\na?[2Jb?c\n"


# --- novarc -----------------------------------------------------------------------------------


def sourced(shell: str, script: str, directory: pathlib.Path) -> list[str]:
    done = subprocess.run(
        [shell, "-c", f"set -eu; {script}"],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "AWS_PROFILE": "other", "CDPATH": "/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize("moved", [False, True])
def test_the_environment_works_in_every_shell(
    manage: Manage, tmp_path: pathlib.Path, shell: str, moved: bool
) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    directory = tmp_path / "it's a $HOME `dir`"
    directory.mkdir()
    assert manage("project", "environment", "lab", "alice", f"{directory}/novarc").status == 0
    assert (directory / "novarc").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in directory.iterdir()) == ["clouds.yaml", "novarc"]
    if moved:
        directory = directory.rename(tmp_path / "elsewhere")
    names = "EC2_URL S3_URL EC2_ACCESS_KEY EC2_USER_ID AWS_DEFAULT_REGION NOVA_KEY_DIR"
    echo = "; ".join(f'echo "${name}"' for name in names.split())
    got = sourced(shell, f". ./novarc; {echo}; echo ${{AWS_PROFILE-none}}", directory)
    [user] = manage("user", "list", "--json").json
    [project] = manage("project", "list", "--json").json
    assert got == [
        "http://127.0.0.1:8773/services/Cloud",
        "http://127.0.0.1:3333",
        f"{user['access_key']}:lab",
        project["id"],
        "nova",
        str(directory),
        "none",
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_the_environment_survives_hostile_values(shell: str, tmp_path: pathlib.Path) -> None:
    hostile = "a'b\"c$(touch x)`touch y`\\ d"
    values = dict.fromkeys(
        (
            *("project_id", "access_key", "secret", "ec2_url", "s3_url", "region"),
            *("auth_url", "password"),
        ),
        hostile,
    )
    text = novarc.render(user="u", project="p", path=tmp_path / "novarc", **values)
    novarc.write(tmp_path / "novarc", text)
    got = sourced(shell, '. ./novarc; printf "%s\n" "$AWS_SECRET_ACCESS_KEY"', tmp_path)
    assert got == [hostile]
    assert [path.name for path in tmp_path.iterdir()] == ["novarc"]


def test_users_are_told_where_a_proxy_is_and_daemons_are_not(
    manage: Manage, options: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    options("objectstore", url="http://10.0.0.1:3333", s3_url="https://cloud.example:3333")
    manage("project", "environment", "lab", "alice", str(tmp_path / "novarc"))
    [told] = sourced("bash", '. ./novarc; echo "$S3_URL $AWS_ENDPOINT_URL_S3"', tmp_path)
    assert told == "https://cloud.example:3333 https://cloud.example:3333"
    assert internal.image_url("x") == "http://10.0.0.1:3333/v1/images/x"


def test_the_environment_is_openstacks_too(manage: Manage, tmp_path: pathlib.Path) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    file = tmp_path / "novarc"
    manage("project", "environment", "lab", "alice", str(file))
    names = (
        "OS_AUTH_URL OS_USERNAME OS_PROJECT_NAME OS_USER_DOMAIN_NAME OS_PROJECT_DOMAIN_NAME"
        " OS_REGION_NAME OS_IDENTITY_API_VERSION OS_PASSWORD"
    )
    echo = "; ".join(f'echo "${name}"' for name in names.split())
    *got, password = sourced("/bin/sh", f". ./novarc; {echo}", tmp_path)
    assert got == [
        "http://127.0.0.1:5000/v3",
        *("alice", "lab", "Default", "Default", "nova", "3"),
    ]
    clouds = tmp_path / "clouds.yaml"
    assert clouds.stat().st_mode & 0o777 == 0o600
    read = yaml.safe_load(clouds.read_text())["clouds"]["minicloud"]
    assert read["auth"]["password"] == password == users.password(context.admin(), "alice")
    assert read["auth"]["auth_url"] == "http://127.0.0.1:5000/v3"
    assert manage("project", "environment", "lab", "alice", str(file)).status == 0


def test_a_clouds_yaml_of_somebody_else_is_left_alone(
    manage: Manage, tmp_path: pathlib.Path
) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    (tmp_path / "clouds.yaml").write_text("clouds: {}\n")
    done = manage("project", "environment", "lab", "alice", str(tmp_path / "novarc"))
    refused(done, "clouds.yaml")
    assert [path.name for path in tmp_path.iterdir()].count("novarc") == 0


def test_a_password_of_ones_own_is_not_written(manage: Manage, tmp_path: pathlib.Path) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")
    alice = users.get(context.admin(), "alice")
    generated = users.password(context.admin(), "alice")
    asking = dataclasses.replace(context.admin(), user_id=alice.id)
    users.change_password(asking, alice.id, str(generated), "correct horse")
    manage("project", "environment", "lab", "alice", str(tmp_path / "novarc"))
    assert sourced("/bin/sh", ". ./novarc; echo ${OS_PASSWORD-none}", tmp_path) == ["none"]
    assert "password:" not in (tmp_path / "clouds.yaml").read_text()


def test_a_stranger_of_the_project_gets_no_environment(
    manage: Manage, tmp_path: pathlib.Path
) -> None:
    for name in ("alice", "bob"):
        manage("user", "create", name)
    manage("project", "create", "lab", "alice")
    file = tmp_path / "novarc"
    refused(manage("project", "environment", "lab", "bob", str(file)), "bob")
    refused(manage("project", "environment", "lab", "alice", "/nonexistent/novarc"), "nonexistent")
    assert not file.exists()


# --- images -----------------------------------------------------------------------------------


class Store(http.server.BaseHTTPRequestHandler):
    """Takes what is signed, as the object store does, and makes no row of it active."""

    received: dict[str, bytes]
    refuse = False

    def do_PUT(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        internal.check("PUT", self.path, headers)
        body = self.rfile.read(int(headers["content-length"]))
        assert headers["x-amz-content-sha256"] == hashlib.sha256(body).hexdigest()
        self.received[self.path] = body
        self.send_response(400 if self.refuse else 200)
        self.end_headers()
        self.wfile.write(b"<Error><Message>It &lt;smells&gt;</Message></Error>")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def store(options: Callable[..., None]) -> Iterator[type[Store]]:
    class Fresh(Store):
        received: dict[str, bytes] = {}  # noqa: RUF012

    server = http.server.HTTPServer(("127.0.0.1", 0), Fresh)
    options("objectstore", url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def lab(manage: Manage) -> None:
    manage("user", "create", "alice")
    manage("project", "create", "lab", "alice")


def test_an_image_is_uploaded_and_its_id_shown(
    manage: Manage, lab: None, store: type[Store], tmp_path: pathlib.Path
) -> None:
    (tmp_path / "disk").write_bytes(b"bytes" * 1000)
    words = ["image", "register", "tty", f"{tmp_path}/disk", "--project", "lab", "--word", "tty"]
    assert manage(*words, "--public").out == "ami-tty\n"
    [row] = manage("image", "list", "--json").json
    assert store.received == {internal.image_path(row["uuid"]): b"bytes" * 1000}
    assert (row["id"], row["public"], row["state"]) == ("ami-tty", True, "uploading")


def test_an_image_that_is_refused_leaves_nothing(
    manage: Manage, lab: None, store: type[Store], tmp_path: pathlib.Path
) -> None:
    store.refuse = True
    (tmp_path / "disk").write_bytes(b"bytes")
    refused(
        manage("image", "register", "tty", f"{tmp_path}/disk", "--project", "lab"), "It <smells>"
    )
    assert images.everything(context.admin()) == []


def test_an_object_store_that_is_away_leaves_nothing(
    manage: Manage, lab: None, options: Callable[..., None], tmp_path: pathlib.Path
) -> None:
    options("objectstore", url="http://127.0.0.1:1")
    (tmp_path / "disk").write_bytes(b"bytes")
    refused(
        manage("image", "register", "tty", f"{tmp_path}/disk", "--project", "lab"),
        "http://127.0.0.1:1",
    )
    assert images.everything(context.admin()) == []


def test_a_file_that_is_not_there_is_refused(manage: Manage, lab: None) -> None:
    refused(manage("image", "register", "tty", "/nonexistent", "--project", "lab"), "nonexistent")


# --- shell ------------------------------------------------------------------------------------


def test_the_shell_runs_what_comes_through_a_pipe(
    manage: Manage, lab: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("print(projects.get(admin(), 'lab').name)\n"))
    assert manage("shell").out == "lab\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO("users.get(admin(), 'bob')\n"))
    refused(manage("shell"), "bob")


# --- the database -----------------------------------------------------------------------------


def test_a_purge_says_how_many_rows_of_each_kind_it_deleted(manage: Manage) -> None:
    counted = {row["rows"]: row["purged"] for row in manage("db", "purge", "30", "--json").json}
    assert counted["instances"] == 0
    assert "instances  " in manage("db", "purge", "--older-than", "30", "--dry-run").out


def test_a_purge_of_what_is_younger_than_a_day_is_refused(manage: Manage) -> None:
    refused(manage("db", "purge", "0"), "OLDER_THAN", "one day")
