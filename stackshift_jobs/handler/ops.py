"""What a call on `ctx` asks of its driver: values without behaviour.

Such a call is a generator (see `steps`, `requests`, `waits`, `locks`) that yields these ops and
receives the answers. So the rules of recording and replay are written once, for `def` and
`async def` handlers, and can be tested without a daemon, a thread or an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from stackshift_jobs.handler.failures import Failure


class Heartbeat(NamedTuple):
    """How long the function of a step may be silent, in milliseconds. With `by_output`, what it
    prints, or its program does, says too that it is alive."""

    ms: int
    by_output: bool = False


class Perform(NamedTuple):
    """Run the step's function. Answer: what it returns; what it raises is thrown into the
    generator.

    `tried`, `retry` and `input` are those of the record that would follow, for a driver that must
    record the failure itself because the function does not return in time.
    """

    step: str
    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    timeout_ms: int | None
    tried: int
    retry: dict[str, Any] | None
    input: str
    heartbeat: Heartbeat | None = None
    undo: bool = False
    """Does the code say how it is undone?"""


class Park(NamedTuple):
    """Wait until the daemon says how `step` ended. Answer: a `RecordedCall`. It may take months, so
    the driver may drop the whole pass instead of answering. `due_us` is when the wait ends at the
    latest, 0 if that is not known."""

    step: str
    due_us: int = 0


class RecordResult(NamedTuple):
    """Record the result (JSON) of a step. Answer: `Recorded`, once it is durable."""

    step: str
    result: bytes
    duration_ms: int
    tried: int
    input: str
    undo: bool = False
    """Does the code say how it is undone?"""


class RecordFailure(NamedTuple):
    """Record a failed try. Answer: `Recorded`; its `due_us` is when to try again, 0 for never."""

    step: str
    failure: Failure
    duration_ms: int
    tried: int
    retry: dict[str, Any] | None
    input: str
    undo: bool = False
    """May it be done all the same, and does the code say how it is undone?"""


class RecordBegin(NamedTuple):
    """Record that the function of a step that can be undone is about to begin, so that whatever
    ends it, it is known that it may have done something. Answer: `Recorded`, once it is durable."""

    step: str
    tried: int
    input: str = ""


class RecordValue(NamedTuple):
    """Record the value (JSON) of a read. Answer: `Recorded`."""

    step: str
    value: bytes


class Sleep(NamedTuple):
    """Begin a durable sleep. Answer: `Recorded` with `due_us`."""

    step: str
    delay_ms: int | None
    until_us: int | None


class StartChild(NamedTuple):
    """Start a run exactly once, with `payload` and `options` in JSON. Answer: `Recorded` with
    `child`, and with `due_us` if it is waited for at most `timeout_ms`."""

    step: str
    job: str
    payload: bytes
    wait: bool
    cancel_with_parent: bool
    options: bytes
    ends_with_parent: bool = False
    timeout_ms: int | None = None
    on_timeout: str = ""


class AwaitRun(NamedTuple):
    """Begin a wait for the end of a run, at most `timeout_ms`. Answer: `Recorded`."""

    step: str
    run: str
    timeout_ms: int | None = None
    on_timeout: str = ""


class Ask(NamedTuple):
    """Call a method of the protocol, as a client can, with its params (JSON). Its effect and the
    fact that this call caused it are one record, under `step`; within a step's function `step` is
    empty and the method acts at once. Answer: `Recorded` with `body`, or with `error` if refused.
    """

    step: str
    method: str
    params: bytes


class RaiseCancel(NamedTuple):
    """Record that `Cancelling` is raised in the handler, at the call `step` (empty: not at a call).
    Answer: `Recorded`; its `body` is `false` if other runs have to end first."""

    step: str


class Recorded(NamedTuple):
    """The answer that something is durable. `body` (JSON) is the result of an `Ask`; `error` says
    why it was refused, as on the wire: `{code, message, hint, …}`. `at_us` is when it was recorded.
    """

    due_us: int = 0
    child: str = ""
    body: bytes | None = None
    error: dict[str, Any] | None = None
    at_us: int = 0


class RecordedCall(NamedTuple):
    """A recorded call: its kind (`run value sleep start child event lock`, or `refused` for a call
    of any kind that was refused), its phase (`running waiting retrying completed failed`), and its
    result (`body`: JSON, or None).

    A lock is `completed` while it is held (`due_us`: when it expires, 0 for never), `released`
    after its block ended normally, `gone` if it is no longer held for another reason, and `failed`
    if it was not acquired in time. The body of a refusal, and of a failed lock, is the error as on
    the wire.

    `seq` is the sequence number of the record of the outcome, `at_us` its time; `released_seq` is
    that of the release of a lock. They are 0 while there is none, and in tests that need none.

    The `job` of a start or a call is empty if it is not known. A step with `undo` can be undone.
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
    seq: int = 0
    at_us: int = 0
    released_seq: int = 0
    job: str = ""
    undo: bool = False
    undone: bool = False

    @property
    def has_ended(self) -> bool:
        """Is there an outcome that the handler may see?"""
        return self.phase not in _UNDER_WAY


_UNDER_WAY = frozenset(("running", "waiting", "retrying"))

Tell = (
    RecordBegin
    | RecordResult
    | RecordFailure
    | RecordValue
    | Sleep
    | StartChild
    | AwaitRun
    | Ask
    | RaiseCancel
)
Op = Perform | Park | Tell
Steps = Generator[Op, Any, Any]
"""A call on `ctx`: yields ops, receives their answers, returns the result of the call."""
