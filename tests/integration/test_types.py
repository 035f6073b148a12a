"""What is written as a type is read back as it, by handlers of every kind, and after a crash."""

from __future__ import annotations

import subprocess
import sys

import pytest

from helpers.project import Project, environment, kinds, steps
from helpers.project_factory import Make
from stackshift_jobs.errors import PayloadRefused

TYPES = """
import dataclasses
import functools
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel

from stackshift_jobs import AsyncJobContext, JobContext

if TYPE_CHECKING:
    from collections.abc import Mapping
    from nowhere import Unknown


class Line(BaseModel):
    sku: str


@dataclasses.dataclass
class Shift:
    begins: datetime
    lasts: timedelta
    lines: list[Line]
    notes: dict[int, Line | None]


EIGHT = Shift(
    datetime(2026, 1, 5, 8, tzinfo=UTC), timedelta(hours=8), [Line(sku="x")], {1: Line(sku="y")}
)


def make(run):
    note("make", run)
    return EIGHT


def equal(*values):
    assert all(value == EIGHT for value in values), values


@stackshift.job("takesShift", retry=ONCE)
def takes_shift(ctx: JobContext[Shift]) -> Mapping[str, int]:
    equal(ctx.payload)
    return ctx.payload


@stackshift.job("takesLines", retry=ONCE)
def takes_lines(ctx: JobContext[list[Line]]):
    return [line.sku for line in ctx.payload]


@stackshift.job("unreadable", retry=ONCE)
def unreadable(ctx: JobContext[Unknown]):
    return ctx.payload


@stackshift.job("types", retry=ONCE)
def types(ctx):
    def all_of():
        made = ctx.step.run("make", make, ctx.run_id, returns=Shift)
        mapped = ctx.step.map("each", lambda _: EIGHT, [1, 2], returns=Shift)
        called = ctx.step.call("takesShift", EIGHT, returns=Shift)
        child = ctx.step.start("takesShift", EIGHT, name="child")
        result = ctx.step.result(child, returns=Shift)
        ctx.state.set(f"shift/{ctx.run_id}", EIGHT)
        kept = ctx.state.get(f"shift/{ctx.run_id}", returns=Shift)
        ctx.events.send("shift", EIGHT, correlation_key=ctx.run_id)
        event = ctx.step.wait_for_event("shift", correlation_key=ctx.run_id, returns=Shift)
        return (made, *mapped, called, result, kept, event.payload)

    equal(*all_of())
    ctx.step.run("gate", gate, "types")
    ctx.step.sleep("nap", "300ms")
    return "equal"


@stackshift.job("typesAsync", retry=ONCE)
async def types_async(ctx):
    async def every(_):
        return EIGHT

    made = await ctx.step.run("make", make, ctx.run_id, returns=Shift)
    mapped = await ctx.step.map("each", every, [1, 2], returns=Shift)
    called = await ctx.step.call("takesShift", EIGHT, returns=Shift)
    child = await ctx.step.start("takesShift", EIGHT, name="child")
    result = await ctx.step.result(child, returns=Shift)
    await ctx.state.set(f"shift/{ctx.run_id}", EIGHT)
    kept = await ctx.state.get(f"shift/{ctx.run_id}", returns=Shift)
    await ctx.events.send("shift", EIGHT, correlation_key=ctx.run_id)
    event = await ctx.step.wait_for_event("shift", correlation_key=ctx.run_id, returns=Shift)
    equal(made, *mapped, called, result, kept, event.payload)
    await ctx.step.run("gate", agate, "types")
    await ctx.step.sleep("nap", "300ms")
    return "equal"


@stackshift.job("misfit", retry=Retry(max_attempts=3, backoff="10ms"))
def misfit(ctx):
    def lasts():
        note("lasts", ctx.run_id)
        return {"begins": "now"} if not is_open("mended") else EIGHT

    equal(ctx.step.run("lasts", lasts, returns=Shift))
    return "equal"


@stackshift.job("caller", retry=ONCE)
def caller(ctx):
    ctx.step.call("takesLines" if is_open("renamed") else "gives", [], name="sub")
    ctx.step.sleep("nap", "50ms")


@stackshift.job("gives")
def gives(ctx):
    gate("renamed")
"""

