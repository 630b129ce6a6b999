"""A front door has one file per noun; here they are found, so that no list names them again."""

from __future__ import annotations

import importlib
import pkgutil


def load(package: str) -> None:
    """Every file of the package is imported: its actions, routes or commands are registered."""
    path = importlib.import_module(package).__path__
    for found in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{found.name}")
