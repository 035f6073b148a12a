"""`[project] watch`: has changed job modules loaded as soon as they are saved."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from stackshiftd.shell.code_files import LoadedCode

log = logging.getLogger("stackshiftd.watch")

QUIET_MS: Final = 50
"""A save of several files is one change if they are at most this far apart."""
LONGEST_MS: Final = 400
"""How long a change waits for others at most."""
LOOK_AGAIN_MS: Final = 5_000
"""How often to look even if no change was reported: not every file system reports them all."""


class CodeWatch:
    """Calls `reload` when the project's code differs from what people know to be loaded, and
    `reread` when its settings do. (A worker that begins after a save loads it by itself, and nobody
    would hear of it.)"""

    def __init__(
        self, code: LoadedCode, reload: Callable[[], Any], reread: Callable[[], Any]
    ) -> None:
        self._code = code
        self._reload = reload
        self._reread = reread

    async def run(self) -> None:
        """Watch until it is cancelled. Without notifications (too many watches, say) it looks by
        itself."""
        while True:
            imports = self._code.imports
            if self._code.settings_differ():
                self._reread()
            if self._differs():
                await self._reload()
            if self._code.changed() and self._code.imports != imports:
                continue  # it was saved again meanwhile
            folders = self._code.folders()
            try:
                await self._until_changed(folders)
            except OSError as bad:
                log.warning("changes are not reported (%s): looking every few seconds", bad)
                await asyncio.sleep(LOOK_AGAIN_MS / 1000)

    def _differs(self) -> bool:
        return bool(self._code.changed() or self._code.untold())

    def _is_moved(self, folders: list[Path]) -> bool:
        code = self._code
        return self._differs() or code.settings_differ() or code.folders() != folders

    async def _until_changed(self, folders: list[Path]) -> None:
        """Wait for a change in `folders`, or of what they are."""
        from watchfiles import awatch  # only where watching is on

        logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change

        if not folders:
            await asyncio.sleep(LOOK_AGAIN_MS / 1000)
            return
        changes = awatch(
            *folders,
            watch_filter=None,
            debounce=LONGEST_MS,
            step=QUIET_MS,
            rust_timeout=LOOK_AGAIN_MS,
            yield_on_timeout=True,
            recursive=False,
        )
        try:
            async for _ in changes:
                if self._is_moved(folders):
                    return
        finally:
            await changes.aclose()
