"""How SQLite goes about each statement of the product that a test makes it run.

Its plans follow from the tables and their indexes alone (nothing here runs ANALYZE), so what it
finds by an index the servers can find by it, too.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import sqlalchemy as sa

# who reads whole tables and why; everybody else finds rows by an index
BY_DESIGN = {
    "cloud.comparing": "the auditor compares everything",
    "cloud.fencing._left": "the operator forgets a host that was given up",
    "cloud.operator": "the operator ends everything, and forgets all tenants",
    "cloud.page._page": "an admin's list of everyone's instances, by pages",
    "cloud.projects.find": "the operator's list of all projects",
    "cloud.projects.mine": "an admin's list of the projects to act in, which are all",
    "cloud.purge": "the operator deletes what ended, wherever it is",
    "cloud.quotas.exceeded": "the auditor's question about all projects",
    "cloud.users.delete": "the operator deletes a user who manages nothing",
    "cloud.users.find": "the operator's list of all users",
}

# what stays small, however long and much a cloud is used; group_leavings are on their way out
SMALL = {"cloud", "flavors", "hosts", "networks", "group_leavings"}
SMALL |= {"alembic_version", "sqlite_master"}


class Plans:
    """A listener to `before_cursor_execute` that asks for the plan of each statement once."""

    def __init__(self) -> None:
        self._scans: list[tuple[str, str, str]] = []
        self._known: set[str] = set()

    def __call__(
        self,
        connection: sa.Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        context: Any,
        executemany: bool,
    ) -> None:
        shape = re.sub(r"\(\?(, \?)*\)", "(?)", statement)
        if connection.dialect.name != "sqlite" or shape in self._known:
            return
        asker = _asker()
        if asker is None or not statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT")):
            return
        self._known.add(shape)
        raw: Any = connection.connection.dbapi_connection
        values = parameters[0] if executemany else parameters
        plan = raw.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()
        names = _tables(statement)
        for *_, step in plan:
            found = re.match(r"SCAN (\w+)", step)
            table = names.get(found[1]) if found else None
            if table is not None and table not in SMALL and not _by_design(asker):
                self._scans.append((asker, table, statement))

    def new_scans(self) -> list[tuple[str, str, str]]:
        """The statements since the last time that read the whole of a table that grows: who asked,
        the table, the statement."""
        found, self._scans = self._scans, []
        return found


def _asker() -> str | None:
    """The function of minicloud that made the statement; None for a test's own."""
    frame = sys._getframe()
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if (module.startswith("tests.") and module != __name__) or module.startswith("test_"):
            return None
        if module.startswith("minicloud.") and module != "minicloud.db.session":
            return f"{module.removeprefix('minicloud.')}.{frame.f_code.co_name}"
        frame = frame.f_back
    return None


def _by_design(asker: str) -> bool:
    return asker in BY_DESIGN or asker.rpartition(".")[0] in BY_DESIGN


def _tables(statement: str) -> dict[str, str]:
    """What a plan calls each table of the statement, and its name."""
    found = re.findall(r"(?:FROM|JOIN|UPDATE|,) (\w+)(?: AS (\w+))?", statement)
    return {alias or table: table for table, alias in found}
