"""The programs of one execution: where their output goes, and that they end with it.

`ctx.step.command` finds this supervisor by a context variable. What a program prints is stored in
the run's log as it comes, under its step. The daemon is told each program's group, so that it can
end the program if this process dies. Invariants:

- No program starts once the execution was asked to stop.
- An execution is not reported as ended while one of its programs, or what that started, still
  runs: its slot and locks are given back only then.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from threading import Condition
from typing import NamedTuple

from stackshift_jobs.handler.current_step import current_try
from stackshift_jobs.handler.scope import current_step
from stackshift_jobs.programs.processes import PROGRAM_VARIABLE, Mark, ProcessGroup
from stackshift_jobs.programs.supervisor import GRACE_SECONDS, Stop
from stackshiftd.worker.output.run_log import RunLog, program_numbers
from stackshiftd.worker.step_calls import StepCalls
from stackshiftd.worker.step_tries import StepTry


class _Writer(NamedTuple):
    """Who writes, as the log knows it."""

    step: str | None
    number: int


class Programs:
    """A `stackshift_jobs.programs.supervisor.Supervisor`. `report` is called with the step and the
    group of each program that has started."""

    def __init__(
        self,
        execution: str,
        log: RunLog,
        report: Callable[[str, ProcessGroup], None],
        grace_seconds: float = GRACE_SECONDS,
        calls: StepCalls | None = None,
    ) -> None:
        self.grace_seconds = grace_seconds
        self._calls = calls
        """Where they say how far their step has come; None where they cannot."""
        self._variables: dict[Stop, dict[str, str]] = {}
        self._execution = execution
        self._log = log
        self._report = report
        self._guard = Condition()
        self._stops: dict[Stop, _Writer] = {}
        self._reason: BaseException | None = None
        self._when_gone: Callable[[], object] | None = None

    # --- For the execution -----------------------------------------------------------------

    def stop(self, reason: BaseException) -> None:
        """Ask all programs to end, and let no other start; `reason` is what their steps raise."""
        with self._guard:
            self._reason = self._reason or reason
            for stop in self._stops:
                stop.request(self._reason)

    def stop_step(self, step: str, reason: BaseException) -> bool:
        """Ask the programs of `step` to end; `reason` is what the step raises. False if it runs
        none."""
        with self._guard:
            stops = [stop for stop, writer in self._stops.items() if writer.step == step]
            for stop in stops:
                stop.request(reason)
        return bool(stops)

    def close(self, reason: BaseException) -> None:
        """Stop all programs, and wait until they are gone. Not for the loop's thread."""
        self.stop(reason)
        with self._guard:
            self._guard.wait_for(lambda: not self._stops)

    def close_later(self, reason: BaseException, gone: Callable[[], object]) -> bool:
        """Stop all programs. Returns whether they are gone; if not, `gone` is called when they are,
        on another thread."""
        self.stop(reason)
        with self._guard:
            self._when_gone = gone if self._stops else None
            return self._when_gone is None

    # --- For the programs ------------------------------------------------------------------

    def admit(self, stop: Stop) -> Mark:
        """See `Supervisor.admit`. The mark is different for each program."""
        step = current_step.get()
        with self._guard:
            if self._reason is not None:
                raise self._reason
            self._stops[stop] = _Writer(step, next(program_numbers))
        return Mark(PROGRAM_VARIABLE, f"{self._execution}/{step or ''}/{secrets.token_hex(4)}")

    def variables(self, stop: Stop) -> dict[str, str]:
        """See `Supervisor.variables`. The script of a shell job is in no step, and has none."""
        begun = current_try.get()
        if self._calls is None or not isinstance(begun, StepTry):
            return {}
        found = self._variables[stop] = self._calls.variables(begun)
        return found

    def started(self, group: ProcessGroup) -> None:
        """See `Supervisor.started`. The script of a shell job belongs to no step."""
        if (step := current_step.get()) is not None:
            self._report(step, group)

    def wrote(self, stop: Stop, stream: str, data: bytes) -> None:
        """See `Supervisor.wrote`."""
        writer = self._stops[stop]
        self._log.take(stream, writer.step, writer.number, data)

    def ended(self, stop: Stop) -> None:
        """See `Supervisor.ended`."""
        if (found := self._variables.pop(stop, None)) is not None and self._calls is not None:
            self._calls.ended(found)
        with self._guard:
            writer = self._stops.pop(stop, None)
            if writer is not None:
                for stream in ("stdout", "stderr"):
                    self._log.end(stream, writer.step, writer.number)
            if self._stops:
                return
            act, self._when_gone = self._when_gone, None
            self._guard.notify_all()
        if act is not None:
            act()
