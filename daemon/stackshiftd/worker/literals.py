"""The texts that a handler's code contains: is the name of a call still among them?

A pass that is rehearsed ends at the first call that is not on record, in each branch. Whether the
calls behind it are still made, it cannot show; their names in the code are a good sign. Looked at
are the handler and what it refers to by name, as far as that is code of the project.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from stackshift_jobs.callables import function_of

MIN_PART: Final = 3
"""Characters of a text that a name may begin with, as one does that is made with `f"page-{n}"`."""


class Literals:
    """The texts in the code of a handler; `project` is where the project's code is from."""

    def __init__(self, handler: Any, project: str) -> None:
        self._project = project
        self._seen: set[int] = set()
        self._texts: set[str] = set()
        self._look_at(function_of(handler))
        self._parts = tuple(text for text in self._texts if len(text) >= MIN_PART)

    def name(self, call: str) -> bool:
        """Does the code contain the name `call`, or a part that it begins with?"""
        return call in self._texts or call.startswith(self._parts)

    def _look_at(self, value: Any) -> None:
        """Take the texts in a value that the code refers to."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, str):
            self._texts.add(value)
        elif isinstance(value, tuple | list | set | frozenset | dict):
            for each in value:
                self._look_at(each)
        elif isinstance(value, FunctionType):
            if self._is_ours(value.__code__.co_filename):
                self._look_into(value.__code__, value.__globals__)
                for cell in value.__closure__ or ():
                    self._look_at(_content(cell))
        elif isinstance(value, ModuleType):
            if self._is_ours(getattr(value, "__file__", None) or ""):
                self._look_at(list(vars(value).values()))
        elif isinstance(value, type) and self._is_ours(_file_of(value)):
            self._look_at(list(vars(value).values()))

    def _look_into(self, code: CodeType, names: Mapping[str, Any]) -> None:
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._look_into(constant, names)
            else:
                self._look_at(constant)
        for name in code.co_names:
            if name in names:
                self._look_at(names[name])

    def _is_ours(self, file: str) -> bool:
        return file.startswith(self._project) and "site-packages" not in file


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None  # it is not filled yet


def _file_of(of: type) -> str:
    return getattr(sys.modules.get(of.__module__), "__file__", None) or ""
