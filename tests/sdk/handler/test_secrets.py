"""Handlers with secrets: nothing of them goes on record, whatever a handler does with them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play, play_either
from stackshift_jobs import AsyncJobContext, JobContext, PayloadRefused, Secret, StepFailed, Usage
from stackshift_jobs.handler import ops
from stackshift_jobs.handler.command import program_of, run_command_awaited
from stackshift_jobs.handler.failures import MAX_MESSAGE, MAX_TRACEBACK, Failure
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.programs.program import TAIL_BYTES
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.secrets import Reference, current_secrets

TEXT = "handler-s3cret-text"
LABEL = "[secret $env TOKEN]"
Context = JobContext[Any]
BOTH = pytest.mark.parametrize("kind", ["def", "async def"])


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What a test makes outside of a handler is known in no other test."""
    made_here = current_secrets.set(Secrets())
    yield
    current_secrets.reset(made_here)


def secret() -> Secret:
    """The secret of these tests, as the worker makes it: while the handler's execution runs."""
    return Secret(TEXT, Reference("$env", "TOKEN"))


def written(record: Record) -> str:
    """All that was recorded."""
    return repr(record.told) + repr(record.recorded_calls)


RECORDED: dict[str, Callable[[Any], Any]] = {
    "result": lambda ctx: ctx.step.run("s", lambda: {"a": [TEXT]}),
    "secret as result": lambda ctx: ctx.step.run("s", lambda: {"a": [secret()]}),
    "payload": lambda ctx: ctx.step.call("child", {"a": f"x{TEXT}"}),
    "label": lambda ctx: ctx.step.start("child", {}, labels={"a": TEXT}),
    "idempotency key": lambda ctx: ctx.step.start("child", {}, idempotency_key=TEXT),
    "job": lambda ctx: ctx.step.start(TEXT, {}, name="child"),
    "state": lambda ctx: ctx.state.set("k", {"a": TEXT}),
    "state key": lambda ctx: ctx.state.set(f"k{TEXT}", 1),
    "secret in state": lambda ctx: ctx.state.set("k", secret()),
    "event": lambda ctx: ctx.events.send("done", {"a": TEXT}),
    "event key": lambda ctx: ctx.events.send("done", {}, correlation_key=TEXT),
    "wait": lambda ctx: ctx.step.wait_for_event("done", correlation_key=TEXT),
    "step name": lambda ctx: ctx.step.run(f"call {TEXT}", lambda: 1),
    "sleep name": lambda ctx: ctx.step.sleep(TEXT, "1s"),
}


@BOTH
@pytest.mark.parametrize("what", RECORDED)
def test_call_that_would_record_a_secret_is_refused(kind: str, what: str) -> None:
    """Before it is sent, with a message that names the secret and not its text; a retry would not
    help."""
    record = Record()

    def call(ctx: Any) -> Any:
        secret()
        return RECORDED[what](ctx)

    error = play_either(kind, call, record).error
    assert isinstance(error, StepFailed | PayloadRefused | Usage)
    assert LABEL in str(error)
    assert TEXT not in str(error) + written(record)
    assert not Failure.of(error).retryable
    assert [type(op) for op in record.told] in ([], [ops.RecordFailure])


@BOTH
def test_lock_is_not_named_after_a_secret(kind: str) -> None:
    """The key of a lock is on record like any name."""
    record = Record()

    def handler(ctx: Context) -> None:
        secret()
        with ctx.state.lock(TEXT):
            pass

    async def awaits(ctx: AsyncJobContext[Any]) -> None:
        secret()
        async with ctx.state.lock(TEXT):
            pass

    error = play_either(kind, handler if kind == "def" else awaits, record).error
    assert isinstance(error, Usage)
    assert TEXT not in str(error) + written(record)


@BOTH
def test_child_gets_the_reference(kind: str) -> None:
    """Also within a value of the handler's own; the secret itself stays here."""
    record = Record()
    play_either(kind, lambda ctx: ctx.step.call("child", {"a": [secret()]}), record)
    [op] = record.told
    assert isinstance(op, ops.StartChild)
    assert json.loads(op.payload) == {"a": [{"$env": "TOKEN"}]}


