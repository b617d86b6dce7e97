"""Files below an experiments' directory."""

from __future__ import annotations

import os
from pathlib import Path


def files_below(directory: Path, pattern: str) -> list[Path]:
    """The files that match, sorted; behind linked directories too, each of which is looked into once.

    Args:
        directory: where to look.
        pattern: of a file's name, as in ``Path.match``.
    """
    found, seen = [], set()
    for folder, subfolders, names in os.walk(directory, followlinks=True):
        subfolders.sort()
        real = os.path.realpath(folder)
        if real in seen:
            subfolders.clear()
            continue
        seen.add(real)
        found += [Path(folder) / name for name in names if Path(name).match(pattern)]
    return sorted(found)
