"""Whatever a handler or a step raises is recorded, and ends only what it belongs to."""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from stackshift_jobs import (
    AsyncJobContext,
    ChildFailed,
    JobContext,
    NonRetryable,
    Retry,
    RetryAfter,
    StepFailed,
)
from stackshift_jobs.handler.failures import class_name
from stackshift_jobs.testing import Stackshift

THRICE = Retry(max_attempts=3, backoff="1s", jitter=0)
ONCE = Retry(max_attempts=1)
NOT_UTF8 = os.fsdecode(b"caf\xe9.csv")
"""A file name that is not UTF-8, as `os.listdir` gives it."""


class Flaky:
    """A function that fails at its first call, and counts its calls by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        self.calls[name] += 1
        if self.calls[name] == 1:
            raise ConnectionError(f"{name} is down for a moment")
        return f"{name} is up"


class Textless(Exception):
    """Its text cannot be made."""

    def __str__(self) -> str:
        return None  # type: ignore[return-value]  # that is the point


class Endless(Exception):
    """Its text is far over any limit."""

    def __str__(self) -> str:
        return "x" * 10_000_000


class Bursting(Exception):
    """Not even the attempt to make its text is an ordinary failure."""

    def __str__(self) -> str:
        raise KeyboardInterrupt


class Opaque(Exception):
    """Nothing can be asked of it."""

    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class Secretive(type):
    """A metaclass that does not even give the names of its classes."""

    def __getattribute__(cls, name: str) -> Any:
        raise RuntimeError(name)


class Nameless(Exception, metaclass=Secretive):
    """Nothing can be asked of its class."""


class Delegating(Exception):
    """It looks for what it lacks in an attribute that it lacks, too."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def nested(depth: int) -> Exception:
    """An error in so many groups."""
    error: Exception = ValueError("within")
    for _ in range(depth):
        error = ExceptionGroup("g", [error])
    return error


# --- Groups --------------------------------------------------------------------------------


def test_failed_step_of_a_task_group_is_tried_again_by_the_next_attempt(
    stackshift: Stackshift,
) -> None:
    """As with `gather`: it was never tried again, since the group hid it."""
    flaky = Flaky()

    @stackshift.job("group", retry=THRICE)
    async def group(ctx: AsyncJobContext[Any]) -> Any:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(ctx.step.run("a", flaky, "a"))
        return task.result()

    run = stackshift.start(group)
    stackshift.advance("1m")
    assert (run.result, run.attempt) == ("a is up", 2)
    assert flaky.calls == {"a": 2}


def test_each_failed_step_of_a_group_is_tried_again(stackshift: Stackshift) -> None:
    """All of them by the next attempt, and none of those that did not fail."""
    flaky, steady = Flaky(), Flaky()
    steady.calls["c"] = 1

    @stackshift.job("group", retry=THRICE)
    async def group(ctx: AsyncJobContext[Any]) -> Any:
        calls = [ctx.step.run(name, flaky, name) for name in ("a", "b")]
        calls.append(ctx.step.run("c", steady, "c"))
        results = await asyncio.gather(*calls, return_exceptions=True)
        failed = [result for result in results if isinstance(result, Exception)]
        if failed:
            raise ExceptionGroup("some failed", failed)
        return results

    run = stackshift.start(group)
    stackshift.advance("1m")
    assert (run.result, run.attempt) == (["a is up", "b is up", "c is up"], 2)
    assert flaky.calls == {"a": 2, "b": 2}
    assert steady.calls == {"c": 2}
    [failed] = [record for record in run.timeline if record["kind"] == "attempt.failed"]
    assert (failed["step"], failed["more_steps"]) == ("a", ["b"])


def test_group_of_one_is_recorded_as_its_part(stackshift: Stackshift) -> None:
    """The original's type, message and place, as `gather` would give."""

    def fetch() -> None:
        raise ConnectionError("down")

    @stackshift.job("group", retry=ONCE)
    async def group(ctx: AsyncJobContext[Any]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.step.run("fetch", fetch))

    run = stackshift.start(group)
    assert run.error is not None
    assert (run.error["type"], run.error["message"]) == ("ConnectionError", "down")
    assert "fetch" in run.error["traceback"]


