"""No circles: whoever reads a file or a folder never has to know who uses it."""

from __future__ import annotations

import pytest

from architecture.source import CLI, DAEMON, FOLDERS, SDK, arrows, circles

LAZY = {(f"{SDK}.registry", SDK)}
"""`job.start` loads the client when it is called: a job module need not pay for one."""


def room(folder: str, module: str) -> str | None:
    """The file or folder within `folder` that `module` belongs to."""
    if not module.startswith(f"{folder}."):
        return None
    return module.removeprefix(f"{folder}.").partition(".")[0]


def folders(package: str) -> list[str]:
    """The package and the folders in it, by dotted name."""
    top = FOLDERS[package]
    below = [path.parent for path in sorted(top.rglob("__init__.py"))]
    return [".".join(path.relative_to(top.parent).parts) for path in below]


@pytest.mark.parametrize("package", [SDK, CLI, DAEMON])
def test_no_files_import_each_other_in_a_circle(package: str) -> None:
    """Late imports and imports for type checkers count: they too are something to know."""
    assert circles(arrows(package) - LAZY) == []


@pytest.mark.parametrize("package", [SDK, CLI, DAEMON])
def test_no_folders_import_each_other_in_a_circle(package: str) -> None:
    """Within each folder, what stands in it (files and folders) has an order."""
    found = arrows(package) - LAZY
    for folder in folders(package):
        between = {(room(folder, here), room(folder, there)) for here, there in found}
        named = {(a, b) for a, b in between if a is not None and b is not None and a != b}
        assert circles(named) == [], folder


def test_the_lazy_import_is_still_needed() -> None:
    """An exception that nothing needs would hide the next circle."""
    assert arrows(SDK) >= LAZY


def test_circle_is_found() -> None:
    """The judge must not be blind: a circle through three, beside one that is none."""
    arrows = {("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "d")}
    assert circles(arrows) == [["a", "b", "c"]]
    assert circles(arrows - {("c", "a")}) == []
