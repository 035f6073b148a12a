"""What is in a folder of job modules, links included.

A link to a folder is followed where that holds Python files itself, as a folder of modules does;
one to data, which may be as large as the disk, is not. One that leads back to a folder that it is
in is not entered, so that a walk ends. Whoever loads, watches, sends or checks the modules of a
project walks alike. `pathlib` is not imported: every command checks its project.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: str) -> Iterator[os.DirEntry[str]]:
    """All files, folders and links below `folder`, each folder before what is in it, by name. What
    cannot be read is passed over."""
    yield from _walk(folder, frozenset())


def is_closed(folder: str) -> bool:
    """Is it a folder of which this process may not see what is in it?"""
    return os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK)  # noqa: PTH112  # see above


def leads_to_modules(link: str) -> bool:
    """Does the link lead to a folder that holds Python files itself?"""
    try:
        with os.scandir(link) as entries:
            return any(entry.name.endswith(".py") for entry in entries)
    except OSError:  # It leads to a file, or nowhere.
        return False


def _walk(folder: str, above: frozenset[str]) -> Iterator[os.DirEntry[str]]:
    place = os.path.realpath(folder)
    if place in above:
        return
    try:
        with os.scandir(folder) as opened:
            entries = sorted(opened, key=lambda entry: entry.name)
    except OSError:
        return
    above |= {place}
    for entry in entries:
        yield entry
        is_folder = entry.is_dir(follow_symlinks=False)
        if is_folder or (entry.is_symlink() and leads_to_modules(entry.path)):
            yield from _walk(entry.path, above)
