"""What a volume host must be able to do: keep bytes (Store) and export them (Exports).

Every method may be repeated at any time and then changes nothing more; none opens a transaction.
A method raises `TryLater` when what serves it is away, and anything else for a failure that is
worth another try.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol


@dataclasses.dataclass(frozen=True)
class Export:
    """A volume for one attachment (`models.Attachment.export_id`): only who knows `user` and
    `password` (CHAP) may enter."""

    id: str
    volume_id: str
    user: str
    password: str = dataclasses.field(repr=False)


class Store(Protocol):
    def prepare(self) -> None:
        """There is a place for volumes."""
        ...

    def total_gib(self) -> int:
        """What the place can hold in all."""
        ...

    def create(self, volume_id: str, size_gib: int) -> None:
        """The volume's bytes are there: zeros, or what was written to them before."""
        ...

    def delete(self, volume_id: str, *, keep: bool = False) -> None:
        """The volume's bytes are gone; with `keep` they are put aside for a day, in case
        somebody misses them."""
        ...

    def volumes(self) -> set[str]:
        """Ids of the volumes whose bytes are there."""
        ...

    def empty_trash(self) -> None:
        """What was put aside more than a day ago is gone."""
        ...


class Exports(Protocol):
    @property
    def portal(self) -> str:
        """Where hypervisors find the exports: address:port."""
        ...

    def ping(self) -> None:
        """Return when the exporting server answers, raise `TryLater` when not."""
        ...

    def serve(self, export: Export) -> None:
        """The volume can be entered at the portal, as the export's user and by nobody else."""
        ...

    def withdraw(self, export_id: str) -> None:
        """Nobody can enter by this export any more, and whoever did is put out."""
        ...

    def present(self) -> dict[str, str]:
        """export → volume of every export of this cloud, "" while one is half made."""
        ...
