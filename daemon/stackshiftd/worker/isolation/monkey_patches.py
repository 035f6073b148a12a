"""Patches of the whole process, refused: `gevent.monkey.patch_all()` and `eventlet.monkey_patch()`.

They put their own threads, locks and sockets in the place of Python's, also of those that the
worker itself waits with: every run in it would hang, also those of other modules. The module that
asks for it fails with what to do instead, and nothing is replaced.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Final, NoReturn

from stackshift_jobs.errors import Usage

REFUSED: Final = {
    "gevent.monkey": ("patch_all", "patch_thread", "patch_socket", "patch_select", "patch_queue"),
    "eventlet.patcher": ("monkey_patch",),
}
"""Module → its functions that patch others."""


def refuse() -> None:
    """From now on, in this process, what these functions would do is refused."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds these modules where they are, and has their functions replaced when they are loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in REFUSED:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            if find is None or finder is self:
                continue
            spec: ModuleSpec | None = find(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


class _Loader(Loader):
    """Loads a module with its own loader."""

    def __init__(self, own: Loader) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._own.exec_module(module)
        for name in REFUSED[module.__name__]:
            original = getattr(module, name, None)
            if callable(original):
                setattr(module, name, _refused(module.__name__, name, original))


def _refused(module: str, name: str, original: Callable[..., Any]) -> Callable[..., NoReturn]:
    @functools.wraps(original)
    def refused(*_arguments: Any, **_options: Any) -> NoReturn:
        raise Usage(
            f"{module}.{name}() would replace the threads and sockets of the whole worker",
            hint="use threads or asyncio, or do it in a program: ctx.step.command(...)",
        )

    return refused