HANDLERS = """
import functools


class Mailer:
    def __init__(self, name):
        self.name = name

    def send(self, ctx):
        return [self.name, ctx.step.run("up", self.up, "a"), ctx.step.run("partial", partly)]

    async def send_later(self, ctx):
        return [
            self.name,
            await ctx.step.run("up", self.up, "a"),
            await ctx.step.run("later", self.up_later, "b"),
            await ctx.step.run("partial", functools.partial(self.up_later, "c")),
            await ctx.step.run("object", Called("d")),
        ]

    def up(self, text):
        return text.upper()

    async def up_later(self, text):
        await asyncio.sleep(0)
        return text.upper()

    @stackshift.job("static")
    @staticmethod
    def static(ctx):
        return "static"

    @classmethod
    def of_class(cls, ctx):
        return cls.__name__


class Called:
    def __init__(self, text):
        self.text = text

    async def __call__(self, ctx=None):
        return self.text


def wrapped(fn):
    @functools.wraps(fn)
    def wrapper(*args, **kwargs):
        return fn(*args, **kwargs)

    return wrapper


@stackshift.job("wrappedAsync", retry=FAST)
@wrapped
async def wrapped_async(ctx):
    first = await ctx.step.run("one", lambda: 1)
    await ctx.step.sleep("pause", "1ms")
    return [first, await ctx.step.run("two", lambda: 2)]


async def later(ctx):
    note("ran", ctx.run_id)


@stackshift.job("coroutine", retry=FAST)
def coroutine(ctx):
    return later(ctx)


@stackshift.job("generator", retry=FAST)
@wrapped
def generator(ctx):
    yield 1


@stackshift.job("asyncStep", retry=FAST)
def async_step(ctx):
    ctx.step.run("call", Called("e"))


partly = functools.partial("{}{}".format, 1, 2)
ann = Mailer("ann")
stackshift.job("method", ann.send)
stackshift.job("asyncMethod", ann.send_later)
stackshift.job("classMethod", Mailer.of_class)
stackshift.job("object", Called("called"))
stackshift.job("partial", functools.partial(lambda first, ctx: first, "first"))
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """All of the jobs above."""
    made = make_project("from __future__ import annotations\n" + TYPES, handlers=HANDLERS)
    story = made.root / "jobs" / "story.py"
    future = "from __future__ import annotations\n"
    story.write_text(future + story.read_text().replace(future, ""))
    made.start()
    return made


@pytest.mark.parametrize("job", ["types", "typesAsync"])
def test_types_are_the_same_after_the_daemon_was_killed(project: Project, job: str) -> None:
    """All that a handler can get back as a type: as it came, from the journal, and on the pass
    after a wait. No function runs again."""
    run = project.begin(job)
    project.at("types")
    project.kill()
    project.start()
    project.at("types", times=2)
    project.open("types")
    assert project.finish(run)["result"] == "equal"
    assert project.witness().count(f"make {run}") == 1


def test_schema_of_a_job_accepts_what_its_type_is_encoded_as(project: Project) -> None:
    """And still refuses what is none, with its place; also where a model is in a list."""
    lines = [{"sku": "x"}]
    shift = {"begins": "2026-01-05T08:00:00+00:00", "lines": lines, "notes": {"1": {"sku": "y"}}}
    for lasts in (28800, 28800.0, "PT8H"):
        run = project.finish(project.begin("takesShift", shift | {"lasts": lasts}))
        assert run["result"] == shift | {"lasts": 28800.0}
    assert project.finish(project.begin("takesLines", lines))["result"] == ["x"]
    for job, payload, path in (
        ("takesShift", shift | {"lasts": "long"}, "$.lasts"),
        ("takesShift", shift | {"lasts": 1, "notes": {"1": {"sku": 1}}}, "$.notes"),
        ("takesLines", [{"sku": "x"}, {"sku": 1}], "$[1].sku"),
    ):
        with pytest.raises(PayloadRefused) as refused:
            project.begin(job, payload)
        assert refused.value.path.startswith(path)
    assert project.finish(project.begin("unreadable", {"any": 1}))["result"] == {"any": 1}


def test_result_that_does_not_fit_is_not_recorded(project: Project) -> None:
    """The step has failed, so when the code is mended a retry runs it again."""
    run = project.begin("misfit")
    failed = project.finish(run)
    assert (failed["status"], failed["attempt"]) == ("failed", 1)
    assert failed["error"]["type"] == "PayloadRefused"
    assert (
        "the result of step 'lasts' does not fit its type at $.begins" in failed["error"]["message"]
    )
    assert kinds(failed, "step.completed", "step.failed") == ["step.failed"]
    project.open("mended")
    project.call("run.retry", run=run)
    assert project.finish(run)["result"] == "equal"
    assert project.witness().count(f"lasts {run}") == 2


def test_call_of_another_job_under_a_recorded_name_fails_the_run(project: Project) -> None:
    """Also where the record is read from the journal, after the daemon was killed."""
    run = project.begin("caller")
    project.at("renamed")
    project.kill()
    project.open("renamed")
    project.start()
    failed = project.finish(run)
    assert failed["status"] == "failed"
    assert failed["error"]["type"] == "ReplayError"
    message = "'sub' is recorded as a call of job 'gives'; the code now calls 'takesLines'"
    hint = "; hint: give the new call another name: name=..."
    assert failed["error"]["message"] == message + hint
    [wait] = [each for each in failed["timeline"] if each["kind"] == "wait.started"]
    assert wait["job"] == "gives"


@pytest.mark.parametrize(
    ("job", "result"),
    [
        ("static", "static"),
        ("method", ["ann", "A", "12"]),
        ("asyncMethod", ["ann", "A", "B", "C", "d"]),
        ("classMethod", "Mailer"),
        ("object", "called"),
        ("partial", "first"),
        ("wrappedAsync", [1, 2]),
    ],
)
def test_handler_and_step_can_be_anything_that_is_called(
    project: Project, job: str, result: object
) -> None:
    """Methods, partials, objects and what is decorated, `def` and `async def`."""
    assert project.finish(project.begin(job))["result"] == result


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ("coroutine", "the coroutine later, not its result"),
        ("generator", "the generator generator, not its values"),
        ("asyncStep", "step 'call' was given an async function"),
    ],
)
def test_what_is_not_a_value_yet_fails_the_run_at_once(
    project: Project, job: str, words: str
) -> None:
    """What the handler or the step returned is named, and not tried again."""
    run = project.begin(job)
    failed = project.finish(run)
    assert (failed["status"], failed["attempt"]) == ("failed", 1)
    assert words in failed["error"]["message"]
    assert f"ran {run}" not in project.witness()
    assert all(step["status"] == "failed" for step in steps(failed).values())


BAD_TYPE = """
from stackshift_jobs import JobContext

