"""Schedules in memory.

A schedule is declared by the code of its job, by `stackshift.toml`, or by a person who has added
it. It is known by its name, which is the job's if the job has only one. Nothing here computes a
tick (see `decide.cron.ticks`): the record of each tick contains the next one.

Invariants:

- `next_us` is later than every tick that was decided; it is 0 while the schedule is paused or
  retired, and if there are no more ticks.
- `due_us` is when the tick `next_us` is decided: not before it, and before the tick after it. Both
  are 0 together. It comes from a record, so that no restart moves a tick.
- `held_us` is a tick whose run waits for the end of `last_run`, or 0; there is at most one.
"""

from __future__ import annotations

from typing import Final

import msgspec

LATE_US: Final = 60_000_000
"""A tick that is decided later than this was missed: the daemon was down, or the machine was
asleep."""
IN_CODE: Final = ""
IN_FILE: Final = "file"
BY_COMMAND: Final = "command"
BY_CRONTAB: Final = "crontab"
ADDED: Final = frozenset((BY_COMMAND, BY_CRONTAB))
"""Sources of schedules that stay until a person removes them."""


class Schedule(msgspec.Struct):
    """One schedule; its declaration is as in `records.ScheduleDefined`."""

    name: str
    job: str
    expression: str
    timezone: str
    catch_up: str
    overlap: str
    payload: bytes
    since_us: int
    """When this expression was first seen; `@every` counts from then."""
    source: str = IN_CODE
    catch_up_for_ms: int = 0
    jitter_ms: int = 0
    seed: str = ""
    start: bytes = b"{}"
    note: str = ""
    boot: str = ""
    next_us: int = 0
    due_us: int = 0
    held_us: int = 0
    last_us: int = 0
    """The last tick that started a run, which is `last_run`."""
    last_run: str = ""
    counted_us: int = 0
    """Ticks up to this time are few enough to be caught up one by one."""
    paused_us: int = 0
    retired_us: int = 0
    skipped: int = 0
    """How many ticks have had no run, since the schedule was first seen."""
    skipped_us: int = 0
    """The latest of them that was decided by itself, and why it had none; 0 if there is none."""
    skipped_why: str = ""
    expect: str = ""
    max_runtime_ms: int = 0
    heartbeat: str = ""
    succeeded_us: int = 0
    """When a run of it last completed; 0 if none has."""

    @property
    def lives(self) -> bool:
        """Does it tick?"""
        return not self.paused_us and not self.retired_us

    @property
    def is_added(self) -> bool:
        """Was it added by a person, and not declared by code or `stackshift.toml`?"""
        return self.source in ADDED
