"""Who may import what in the command line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from architecture.source import ROOT

PACKAGE = ROOT / "stackshift_cli"
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> set[str]:
    """The packages that `file` imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_stay_where_they_belong(file: Path) -> None:
    """Never the daemon; Rich only where something is drawn, Typer only in its own file."""
    where = str(file.relative_to(PACKAGE))
    packages = imported(file)
    assert "stackshiftd" not in packages
    assert "msgspec" not in packages
    assert "rich" not in packages or where.startswith("render/")
    assert "typer" not in packages or where == "commands/typer_app.py"
    assert "platformdirs" not in packages or where == "user_config.py"
    assert "tomlkit" not in packages or where == "settings_file.py"
