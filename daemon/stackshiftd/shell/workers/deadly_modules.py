"""Job modules whose import ends the worker: `os._exit`, or a library that crashes.

Such a module must not keep the jobs of all others from being loaded, as one that raises does not:
workers are told to leave it out. Invariant: they are told to only after `DEATHS` in a row, because
a single one may have come from elsewhere (a person, or a lack of memory).
"""

from __future__ import annotations

from collections import Counter
from typing import Final

DEATHS: Final = 2


class DeadlyModules:
    """Those of a project, until its modules are loaded again."""

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        """Module → what happened when it was imported."""
        self._deaths: Counter[str] = Counter()

    def died(self, module: str, manner: str) -> bool:
        """A worker has ended by itself while it imported `module`; `manner` is how. Returns whether
        it is one of these now."""
        self._deaths[module] += 1
        is_found = self._deaths[module] >= DEATHS
        if is_found:
            self.found[module] = f"the process died while it imported this module{manner}"
        return is_found

    def survived(self) -> None:
        """A worker has imported all modules that are not among these."""
        self._deaths.clear()

    def forget(self) -> None:
        """The modules may have changed."""
        self.found = {}
        self._deaths.clear()