def test_group_of_several_names_its_parts(stackshift: Stackshift) -> None:
    """In a message for people, and with the traceback of each."""

    @stackshift.job("several", retry=ONCE)
    def several(_ctx: JobContext[Any]) -> None:
        raise ExceptionGroup("all at once", [ValueError("no v"), OSError("no o")])

    run = stackshift.start(several)
    assert run.error is not None
    assert run.error["type"] == "ExceptionGroup"
    assert run.error["message"] == "2 errors: ValueError: no v; OSError: no o"
    assert "ValueError: no v" in run.error["traceback"]


@pytest.mark.parametrize("nested", [False, True])
def test_part_that_is_final_makes_the_group_final(stackshift: Stackshift, nested: bool) -> None:
    """Another attempt would be refused, too."""

    @stackshift.job("charges", retry=THRICE)
    def charges(_ctx: JobContext[Any]) -> None:
        group = ExceptionGroup("g", [OSError("o"), NonRetryable("the card was refused")])
        raise ExceptionGroup("outer", [group]) if nested else group

    run = stackshift.start(charges)
    assert (run.status, run.attempt) == ("failed", 1)


def test_delay_that_a_part_asks_for_is_kept(stackshift: Stackshift) -> None:
    """`RetryAfter` in a group was ignored."""

    @stackshift.job("later", retry=THRICE)
    def later(ctx: JobContext[Any]) -> str:
        if ctx.attempt == 1:
            raise ExceptionGroup("g", [RetryAfter("30s"), RetryAfter("10s"), OSError("o")])
        return "done"

    run = stackshift.start(later)
    stackshift.advance("29s")
    assert run.status == "retrying"
    stackshift.advance("1s")
    assert run.result == "done"


def test_child_that_failed_in_a_group_is_not_called_again(stackshift: Stackshift) -> None:
    """A failed child is not retried if uncaught, in a group either."""

    @stackshift.job("child", retry=ONCE)
    def child(_ctx: JobContext[Any]) -> None:
        raise ValueError("no")

    @stackshift.job("parent", retry=THRICE)
    async def parent(ctx: AsyncJobContext[Any]) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.step.call("child"))

    run = stackshift.start(parent)
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert run.error["type"] == ChildFailed.__name__


def test_group_that_a_step_raises_is_the_steps_failure(stackshift: Stackshift) -> None:
    """With its parts in the message, and final if one of them is."""

    def act() -> None:
        raise ExceptionGroup("g", [NonRetryable("never"), OSError("o")])

    @stackshift.job("acts", retry=ONCE)
    def acts(ctx: JobContext[Any]) -> str:
        try:
            ctx.step.run("act", act, retry=THRICE)
        except StepFailed as failed:
            return failed.message
        return "done"

    run = stackshift.start(acts)
    assert run.result == "2 errors: NonRetryable: never; OSError: o"
    assert run.steps["act"].attempts == 1


# --- Texts ---------------------------------------------------------------------------------

ODD: dict[str, Callable[[], BaseException]] = {
    "not UTF-8": lambda: ValueError(f"cannot read {NOT_UTF8}"),
    "no text": Textless,
    "endless": Endless,
    "bursting": Bursting,
    "opaque": Opaque,
    "opaque part": lambda: ExceptionGroup("g", [Opaque(), ValueError("v")]),
    "delegating": Delegating,
    "nameless": Nameless,
    "nameless part": lambda: ExceptionGroup("g", [Nameless(), ValueError("v")]),
    "deep": lambda: nested(2_000),
    "not UTF-8, final": lambda: NonRetryable(f"no such file: {NOT_UTF8}"),
    "endless part": lambda: ExceptionGroup("g", [Endless(), Endless()]),
    "odd group": lambda: ExceptionGroup(NOT_UTF8, [Textless(), ValueError(NOT_UTF8)]),
}

