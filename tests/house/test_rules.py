"""Our own rules, checked on the source."""

from __future__ import annotations

import ast
import inspect
import pathlib
import re
from collections.abc import Iterator

import pytest

from minicloud import config, errors, states
from minicloud.compute.manager import Manager as Compute
from minicloud.network.manager import Manager as Network
from minicloud.objectstore.manager import Manager as Objectstore
from minicloud.scheduler.manager import Manager as Scheduler
from minicloud.volume.manager import Manager as Volume

TOP = pathlib.Path(__file__).resolve().parents[2]
SOURCES = sorted((TOP / "minicloud").rglob("*.py"))

MANAGERS: dict[str, type] = {
    manager.protocol.topic: manager
    for manager in (Compute, Network, Objectstore, Scheduler, Volume)
}

# who alone may import what (DESIGN section 3)
ONLY = {
    "eventlet": {"concurrency.py"},
    "subprocess": {"shell.py"},
    "oslo_messaging": {"rpc.py"},
    "libvirt": {"compute/libvirt/connection.py"},
    "psycopg2": {"db/postgresql.py"},
    "routes": {"api/openstack/wire.py"},
    "webob": {"wsgi.py"},
    "ipaddress": set(),  # netaddr's work
}


def name(source: pathlib.Path) -> str:
    return str(source.relative_to(TOP / "minicloud"))


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("library", ONLY)
def test_a_library_with_an_owner_is_imported_by_it_alone(library: str) -> None:
    users = {name(s) for s in SOURCES if library in imports(ast.parse(s.read_text()))}
    assert users == ONLY[library]


def test_only_the_database_layers_know_sqlalchemy() -> None:
    users = {
        name(s).split("/")[0] for s in SOURCES if "sqlalchemy" in imports(ast.parse(s.read_text()))
    }
    assert users == {"db", "states.py", "work.py", "cloud"}


def test_nobody_sleeps_but_through_concurrency() -> None:
    sleepers = {name(s) for s in SOURCES if re.search(r"\btime\.sleep\(", s.read_text())}
    assert sleepers == {"concurrency.py"}


def test_every_module_that_declares_options_is_listed() -> None:
    declaring = {
        "minicloud." + name(s)[:-3].replace("/", ".")
        for s in SOURCES
        if re.search(r"= (config\.)?declare\(", s.read_text())
    }
    assert declaring == set(config.MODULES)


def test_every_option_has_a_help_that_is_a_sentence() -> None:
    wrong = [
        f"[{group}] {option.name}"
        for group, options in config.list_opts()
        for option in options
        if group.split("_")[0] != "oslo"
        and not re.match(r"^[A-Z].*\.$", option.help or "", re.DOTALL)
    ]
    assert wrong == []


def test_errors_survive_a_message_with_class_and_facts() -> None:
    original = errors.QuotaExceeded(resource="cores", limit=20, used=19, wanted=2)
    back = errors.by_name(type(original).__name__)(**original.facts)
    assert (type(back), str(back)) == (type(original), str(original))


def test_every_error_text_names_facts_only_by_braces() -> None:
    for value in vars(errors).values():
        if isinstance(value, type) and issubclass(value, errors.Error):
            assert value.status in range(400, 600), value.__name__
            assert re.fullmatch(r"[A-Za-z]+(\.[A-Za-z]+)?", value.ec2), value.__name__


def test_no_source_names_a_machine_or_a_registry() -> None:
    for source in [*SOURCES, *sorted((TOP / "tools").rglob("*.py"))]:
        assert not re.search(r"/work/|/root/|/tmp/w/", source.read_text()), source


def test_every_state_is_in_one_table_only_once() -> None:
    for machine in states.MACHINES:
        assert not set(machine.work) & machine.settled, machine.name


def finished(method: object) -> tuple[str, str] | None:
    """Table and state in the `@finishes` of a manager's method."""
    if not hasattr(method, "apply"):
        return None
    known = inspect.getclosurevars(method).nonlocals  # type: ignore[arg-type]
    return known["machine"].name, known["state"]


def test_every_working_state_is_finished_by_the_method_its_table_names() -> None:
    wrong = [
        f"{work.name} of {manager.__module__} does not finish {machine.name} {state!r}"
        for machine in states.MACHINES
        for state, work in machine.work.items()
        if (manager := MANAGERS[work.topic])
        if (method := vars(manager).get(work.name)) is None
        or (not work.every and finished(method) != (machine.name, state))
    ]
    assert wrong == []
