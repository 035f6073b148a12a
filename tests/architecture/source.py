"""The imports of the packages, read from their source with `ast`, so that none is missed."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SDK, CLI, DAEMON = "stackshift_jobs", "stackshift_cli", "stackshiftd"
PLUGIN = f"{SDK}.testing"
FOLDERS = {SDK: ROOT / SDK, CLI: ROOT / CLI, DAEMON: ROOT / "daemon" / DAEMON}


class Import(NamedTuple):
    """`module` imports `target` in `line`; `late` inside a function, `checked` for mypy alone."""

    module: str
    target: str
    line: int
    late: bool
    checked: bool

    @property
    def package(self) -> str:
        return self.target.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


class _Reader(ast.NodeVisitor):
    def __init__(self, module: str, is_package: bool) -> None:
        self.module = module
        self.found: list[Import] = []
        self._base = module if is_package else module.rpartition(".")[0]
        self._depth = 0
        self._checked = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._depth += 1
        self.generic_visit(node)
        self._depth -= 1

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit_FunctionDef(node)

    def visit_If(self, node: ast.If) -> None:
        before = self._checked
        self._checked = before or ast.unparse(node.test) in (
            "TYPE_CHECKING",
            "typing.TYPE_CHECKING",
        )
        for each in node.body:
            self.visit(each)
        self._checked = before
        for each in node.orelse:
            self.visit(each)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self._note(alias.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            above = self._base.split(".")[: len(self._base.split(".")) - node.level + 1]
            base = ".".join([*above, *([base] if base else [])])
        for alias in node.names:
            self._note(f"{base}.{alias.name}", node.lineno)

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        if name in ("import_module", "importlib.import_module", "__import__") and node.args:
            given = node.args[0]
            if isinstance(given, ast.Constant) and isinstance(given.value, str):
                self._note(given.value, node.lineno)
        self.generic_visit(node)

    def _note(self, target: str, line: int) -> None:
        self.found.append(Import(self.module, target, line, self._depth > 0, self._checked))


def read(module: str, source: str, *, is_package: bool = False) -> list[Import]:
    reader = _Reader(module, is_package)
    reader.visit(ast.parse(source))
    return reader.found


def imports(package: str, under: str = "") -> Iterator[Import]:
    """All imports of a package, or of its module `under` and those below it."""
    folder = FOLDERS[package]
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        if not under or f"{module}.".startswith(f"{under}."):
            yield from read(module, path.read_text(encoding="utf-8"), is_package=is_package)


def refused(found: Iterator[Import], *allowed: str) -> list[str]:
    """Those that are neither of the standard library nor begin with one of `allowed`."""
    return [
        str(each)
        for each in found
        if each.package not in sys.stdlib_module_names
        and not any(each.target == name or each.target.startswith(f"{name}.") for name in allowed)
    ]


def modules(package: str) -> dict[str, Path]:
    """The modules of a package by name, its folders' `__init__` left out."""
    folder = FOLDERS[package]
    return {
        ".".join(path.relative_to(folder.parent).with_suffix("").parts): path
        for path in sorted(folder.rglob("*.py"))
        if path.stem != "__init__"
    }


def arrows(package: str) -> set[tuple[str, str]]:
    """Which module of a package imports which other, late imports and those for mypy included."""
    known = modules(package)
    found = set()
    for each in imports(package):
        for target in (each.target, each.target.rpartition(".")[0]):
            if target in known or (target == package and each.target != package):
                found.add((each.module, target))
                break
    return {(here, there) for here, there in found if here != there}


def circles(arrows: set[tuple[str, str]]) -> list[list[str]]:
    """The strongly connected parts with more than one member, each in order of names.

    Tarjan's algorithm (Depth-first search and linear graph algorithms, 1972).
    """
    after: dict[str, list[str]] = {}
    for here, there in sorted(arrows):
        after.setdefault(here, []).append(there)
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    path: list[str] = []
    found: list[list[str]] = []

    def visit(here: str) -> None:
        number[here] = lowest[here] = len(number)
        path.append(here)
        for there in after.get(here, ()):
            if there not in number:
                visit(there)
                lowest[here] = min(lowest[here], lowest[there])
            elif there in path:
                lowest[here] = min(lowest[here], number[there])
        if lowest[here] == number[here]:
            part = path[path.index(here) :]
            del path[path.index(here) :]
            if len(part) > 1:
                found.append(sorted(part))

    for here in sorted(after):
        if here not in number:
            visit(here)
    return found
