"""What a test guarantees is said in its name, and in one sentence below it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from architecture.source import ROOT

FILES = sorted(ROOT.glob("tests/**/test_*.py")) + sorted(ROOT.glob("jobs.example/tests/test_*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_has_a_sentence(path: Path) -> None:
    """Ruff's D103 would ask it of each builder and double as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tests = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    assert [test.name for test in tests if not ast.get_docstring(test)] == []