LONG = ("deep", "endless part")
"""Those whose own text takes all the room of the traceback."""


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("place", ["handler", "step"])
def test_error_with_any_text_is_recorded(
    stackshift: Stackshift, odd: str, kind: str, place: str
) -> None:
    """Its run was running for ever, with a slot gone, since its end could not be reported."""

    def fail() -> None:
        raise ODD[odd]()

    def handler(ctx: JobContext[Any]) -> Any:
        return fail() if place == "handler" else ctx.step.run("fail", fail)

    async def looped(ctx: AsyncJobContext[Any]) -> Any:
        return fail() if place == "handler" else await ctx.step.run("fail", fail)

    chosen: Callable[[Any], Any] = handler if kind == "def" else looped
    run = stackshift.start(stackshift.job("odd", retry=ONCE)(chosen))
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == ("ValueError" if odd == "deep" else class_name(ODD[odd]()))
    assert "test_failures.py" in run.error["traceback"] or odd in LONG
    assert len(run.error["message"]) <= 4096
    run.error["message"].encode("utf-8")


def test_text_that_is_not_utf8_is_escaped(stackshift: Stackshift) -> None:
    """As the journal and the terminal do it."""

    @stackshift.job("odd", retry=ONCE)
    def odd(ctx: JobContext[Any]) -> str:
        def read() -> None:
            raise NonRetryable(f"no such file: {NOT_UTF8}")

        ctx.progress(1, message=NOT_UTF8)
        try:
            ctx.step.run("read", read)
        except StepFailed as failed:
            return failed.message
        return ""

    assert stackshift.start(odd).result == "no such file: caf\\udce9.csv"


def test_causes_and_notes_are_in_the_traceback(stackshift: Stackshift) -> None:
    """What a person needs to find the reason."""

    @stackshift.job("explains", retry=ONCE)
    def explains(_ctx: JobContext[Any]) -> None:
        try:
            dict[str, int]()["missing"]
        except KeyError as why:
            error = ValueError("no price")
            error.add_note("for the product p7")
            raise error from why

    run = stackshift.start(explains)
    assert run.error is not None
    traceback = run.error["traceback"]
    assert "KeyError: 'missing'" in traceback
    assert "for the product p7" in traceback
    assert "direct cause" in traceback
    assert "stackshiftd" not in traceback


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo out; echo no table >&2; exit 3", "error of the program:\n> no table"),
        ("echo only; echo this; exit 3", "output of the program:\n> only\n> this"),
        ("printf 'caf\\351' >&2; exit 3", "error of the program:\n> caf\\xe9"),
    ],
)
def test_what_a_failed_program_has_printed_is_in_the_traceback(
    stackshift: Stackshift, script: str, said: str
) -> None:
    """Where `subprocess.run` has captured it, no log has it."""

    @stackshift.job("calls", retry=ONCE)
    def calls(ctx: JobContext[Any]) -> None:
        program = partial(subprocess.run, ["sh", "-c", script], check=True, capture_output=True)
        ctx.step.run("call", program)

    run = stackshift.start(calls)
    assert run.error is not None
    assert run.error["type"] == "CalledProcessError"
    assert run.error["traceback"].endswith(f"returned non-zero exit status 3.\nstandard {said}\n")


