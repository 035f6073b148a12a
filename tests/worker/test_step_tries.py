"""How a worker bounds checkpoints, and how it knows that a function is silent."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from stackshift_jobs.errors import HeartbeatTimeout, Usage
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.values.strict_json import dumps
from stackshiftd.core import commands as c
from stackshiftd.worker.frames import CallRecorded
from stackshiftd.worker.step_tries import BYTES_PER_SECOND, StepTry


class Execution:
    """An execution whose daemon answers at once, or never."""

    run, token = "run_1", 7

    def __init__(self, *, answers: bool = True) -> None:
        self.now = 100.0
        self.answers = answers
        self.sent: list[c.Command] = []
        self.checkpoints: dict[str, bytes] = {}
        self.ended_tries: dict[str, int] = {}
        self.reason: BaseException | None = None
        self.waiting: dict[int, StepTry] = {}
        self.opened: list[str] = []

    def encode_checkpoint(self, _step: str, value: Any, _max_bytes: int) -> bytes:
        return dumps(value, 1 << 30)

    def end_reason(self, _step: str) -> BaseException | None:
        return self.reason

    def note_open(self, step: str, _tried: int) -> None:
        self.opened.append(step)

    @property
    def expect(self) -> Callable[[int, StepTry], None]:
        return self.waiting.__setitem__

    def send(self, command: c.Command) -> None:
        assert isinstance(command, c.CheckpointStep)
        self.sent.append(command)
        if self.answers and command.call:
            # The answer comes on another thread, once the caller has let go of its guard.
            answer = (self.waiting[command.call].answered, (command.call, CallRecorded(0, 0)))
            threading.Thread(target=answer[0], args=answer[1]).start()

    def begin(self, heartbeat: ops.Heartbeat | None = None) -> StepTry:
        """A try of the step `load`."""
        op = ops.Perform("load", print, (), {}, None, 1, None, "", heartbeat)
        return StepTry(self, op, lambda: self.now)

    def values(self) -> list[bytes]:
        """What was sent."""
        return [
            bytes(command.value) for command in self.sent if isinstance(command, c.CheckpointStep)
        ]


def test_ten_are_recorded_at_once_and_then_one_a_second() -> None:
    """What was put off is recorded as soon as there is credit for it: the newest alone."""
    execution = Execution()
    begun = execution.begin()
    recorded = [begun.checkpoint(at).recorded for at in range(15)]
    assert recorded == [True] * 10 + [False] * 5
    execution.now += 0.9
    begun.look(execution.now)
    assert len(execution.sent) == 10
    execution.now += 0.1
    begun.look(execution.now)
    assert execution.values()[10:] == [b"14"]
    begun.look(execution.now + 60)
    assert len(execution.sent) == 11
    assert set(execution.opened) == {"load"}


def test_last_is_what_was_given_last_also_if_it_was_put_off() -> None:
    """A function that asks for it gets its own."""
    execution = Execution()
    begun = execution.begin()
    assert begun.last is None
    for at in range(12):
        begun.checkpoint({"row": at})
    assert begun.last == {"row": 11}


@pytest.mark.parametrize(("failed", "count"), [(True, 11), (False, 10)])
def test_what_was_put_off_is_recorded_before_a_failure(failed: bool, count: int) -> None:
    """Nothing needs it once the step has a result."""
    execution = Execution()
    begun = execution.begin()
    for at in range(12):
        begun.checkpoint(at)
    begun.end(failed=failed)
    assert len(execution.sent) == count
    assert failed is (execution.values()[-1] == b"11")


def test_flush_records_in_any_case() -> None:
    """And takes credit for it."""
    execution = Execution()
    begun = execution.begin()
    for at in range(10):
        begun.checkpoint(at)
    assert begun.checkpoint(10, flush=True).recorded
    execution.now += 0.5
    assert not begun.checkpoint(11).recorded


def test_large_checkpoint_costs_as_much_as_many() -> None:
    """What the journal grows by is bounded in bytes too."""
    execution = Execution()
    begun = execution.begin()
    assert begun.checkpoint("x" * (9 * BYTES_PER_SECOND)).recorded
    assert not begun.checkpoint("x" * (9 * BYTES_PER_SECOND)).recorded
    execution.now += 8.1
    begun.look(execution.now)
    assert len(execution.sent) == 2
    execution.now += 10
    assert begun.checkpoint("x" * (50 * BYTES_PER_SECOND)).recorded


def test_function_is_silent_from_its_last_sign_of_life() -> None:
    """A beat and a checkpoint are signs; it is found silent once."""
    execution = Execution()
    begun = execution.begin(ops.Heartbeat(1_000))
    execution.now += 0.9
    assert begun.lapse(execution.now) is None
    begun.beat()
    execution.now += 0.9
    begun.checkpoint(1)
    execution.now += 0.9
    assert begun.lapse(execution.now) is None
    execution.now += 0.1
    assert isinstance(begun.lapse(execution.now), HeartbeatTimeout)
    assert begun.lapse(execution.now + 60) is None


def test_function_that_waits_for_its_checkpoint_is_not_silent() -> None:
    """A disk that is full is not its fault; a function without a heartbeat never is."""
    execution = Execution(answers=False)
    begun = execution.begin(ops.Heartbeat(1_000))
    answer = begun.note(b"1")
    assert answer is not None
    execution.now += 60
    assert begun.lapse(execution.now) is None
    begun.answered(execution.sent[0].call, CallRecorded(0, 0))  # type: ignore[attr-defined]
    assert answer.done()
    assert begun.lapse(execution.now + 1) is not None
    assert execution.begin().lapse(execution.now + 3600) is None


def test_function_that_waits_is_let_go_when_the_execution_is_over() -> None:
    """Also if it asked a moment after the end."""
    execution = Execution(answers=False)
    begun = execution.begin()
    waiting = begun.note(b"1")
    assert waiting is not None
    execution.reason = Unwinding("cancelled")
    begun.release()
    with pytest.raises(Unwinding):
        begun.wait(waiting)
    late = begun.note(b"2")
    assert late is not None
    with pytest.raises(Unwinding):
        begun.wait(late)
    with pytest.raises(Unwinding):
        begun.beat()


def test_refusal_of_the_daemon_reaches_the_function() -> None:
    """As the error that it is."""
    execution = Execution(answers=False)
    begun = execution.begin()
    answer = begun.note(b"1")
    assert answer is not None
    error = dumps({"code": "usage", "message": "no", "hint": ""})
    begun.answered(execution.sent[0].call, CallRecorded(0, 0, error=Raw(error)))  # type: ignore[attr-defined]
    with pytest.raises(Usage):
        begun.wait(answer)


def test_try_that_is_over_says_so_at_its_next_beat() -> None:
    """Threads that it has left behind change nothing of the next try."""
    execution = Execution()
    begun = execution.begin(ops.Heartbeat(1_000))
    begun.end_with = begun.lateness()
    with pytest.raises(HeartbeatTimeout):
        begun.beat()
    over = execution.begin()
    over.end(failed=False)
    with pytest.raises(Usage):
        over.checkpoint(1)
    assert execution.sent == []


def test_number_counts_the_tries_of_earlier_attempts() -> None:
    """What the daemon has told of them."""
    execution = Execution()
    execution.ended_tries["load"] = 3
    assert execution.begin().number == 4
