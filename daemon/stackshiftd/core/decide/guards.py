"""Guards: who gave a command is checked here, for each kind of command, before anything is decided.

The table of `decide` wraps the functions of each subject in the guard that their commands need. So
no function can forget to check whether the execution is the current one: a late result changes
nothing because it never gets there (guarantee: late results).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stackshift_jobs.values.strict_json import json_size
from stackshiftd.core import commands as c
from stackshiftd.core.decide.ends import confirm_stop, over_limit
from stackshiftd.core.decide.replies import Asker
from stackshiftd.core.effects import NOTHING, Acknowledge, Decision
from stackshiftd.core.state.state import Phase, Run, State, Status

Decide = Callable[[State, Any, int], Decision]
"""`(state, command, now_us)`."""
OfRun = Callable[[State, Run, Any, int], Decision]
"""`(state, run, command, now_us)`; the command came from the run's current execution."""
OfAsker = Callable[[State, Asker, Any, int], Decision]
"""`(state, who, command, now_us)`."""
Answer = Callable[[State, Any, int], bytes]
"""`(state, command, now_us)`: the answer to a command that only reads, as JSON."""


def current(state: State, run_id: str, token: int) -> Run | None:
    """The run, if `token` is its current execution and the attempt is not over; else None."""
    run = state.runs.get(run_id)
    if run is None or run.token != token or run.status is not Status.RUNNING:
        return None
    return run


def of_execution(table: dict[type[c.Command], OfRun]) -> dict[type[c.Command], Decide]:
    """Guard the commands of an execution: nothing follows unless it is the current one."""

    def guarded(decide: OfRun) -> Decide:
        def decided(state: State, command: Any, now_us: int) -> Decision:
            run = current(state, command.run, command.token)
            return NOTHING if run is None else decide(state, run, command, now_us)

        return decided

    return {kind: guarded(decide) for kind, decide in table.items()}


def of_step(table: dict[type[c.Command], OfRun]) -> dict[type[c.Command], Decide]:
    """Guard the outcomes of a step: one with a recorded outcome keeps it (guarantee: recorded
    steps). A timeout may be reported just after that, and is acknowledged without a record."""

    def guarded(decide: OfRun) -> OfRun:
        def decided(state: State, run: Run, command: Any, now_us: int) -> Decision:
            recorded = run.calls.get(command.step)
            if recorded is not None and recorded.phase in (Phase.COMPLETED, Phase.FAILED):
                return Decision((), (Acknowledge(command.call),))
            return decide(state, run, command, now_us)

        return decided

    return of_execution({kind: guarded(decide) for kind, decide in table.items()})


def of_call(table: dict[type[c.Command], OfRun]) -> dict[type[c.Command], Decide]:
    """Guard the calls of a handler that are recorded under `step`: a run that records more calls
    than its limit fails."""

    def guarded(decide: OfRun) -> OfRun:
        def decided(state: State, run: Run, command: Any, now_us: int) -> Decision:
            over = over_limit(state, run, command.step, 0, now_us) if command.step else None
            return over if over is not None else decide(state, run, command, now_us)

        return decided

    return of_execution({kind: guarded(decide) for kind, decide in table.items()})


def of_handler(table: dict[type[c.Command], OfRun]) -> dict[type[c.Command], Decide]:
    """Guard the outcome of a handler: if the attempt was over before (cancelled, out of time), it
    only means that the handler has stopped."""

    def guarded(decide: OfRun) -> Decide:
        def decided(state: State, command: Any, now_us: int) -> Decision:
            run = current(state, command.run, command.token)
            if run is not None:
                return decide(state, run, command, now_us)
            return stopping(state, c.ConfirmStop(command.run, command.token), now_us)

        return decided

    return {kind: guarded(decide) for kind, decide in table.items()}


def of_worker(table: dict[type[c.Command], OfRun]) -> dict[type[c.Command], Decide]:
    """Guard the commands about an execution, whether its attempt is over or not: nothing follows if
    it is not the run's current execution."""

    def guarded(decide: OfRun) -> Decide:
        def decided(state: State, command: Any, now_us: int) -> Decision:
            run = state.runs.get(command.run)
            if run is None or not run.token or run.token != command.token:
                return NOTHING
            return decide(state, run, command, now_us)

        return decided

    return {kind: guarded(decide) for kind, decide in table.items()}


stopping = of_worker({c.ConfirmStop: confirm_stop})[c.ConfirmStop]


def of_asker(table: dict[type[c.Command], OfAsker]) -> dict[type[c.Command], Decide]:
    """Guard the requests that both clients and handlers make: nothing follows from an execution
    that is not the current one, and a run that records more calls than its limit fails."""

    def guarded(decide: OfAsker) -> Decide:
        def decided(state: State, command: Any, now_us: int) -> Decision:
            if not command.run:
                return decide(state, CLIENT, command, now_us)
            who = _asking_run(state, command, 0, now_us)
            return decide(state, who, command, now_us) if isinstance(who, Asker) else who

        return decided

    return {kind: guarded(decide) for kind, decide in table.items()}


def of_reader(table: dict[type[c.Command], Answer]) -> dict[type[c.Command], Decide]:
    """Guard the requests of clients and handlers that change nothing. The answer to a handler is
    recorded, and counts towards the limits of its run."""

    def guarded(read: Answer) -> Decide:
        def decided(state: State, command: Any, now_us: int) -> Decision:
            if not command.run:
                return CLIENT.answer_read(read(state, command, now_us))
            body = read(state, command, now_us)
            who = _asking_run(state, command, json_size(body), now_us)
            return who.answer_read(body) if isinstance(who, Asker) else who

        return decided

    return {kind: guarded(read) for kind, read in table.items()}


CLIENT = Asker(None, 0, "")
"""The asker of every client's request."""


def _asking_run(state: State, command: c.Asking, size: int, now_us: int) -> Asker | Decision:
    """The run that asks; or, if it cannot be answered, what follows instead."""
    run = current(state, command.run, command.token)
    if run is None:
        return NOTHING
    if command.step:
        over = over_limit(state, run, command.step, size, now_us)
        if over is not None:
            return over
    return Asker(run, command.call, command.step)