def test_what_the_program_of_a_cause_has_printed_is_in_the_traceback(
    stackshift: Stackshift,
) -> None:
    """Of the cause of an error, of its context, and of a part of a group."""

    def call(words: str) -> None:
        script = ["sh", "-c", f"echo {words} >&2; exit 3"]
        subprocess.run(script, check=True, capture_output=True)

    @stackshift.job("calls", retry=ONCE)
    def calls(_ctx: JobContext[Any]) -> None:
        try:
            try:
                call("first")
            except subprocess.CalledProcessError:
                call("second")
        except subprocess.CalledProcessError as second:
            try:
                call("third")
            except subprocess.CalledProcessError as third:
                raise ExceptionGroup("both", [second, third]) from second

    run = stackshift.start(calls)
    assert run.error is not None
    for words in ("first", "second", "third"):
        assert f"> {words}\n" in run.error["traceback"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_error_that_we_raise_comes_from_the_line_that_asked(
    stackshift: Stackshift, kind: str
) -> None:
    """A program that fails, a result that cannot be recorded: nothing of our own code is shown, and
    nothing is said twice."""

    def fails(ctx: JobContext[Any]) -> None:
        ctx.step.command("make", ["sh", "-c", "exit 3"])

    async def fails_async(ctx: AsyncJobContext[Any]) -> None:
        await ctx.step.run("give", lambda: {1})

    told: dict[str, tuple[Any, str, str]] = {
        "def": (fails, 'ctx.step.command("make"', "sh exited with 3"),
        "async def": (
            fails_async,
            'ctx.step.run("give"',
            "the result of step 'give' cannot be recorded: at $: JSON cannot represent a set: "
            "make a list of it",
        ),
    }
    handler, line, message = told[kind]
    run = stackshift.start(stackshift.job("asks", retry=ONCE)(handler))
    assert run.error is not None
    assert run.error["message"] == message
    first, source, *rest = run.error["traceback"].splitlines()
    assert (__file__ in first, line in source) == (True, True)
    assert [each for each in rest if each.strip("^~ ")] == []


# --- What is not an Exception ---------------------------------------------------------------


def leave() -> None:
    sys.exit(2)


async def leave_async() -> None:
    sys.exit(2)


def interrupt() -> None:
    raise KeyboardInterrupt


def cancel() -> None:
    raise asyncio.CancelledError("as the library said")


async def cancel_async() -> None:
    raise asyncio.CancelledError("as the library said")


def find() -> int:
    return next(row for row in [1, 2, 3] if row > 5)


ESCAPING: dict[str, tuple[Callable[[], Any], str]] = {
    "exit": (leave, "SystemExit"),
    "async exit": (leave_async, "SystemExit"),
    "interrupt": (interrupt, "KeyboardInterrupt"),
    "cancelled": (cancel, "CancelledError"),
    "async cancelled": (cancel_async, "CancelledError"),
    "stop iteration": (find, "StopIteration"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ESCAPING
        for kind in ("def", "async def")
        if kind == "async def" or not name.startswith("async")
    ],
)
@pytest.mark.parametrize("mapped", [False, True])
def test_what_a_step_raises_is_its_failure_and_is_tried_again(
    stackshift: Stackshift, name: str, kind: str, mapped: bool
) -> None:
    """`SystemExit` and its like were neither recorded nor retried; in an `async def` handler they
    ended the worker, and `StopIteration` hung the run."""
    act, error = ESCAPING[name]
    tries: list[int] = []

    def counted(*_: int) -> Any:
        tries.append(1)
        return act()

    async def counted_async(*_: int) -> Any:
        tries.append(1)
        return await act()

    fn: Callable[..., Any] = counted_async if inspect.iscoroutinefunction(act) else counted

    def handler(ctx: JobContext[Any]) -> str:
        try:
            if mapped:
                ctx.step.map("act", fn, [1], retry=THRICE)
            else:
                ctx.step.run("act", fn, retry=THRICE)
        except StepFailed as failed:
            return failed.type
        return "done"

    async def looped(ctx: AsyncJobContext[Any]) -> str:
        call: Awaitable[Any] = (
            ctx.step.map("act", fn, [1], retry=THRICE)
            if mapped
            else ctx.step.run("act", fn, retry=THRICE)
        )
        try:
            await call
        except StepFailed as failed:
            return failed.type
        return "done"

    chosen: Callable[[Any], Any] = handler if kind == "def" else looped
    run = stackshift.start(stackshift.job("acts", retry=ONCE)(chosen))
    stackshift.advance("1m")
    assert run.result == error
    assert len(tries) == 3


@pytest.mark.parametrize("act", [leave, interrupt])
@pytest.mark.parametrize("kind", ["def", "async def", "task"])
def test_handler_that_exits_fails_alone(
    stackshift: Stackshift, act: Callable[[], None], kind: str
) -> None:
    """The worker and its other runs go on: their steps happen once."""
    mails: list[str] = []

    @stackshift.job("bystander")
    async def bystander(ctx: AsyncJobContext[Any]) -> str:
        await ctx.step.run("mail", mails.append, "sent")
        await ctx.step.sleep("rest", "1h")
        return "done"

    def handler(_ctx: JobContext[Any]) -> None:
        act()

    async def looped(_ctx: AsyncJobContext[Any]) -> None:
        act()

    async def in_task(_ctx: AsyncJobContext[Any]) -> None:
        async def inner() -> None:
            act()

        await asyncio.create_task(inner())

    kinds: dict[str, Callable[[Any], Any]] = {"def": handler, "async def": looped, "task": in_task}
    chosen = kinds[kind]
    other = stackshift.start(bystander)
    run = stackshift.start(stackshift.job("exits", retry=ONCE)(chosen))
    stackshift.advance("1h")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] in ("SystemExit", "KeyboardInterrupt")
    assert other.result == "done"
    assert mails == ["sent"]