class Thing:
    pass

@stackshift.job("fine")
def fine(ctx):
    return "fine"

@stackshift.job("things")
def things(ctx: JobContext[list[Thing]]):
    pass
"""


def test_payload_type_of_which_nothing_can_be_made_is_an_error_of_the_module(
    make_project: Make,
) -> None:
    """`jobs check` names job, type, file and line, and so does the daemon; other jobs run."""
    project = make_project(BAD_TYPE, bare='@stackshift.job("bare")\ndef bare():\n    pass\n')
    check = subprocess.run(
        [sys.executable, "-m", "stackshift_cli", "jobs", "check"],
        cwd=project.root,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 78
    story, bare = project.root / "jobs" / "story.py", project.root / "jobs" / "bare.py"
    line = 1 + story.read_text().splitlines().index('@stackshift.job("things")')
    assert f"{story}:{line}: the payload of job 'things': nothing" in check.stdout
    assert "as the type list[jobs.story.Thing]: Thing has no JSON form" in check.stdout
    assert f"{bare}:3: the handler of job 'bare'" in check.stdout
    project.start()
    told = project.call("job.list")
    assert [(each["file"], each["line"]) for each in told["failed_modules"]] == [
        (str(bare), 3),
        (str(story), line),
    ]
    assert [each["name"] for each in told["jobs"]] == ["fine"]
    assert project.finish(project.begin("fine"))["result"] == "fine"
