"""What a run has measured, as a table and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Figure:
    """`value` of what `name` says, in `unit`; `reach` is what we want, "<=" or ">=" before it, and
    `limit` what the machine could do at best in the same run."""

    work: str
    name: str
    value: float
    unit: str
    reach: str = ""
    limit: float | None = None

    @property
    def reached(self) -> bool | None:
        if not self.reach:
            return None
        sign, wanted = self.reach.split()
        return self.value <= float(wanted) if sign == "<=" else self.value >= float(wanted)


def table(figures: Sequence[Figure]) -> str:
    """Lines for a person."""
    lines = [("work", "figure", "measured", "reach", "", "of the limit")]
    for one in figures:
        share = "" if one.limit is None else f"{one.value / one.limit:.2f} of {_short(one.limit)}"
        said = {None: "", True: "yes", False: "NO"}[one.reached]
        measured = f"{_short(one.value)} {one.unit}"
        lines.append((one.work, one.name, measured, one.reach, said, share))
    widths = [max(len(line[column]) for line in lines) for column in range(6)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_json(figures: Sequence[Figure]) -> str:
    return json.dumps(
        [dataclasses.asdict(one) | {"reached": one.reached} for one in figures], indent=1
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
