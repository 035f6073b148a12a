"""The code that the workers have loaded, and what of it has changed on disk since."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Final

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import Config, HeartbeatSection, load_config
from stackshift_jobs.project.folders import walk
from stackshift_jobs.project.locate import CONFIG_FILE
from stackshift_jobs.values.names import NOTIFY_QUEUE
from stackshiftd.worker import code_files
from stackshiftd.worker.code_files import CodeFile
from stackshiftd.worker.frames import FailedModule

LOOK_SHARE: Final = 0.01
"""How much of the time may go into looking at the disk, when many starts come in a row."""
MAX_NAMED: Final = 3
"""The most files that a note names."""


class LoadedCode:
    """Compares the project's files with those that were last imported, whether or not all of them
    could be."""

    def __init__(self, config: Config) -> None:
        self._root = config.root
        self._jobs = list(config.project.jobs)
        self._is_watched = config.project.watch
        self._settings = code_files.read_file(self._root / CONFIG_FILE)
        """The settings that are in force."""
        self._read_settings = self._settings
        """Those that were read last, of which a reload puts a part in force."""
        self._at_start = _at_start(_in_file(config))
        self._files: dict[str, CodeFile] = {}
        self._told: dict[str, CodeFile] | None = None
        """The files that people know to be loaded: those of the start, or of the last reload."""
        self.imports = 0
        """How often a worker has imported it, or has tried to."""
        self._notes: list[str] = []
        self._notes_until = float("-inf")

    def imported(self, files: dict[str, CodeFile], failed: list[FailedModule]) -> None:
        """A worker has imported these files, or has tried to. What it could not import for the sake
        of a `failed` module, counts as it is now."""
        unread = {self._root / path for path in self._files.keys() - files.keys()}
        unread |= {Path(each.file) for each in failed}
        unread |= {each.file for each in code_files.sources(self._root, self._jobs)}
        self._files = (code_files.read_files(self._root, unread) if failed else {}) | files
        if self._told is None:
            self._told = self._files
        self.imports += 1
        self._notes_until = float("-inf")

    def changed(self) -> list[str]:
        """The files that were changed, added or removed since."""
        return code_files.changed(self._root, self._jobs, self._files) if self.imports else []

    def untold(self) -> list[str]:
        """The files that differ from those that people know to be loaded. A worker that was started
        later, in place of one that has died, say, has imported them as they were then."""
        return code_files.changed(self._root, self._jobs, self._told or {}) if self.imports else []

    def tell(self) -> None:
        """From now on people know what was imported last."""
        self._told = self._files

    def folders(self) -> list[Path]:
        """The folders in which a change is one of the project's code or settings."""
        folders = {self._root, *((self._root / path).parent for path in self._files)}
        for entry in self._jobs:
            path = self._root / entry
            if path.is_dir():
                folders.add(path)
                folders.update(Path(each.path) for each in walk(str(path)) if each.is_dir())
        return sorted(folder for folder in folders if folder.is_dir())

    def settings_differ(self) -> bool:
        """Does `stackshift.toml` differ from what its schedules were last read from?"""
        read = self._read_settings
        return read is not None and code_files.differs(self._root / CONFIG_FILE, read)

    def read_settings(self) -> None:
        """Its schedules are about to be read."""
        self._read_settings = code_files.read_file(self._root / CONFIG_FILE) or self._read_settings

    def needs_restart(self, config: Config) -> bool:
        """Does `config`, as it is in the file now, change what is only read at the start?"""
        return _at_start(config) != self._at_start

    def settings_apply(self) -> None:
        """All that was read is in force."""
        self._settings = self._read_settings

    def notes_now(self) -> list[str]:
        """The same as `notes`, as it is at this moment: for whoever has just changed something."""
        self._notes_until = float("-inf")
        return self.notes()

    def notes(self) -> list[str]:
        """What a person who names a job should know of its code, in sentences. It may be a moment
        old: only a small share of the time is spent on looking."""
        began = time.monotonic()
        if began >= self._notes_until:
            self._notes = self._look()
            ended = time.monotonic()
            self._notes_until = ended + (ended - began) / LOOK_SHARE
        return self._notes

    def _look(self) -> list[str]:
        notes = []
        changed = self.changed()
        if changed and not self._is_watched:
            named = ", ".join(changed[:MAX_NAMED])
            more = len(changed) - MAX_NAMED
            if more > 0:
                named += f" and {more} more files"
            they = "it was" if len(changed) == 1 else "they were"
            notes.append(f"{named} changed since {they} loaded: stackshift daemon reload")
        return notes + self._notes_on_settings()

    def _notes_on_settings(self) -> list[str]:
        file, since = self._root / CONFIG_FILE, f"{CONFIG_FILE} changed since"
        if self._settings is None or not code_files.differs(file, self._settings):
            return []
        try:
            if self.needs_restart(load_config(self._root)):
                return [f"{since} the daemon started: stackshift daemon restart"]
        except StackshiftError:
            return [f"{since} the daemon started, and is not valid: stackshift config show"]
        if self._is_watched or not self.settings_differ():
            return []
        return [f"{since} it was loaded: stackshift daemon reload"]


def _in_file(config: Config) -> Config:
    """The settings of the file, from which those of `config` may have been made, as by `dev`."""
    try:
        return load_config(config.root)
    except StackshiftError:
        return config  # There may be no file, as in a test.


def _at_start(config: Config) -> Config:
    """What of the settings is only read when the daemon starts. The first target of messages brings
    a worker of its own with the next start; it is told without it, which is no reason to stop."""
    queues = {name: section for name, section in config.queues.items() if name != NOTIFY_QUEUE}
    return replace(
        config,
        schedules={},
        notify={},
        heartbeat=HeartbeatSection(None, 0),
        queues=queues,
        origins={},
    )