# --- Mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_retry_that_is_no_policy_is_named(stackshift: Stackshift, kind: str) -> None:
    """It was an AttributeError, and was tried again."""

    def handler(ctx: JobContext[Any]) -> Any:
        return ctx.step.run("act", lambda: 1, retry=3)  # type: ignore[arg-type]

    async def looped(ctx: AsyncJobContext[Any]) -> Any:
        return await ctx.step.run("act", lambda: 1, retry=3)  # type: ignore[call-overload]

    chosen: Callable[[Any], Any] = handler if kind == "def" else looped
    run = stackshift.start(stackshift.job("odd", retry=THRICE)(chosen))
    assert run.error is not None
    assert run.error["message"].startswith("the retry of step 'act' is 3, which is not a policy")
    assert run.attempt == 1


def test_what_an_error_of_ours_says_to_do_is_part_of_its_message(stackshift: Stackshift) -> None:
    """A record has no other place for it, so nobody was ever told."""

    @stackshift.job("threads", retry=THRICE)
    async def threads(_ctx: AsyncJobContext[Any]) -> None:
        await asyncio.to_thread(print)

    @stackshift.job("inStep", retry=ONCE)
    def in_step(ctx: JobContext[Any]) -> list[str]:
        try:
            ctx.step.run("act", lambda: ctx.step.run("inner", print))
        except StepFailed as failed:
            return [failed.message, str(failed)]
        return []

    run = stackshift.start("threads")
    assert run.error is not None
    assert run.error["message"].endswith("; hint: do it in a step: ctx.step.run(name, fn)")
    said = "call it in the handler: a step is recorded as a whole"
    assert [text.count(said) for text in stackshift.start("inStep").result] == [1, 1]


class Declined(NonRetryable):
    """A job's own error, which does not call ours."""

    def __init__(self, code: int) -> None:
        self.number = code


def test_job_error_that_does_not_call_ours_has_the_message_of_its_arguments(
    stackshift: Stackshift,
) -> None:
    """As any exception of Python has. It was recorded as `(AttributeError in Declined.__str__)`,
    without the cause."""

    def charge() -> None:
        try:
            raise ConnectionError("the bank hung up")
        except ConnectionError as reason:
            raise Declined(51) from reason

    @stackshift.job("charge", retry=THRICE)
    def job(ctx: JobContext[Any]) -> None:
        ctx.step.run("charge", charge)

    run = stackshift.start("charge")
    assert run.error is not None
    assert (run.error["type"], run.error["message"], run.attempt) == ("Declined", "51", 1)
    assert "ConnectionError: the bank hung up" in run.error["traceback"]


@pytest.mark.parametrize("is_async", [False, True])
def test_timeout_of_a_program_names_no_file_of_ours(stackshift: Stackshift, is_async: bool) -> None:
    """Where StackShift has raised it tells a person nothing; where the handler called it does."""
    if is_async:

        @stackshift.job("waits", retry=Retry(max_attempts=1))
        async def waits_awaited(ctx: AsyncJobContext[Any]) -> None:
            await ctx.step.command("wait", ["sleep", "60"], timeout="50ms")
    else:

        @stackshift.job("waits", retry=Retry(max_attempts=1))
        def waits(ctx: JobContext[Any]) -> None:
            ctx.step.command("wait", ["sleep", "60"], timeout="50ms")

    run = stackshift.start("waits").finish()
    assert run.error is not None
    assert run.error["type"] == "TimeoutError"
    assert "program.py" not in run.error["traceback"]
    assert "test_failures.py" in run.error["traceback"]
    error = run.steps["wait"].error
    assert error is not None
    assert "program.py" not in error["traceback"]