@BOTH
def test_errors_are_masked_when_they_are_recorded(kind: str) -> None:
    """The message, the traceback, and those of causes and notes."""
    record = Record()

    def fails() -> None:
        try:
            raise ConnectionError(f"refused {secret().reveal()}")
        except ConnectionError as cause:
            error = ValueError(f"no luck with {TEXT!r}")
            error.add_note(f"tried {TEXT}")
            raise error from cause

    error = play_either(kind, lambda ctx: ctx.step.run("s", fails), record).error
    assert isinstance(error, StepFailed)
    assert error.message == f"no luck with '{LABEL}'"
    assert f"ConnectionError: refused {LABEL}" in error.traceback
    assert f"tried {LABEL}" in error.traceback
    assert TEXT not in written(record)


def test_errors_are_masked_before_they_are_cut() -> None:
    """A message or traceback that is too long does not end, or begin, with a part of a secret."""
    secrets = Secrets()
    secrets.add(TEXT, LABEL)
    for shift in range(len(TEXT) + 1):
        failure = Failure.of(ValueError("x" * (MAX_MESSAGE - shift) + TEXT), secrets)
        assert failure.message.lstrip("x") == LABEL[:shift]
    group = ExceptionGroup("g", [ValueError(f"a {TEXT}"), KeyError(TEXT)])
    failure = Failure.of(group, secrets)
    assert failure.message == f"2 errors: ValueError: a {LABEL}; KeyError: '{LABEL}'"
    long = ValueError("m")
    long.add_note((TEXT + "-") * MAX_TRACEBACK)
    assert TEXT[4:] not in Failure.of(long, secrets).traceback


@BOTH
def test_progress_is_masked(kind: str) -> None:
    """Its message is on record, and on the screen."""
    record = Record()
    messages = list[str]()

    def call(ctx: Any) -> Any:
        ctx._port.progress = lambda _done, _total, message: messages.append(message)
        return ctx.progress(1, 2, f"using {secret().reveal()}")

    assert play_either(kind, call, record).error is None
    assert messages == [f"using {LABEL}"]


# --- Programs ------------------------------------------------------------------------------


def python(code: str, *arguments: Any) -> list[Any]:
    return [sys.executable, "-c", code, *arguments]


@BOTH
@pytest.mark.parametrize("text", [secret, lambda: f"--token={secret().reveal()}"])
def test_arguments_of_a_program_hold_no_secret(kind: str, text: Callable[[], Any]) -> None:
    """Every user of the machine can read them: refused, and the message says what to do."""
    record = Record()
    error = play_either(
        kind, lambda ctx: ctx.step.command("tool", python("", text())), record
    ).error
    assert isinstance(error, Usage)
    assert f"argument 3 of the command contains {LABEL}" in str(error)
    assert "env" in error.hint
    assert TEXT not in str(error)
    assert record.told == []


TELLS = (
    "import os, sys; given = sys.stdin.read()\n"
    f"assert os.environ['T'] == given == {TEXT[::-1]!r}[::-1]\n"
    "print('got', given); print(given, file=sys.stderr)"
)
"""A program that prints what it is given."""
MASKED = {"exit_code": 0, "stdout": f"got {LABEL}\n", "stderr": f"{LABEL}\n"}


def test_program_gets_secrets_by_environment_and_input() -> None:
    """Where others cannot read them; in what it prints they are masked, since that is recorded."""
    record = Record()
    given: dict[str, Any] = {"env": {"T": secret()}, "stdin": secret()}
    ended = play(lambda ctx: ctx.step.command("tool", python(TELLS), **given), record)
    assert ended == Ended(MASKED)
    assert TEXT not in str([op for op in record.told if isinstance(op, ops.RecordResult)])


def test_awaited_program_gets_them_too() -> None:
    """An `async def` handler runs its programs on another thread."""
    program = program_of(python(TELLS), None, {"T": secret()}, secret(), None)
    assert asyncio.run(run_command_awaited(program, True)) == MASKED


def test_end_of_an_output_does_not_begin_within_a_secret() -> None:
    """What is kept of a long output begins anywhere."""
    code = f"import sys; print({TEXT[::-1]!r}[::-1] + 'x' * {TAIL_BYTES - 9})"

    def handler(ctx: Context) -> Any:
        secret()
        return ctx.step.command("tool", python(code))

    record = Record()
    stdout = play(handler, record).value["stdout"]
    assert stdout == LABEL + "x" * (TAIL_BYTES - 9) + "\n"


def test_value_may_be_as_large_with_a_secret_as_without() -> None:
    """The search for secrets adds nothing to the size of a value."""
    record = Record()
    text = "y" * (Limits.value_bytes - 2)

    def handler(ctx: Context) -> Any:
        secret()
        return ctx.step.run("s", lambda: text)

    assert play(handler, record).value == text
