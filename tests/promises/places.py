"""Every place of the product where something can happen to a process, read from its source.

Four kinds: checkpoints that are written out; the two around the commit of each `@transaction`;
those around the sending and at the coming of each nudge; those of the frame around each apply
(`claimed`, `applied`, `ended`), one set for each line of `states.MACHINES`.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import pathlib
from collections.abc import Iterator

from minicloud import interfaces, states

TOP = pathlib.Path(__file__).resolve().parents[2]
PRODUCT = TOP / "minicloud"

# drivers of real things: killed at in tests/host, or pretended here by their twin
REAL = (
    *("compute/libvirt/driver.py", "network/linux.py", "volume/files.py", "volume/tgt.py"),
    *("compute/disks.py", "compute/images.py"),
)
# a process of many daemons, killed as a whole in tests/functional/test_embedded.py
EMBEDDED = "embedded/"
# where the name of a checkpoint is put together, and what it is then
MADE = {
    "db/session.py": ("commit", "committed"),
    "rpc.py": ("sending", "sent", "nudged"),
    "work.py": ("claimed", "applied", "ended"),
}


@dataclasses.dataclass(frozen=True, order=True)
class Written:
    """A checkpoint and the module it is in."""

    name: str
    module: str

    @property
    def real(self) -> bool:
        return self.module in REAL


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the product, by its path below minicloud/."""
    files = sorted(PRODUCT.rglob("*.py"))
    return [(str(file.relative_to(PRODUCT)), ast.parse(file.read_text())) for file in files]


def written() -> set[Written]:
    """The checkpoints whose names stand in the source, also as an argument of a function that
    passes it on."""
    trees = dict(modules())
    found = set()
    passing: dict[str, int] = {}  # function → place of the argument that is a name
    for module, tree in trees.items():
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            arguments = [argument.arg for argument in function.args.args]
            for call in checkpoints(function):
                [name] = call.args
                if isinstance(name, ast.Constant):
                    found.add(Written(str(name.value), module))
                elif isinstance(name, ast.Name) and name.id in arguments:
                    passing[function.name] = arguments.index(name.id)
                elif not (isinstance(name, ast.JoinedStr) and module in MADE):
                    raise AssertionError(f"{module}: what is {ast.unparse(call)}?")
    for module, tree in trees.items():
        for node in ast.walk(tree):
            place = passing.get(called(node)) if isinstance(node, ast.Call) else None
            if place is not None and place < len(node.args):  # type: ignore[attr-defined]
                argument = node.args[place]  # type: ignore[attr-defined]
                if isinstance(argument, ast.Constant):
                    found.add(Written(str(argument.value), module))
    return found


def called(call: ast.Call) -> str:
    """The last word of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def checkpoints(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) == "checkpoint":
            yield node


def transactions() -> set[str]:
    """The two places of every `@transaction`, by the names it gives them."""
    return {
        f"{module[:-3].replace('/', '.')}.{function.name}.{moment}"
        for module, tree in modules()
        if not module.startswith(EMBEDDED)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        and any(getattr(mark, "id", "") == "transaction" for mark in function.decorator_list)
        for moment in MADE["db/session.py"]
    }


def nudges() -> set[str]:
    """The three places of every nudge."""
    return {
        f"{name}.{moment}"
        for protocol in vars(interfaces).values()
        for name, method in getattr(protocol, "__dict__", {}).items()
        if getattr(method, "rpc_kind", "") == "nudge"
        for moment in MADE["rpc.py"]
    }


def frames() -> set[str]:
    """The three places of every verb's frame."""
    return {
        f"{work.name}.{moment}"
        for machine in states.MACHINES
        for work in machine.work.values()
        if not work.every
        for moment in MADE["work.py"]
    }


def simulated() -> set[str]:
    """All places that daemons on pretended hosts come by."""
    own = {place.name for place in written() if not place.real}
    return own | transactions() | nudges() | frames()


# --- steps ----------------------------------------

APPLIES = ("finishes", "applies")
HANDS = ("driver", "store", "exports", "registering", "links")


def unnamed_steps() -> list[str]:
    """Steps of an apply with another step after them and no checkpoint between: a death there
    would never be tried."""
    return [
        f"{module}: {function.name}: {first} and {then}"
        for module, tree in modules()
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for function in kind.body
        if isinstance(function, ast.FunctionDef) and _is_apply(function)
        for first, then in _pairs(function, _helpers(kind))
    ]


def _is_apply(function: ast.FunctionDef) -> bool:
    return any(
        isinstance(mark, ast.Call) and called(mark) in APPLIES for mark in function.decorator_list
    )


def _helpers(kind: ast.ClassDef) -> set[str]:
    """Methods of the manager that themselves lay hands on the host."""
    return {
        function.name
        for function in kind.body
        if isinstance(function, ast.FunctionDef)
        and not _is_apply(function)
        and any(isinstance(node, ast.Call) and _is_hand(node) for node in ast.walk(function))
    }


def _is_hand(call: ast.Call) -> bool:
    owner = getattr(call.func, "value", None)
    return getattr(owner, "attr", getattr(owner, "id", "")) in HANDS


def _pairs(function: ast.FunctionDef, helpers: set[str]) -> Iterator[tuple[str, str]]:
    before = ""
    for node in _in_order(function):
        if called(node) == "checkpoint":
            before = ""
        elif _is_hand(node) or called(node) in helpers:
            if before:
                yield before, ast.unparse(node.func)
            before = ast.unparse(node.func)


def _in_order(function: ast.FunctionDef) -> list[ast.Call]:
    calls = [node for node in ast.walk(function) if isinstance(node, ast.Call)]
    return sorted(calls, key=lambda node: (node.lineno, node.col_offset))
