"""What a step asks of whoever drives it: values, no behaviour.

A call on `ctx` is a generator (see `steps`, `asking`, `waiting`, `holding`) that yields these and
is sent the answers. So the rules of recording and replay are written once, for `def` and
`async def` handlers alike, and can be tested without a daemon, a thread or a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple


class Perform(NamedTuple):
    """Run the step's function; the answer is what it returns, or its exception is thrown in.

    `tried`, `retry` and `input` are those of the record that would follow, for a driver that has to
    record the failure itself because the function does not come back in time.
    """

    step: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout_ms: int | None
    tried: int
    retry: dict[str, Any] | None
    input: str


class Park(NamedTuple):
    """Wait until the daemon says how `step` ended; the answer is a `RecordedCall`. It may take
    months: the driver may drop the whole pass instead of answering. `due_us` is 0 if no time is
    known."""

    step: str
    due_us: int = 0


class RecordResult(NamedTuple):
    """Record the result (JSON) of a step. Answer: `Recorded`, when it is durable."""

    step: str
    result: bytes
    duration_ms: int
    tried: int
    input: str


class RecordFailure(NamedTuple):
    """Record a failed try. Answer: `Recorded`; its `due_us` is when to try again, 0 for never."""

    step: str
    error: dict[str, Any]
    duration_ms: int
    tried: int
    retryable: bool
    retry: dict[str, Any] | None
    retry_after_ms: int | None
    input: str


class RecordValue(NamedTuple):
    """Record what a read gave. Answer: `Recorded`."""

    step: str
    value: bytes


class Sleep(NamedTuple):
    """Begin a durable sleep. Answer: `Recorded` with `due_us`."""

    step: str
    delay_ms: int | None
    until_us: int | None


class StartChild(NamedTuple):
    """Start a run exactly once. Answer: `Recorded` with `child`."""

    step: str
    job: str
    payload: bytes
    wait: bool
    cancel_with_parent: bool
    options: dict[str, Any]


class AwaitRun(NamedTuple):
    """Begin to wait for a run. Answer: `Recorded`."""

    step: str
    run: str


class Ask(NamedTuple):
    """Ask what a client may ask too: a method of the protocol with its params (JSON). What it does
    and that this call did it are one record, under `step`; within a step's function `step` is
    empty, and it acts at once. Answer: `Recorded` with `body`, or with `error` if it is refused."""

    step: str
    method: str
    params: bytes


class Recorded(NamedTuple):
    """It is durable. `body` (JSON) is what was asked for; `error` why it is refused, as the wire
    has it: `{code, message, hint, …}`."""

    due_us: int = 0
    child: str = ""
    body: bytes | None = None
    error: dict[str, Any] | None = None


class RecordedCall(NamedTuple):
    """A recorded call: its kind (`run value sleep start child event lock`; `refused` for what was
    refused, whatever it asked), how far it is (`running waiting retrying completed failed`), and
    what it gave (`body`: JSON, or None).

    A lock is `completed` while it is held (`due_us`: when it runs out, 0 for never), `left` once
    its block was left in good order, `gone` if it is not held for another reason, `failed` if it
    was not had in time. The body of a refusal, and of such a lock, is the error as the wire has it.
    """

    kind: str
    phase: str
    body: bytes | None = None
    error: dict[str, Any] | None = None
    tried: int = 0
    due_us: int = 0
    child: str = ""
    child_status: str = ""
    input: str = ""


Tell = RecordResult | RecordFailure | RecordValue | Sleep | StartChild | AwaitRun | Ask
Op = Perform | Park | Tell
Steps = Generator[Op, Any, Any]
"""A call on `ctx`: yields ops, is sent their answers, returns what the call gives."""
