"""What handlers can count on: steps once, waits without a slot, children, telling errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.deadline import wait_until
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make

JOBS = """
@stackshift.job("syncSteps")
def sync_steps(ctx):
    first = ctx.step.run("double", lambda: ctx.payload["n"] * 2)
    ctx.step.sleep("nap", "300ms")
    note("after nap", ctx.run_id)
    pages = [ctx.step.run("page", lambda i=i: note("page", ctx.run_id, i) or i) for i in range(2)]
    return {"first": first, "pages": pages, "sizes": ctx.step.map("size", lambda s: [s, s], (1, 2))}


@stackshift.job("asyncSteps")
async def async_steps(ctx):
    async def fetch(i):
        note("page", ctx.run_id, i)
        return i
    pages = await asyncio.gather(*[ctx.step.run("page", fetch, i) for i in range(3)])
    await ctx.step.sleep("nap", "300ms")
    return pages


@stackshift.job("gathers")
async def gathers(ctx):
    note("pass", ctx.run_id)
    await asyncio.gather(*[ctx.step.sleep(f"nap-{i}", "400ms") for i in range(5)])
    return "slept"


@stackshift.job("groups")
async def groups(ctx):
    note("pass", ctx.run_id)
    async with asyncio.TaskGroup() as group:
        for i in range(5):
            group.create_task(ctx.step.sleep(f"nap-{i}", "400ms"))
    return "slept"


@stackshift.job("swallowsSync", retry=FAST)
def swallows_sync(ctx):
    try:
        ctx.step.sleep("nap", "1h")
    except BaseException:
        pass
    return "too early"


@stackshift.job("swallowsAsync", retry=FAST)
async def swallows_async(ctx):
    try:
        await ctx.step.sleep("nap", "1h")
    except BaseException:
        pass
    return "too early"


@stackshift.job("flakyStep")
def flaky_step(ctx):
    def once_more():
        note("try", ctx.run_id)
        if noted("try", ctx.run_id) < 3:
            raise ConnectionError("not yet")
        return "there"
    note("pass", ctx.run_id)
    return ctx.step.run("fetch", once_more, retry=Retry(max_attempts=3, backoff="300ms", jitter=0))


@stackshift.job("flakyMap")
def flaky_map(ctx):
    def one(i):
        note("item", ctx.run_id, i)
        if i == 0 and noted("item", ctx.run_id, 0) == 1:
            raise ConnectionError("not yet")
        if i == 1:
            gate(f"map-{ctx.run_id}")
        return i
    return ctx.step.map("fetch", one, range(2), retry=Retry(max_attempts=2, backoff="300ms"))


@stackshift.job("flakyAttempt", retry=FAST)
def flaky_attempt(ctx):
    ctx.step.run("good", lambda: note("good", ctx.run_id))
    if ctx.attempt < 3:
        raise ConnectionError(f"attempt {ctx.attempt}")
    return ctx.attempt


@stackshift.job("hopeless", retry=FAST)
def hopeless(ctx):
    ctx.step.run("bad", boom)


def boom():
    raise ValueError("no good")


@stackshift.job("final", retry=FAST)
def final(ctx):
    raise NonRetryable("never")


@stackshift.job("asks")
def asks(ctx):
    raise RetryAfter("50ms") if ctx.attempt == 1 else NonRetryable("asked once")


@stackshift.job("child")
def child(ctx):
    if ctx.payload.get("fails"):
        raise NonRetryable("child's fault")
    ctx.step.sleep("nap", "200ms")
    return {"from": ctx.payload["n"]}


@stackshift.job("parent")
def parent(ctx):
    one = ctx.step.call("child", {"n": 1})
    started = ctx.step.start("child", {"n": 2}, name="second")
    two = ctx.step.result(started)
    return [one, two, started]


@stackshift.job("parentAsync")
async def parent_async(ctx):
    return await asyncio.gather(*[ctx.step.call("child", {"n": n}, name=f"c{n}") for n in (1, 2)])


@stackshift.job("unlucky", retry=FAST)
def unlucky(ctx):
    ctx.step.call("child", {"fails": True})


@stackshift.job("forgiving")
def forgiving(ctx):
    try:
        ctx.step.call("child", {"fails": True})
    except stackshift.ChildFailed as failed:
        ctx.step.sleep("nap", "200ms")
        return [failed.status, failed.error["message"]]


@stackshift.job("unknownChild", retry=FAST)
def unknown_child(ctx):
    return ctx.step.call("nobody", {})


@stackshift.job("reads")
def reads(ctx):
    seen = [ctx.now().isoformat(), str(ctx.uuid())]
    note("read", ctx.run_id, *seen)
    ctx.step.sleep("nap", "300ms")
    return seen


@stackshift.job("clientInside", retry=FAST)
def client_inside(ctx):
    stackshift.start("child", {"n": 1})


@stackshift.job("badResult", retry=FAST)
def bad_result(ctx):
    return ctx.step.run("set", lambda: {"a": {1, 2}})


@stackshift.job("large")
def large(ctx):
    return [len(each) for each in ctx.step.map("much", lambda n: "x" * n, [900_000] * 8)]


@stackshift.job("largeAsync")
async def large_async(ctx):
    return [len(each) for each in await ctx.step.map("much", lambda n: "x" * n, [900_000] * 8)]


@stackshift.job("runsCommand")
def runs_command(ctx):
    return ctx.step.command("echo", ["sh", "-c", "echo out; echo err >&2"])
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these: their runs do not touch each other."""
    made = Project(tmp_path_factory.mktemp("handlers") / "p", {"story": JOBS})
    made.start()
    yield made
    made.close()


def done(project: Project, job: str, payload: object = None) -> tuple[str, object]:
    """Run a job to its completion: its id and result."""
    run = project.finish(project.begin(job, payload))
    assert run["status"] == "completed", run["error"]
    return run["id"], run["result"]


def failure(project: Project, job: str) -> dict[str, object]:
    """Run a job to its failure: the run object."""
    run = project.finish(project.begin(job))
    assert run["status"] == "failed"
    return run


def test_sync_steps_run_once_across_a_wait(project: Project) -> None:
    """A `def` handler that waits is replayed, and none of its recorded steps runs again."""
    run, result = done(project, "syncSteps", {"n": 21})
    assert result == {"first": 42, "pages": [0, 1], "sizes": [[1, 1], [2, 2]]}
    told = project.witness()
    assert [line for line in told if line.startswith(f"page {run}")] == [
        f"page {run} 0",
        f"page {run} 1",
    ]
    assert told.count(f"after nap {run}") == 1


def test_async_steps_of_one_name_run_once_across_a_wait(project: Project) -> None:
    """Steps of one name, gathered, keep their results by the order of their calls."""
    run, result = done(project, "asyncSteps")
    assert result == [0, 1, 2]
    assert sorted(line for line in project.witness() if line.startswith(f"page {run}")) == [
        f"page {run} {i}" for i in range(3)
    ]


@pytest.mark.parametrize("job", ["gathers", "groups"])
def test_waits_side_by_side_suspend_the_handler(project: Project, job: str) -> None:
    """A handler all of whose branches sleep leaves memory, and is called again after them."""
    run, result = done(project, job)
    assert result == "slept"
    assert project.witness().count(f"pass {run}") >= 2
    told = kinds(project.get(run), "wait.started", "wait.ended", "attempt.suspended")
    assert told.count("wait.started") == told.count("wait.ended") == 5
    assert "attempt.suspended" in told


@pytest.mark.parametrize("job", ["swallowsSync", "swallowsAsync"])
def test_swallowed_wait_fails_with_what_happened(project: Project, job: str) -> None:
    """A handler that catches what unwinds it fails at once, and the message says why."""
    run = failure(project, job)
    assert run["attempt"] == 1
    error = run["error"]
    assert isinstance(error, dict)
    assert "except BaseException" in error["message"]


def test_backoff_of_a_step_is_spent_suspended(project: Project) -> None:
    """Between the tries of a step its run holds no slot; each try is on record."""
    run, result = done(project, "flakyStep")
    assert result == "there"
    seen = project.get(run)
    assert steps(seen)["fetch"]["attempts"] == 3
    assert seen["attempt"] == 1
    assert kinds(seen, "step.failed", "step.completed") == ["step.failed"] * 2 + ["step.completed"]
    assert kinds(seen).count("attempt.suspended") == 2
    assert project.witness().count(f"pass {run}") == 3


def test_items_that_finish_while_another_backs_off_are_not_run_again(project: Project) -> None:
    """An item of a map that was under way when another began its backoff keeps its result."""
    run = project.begin("flakyMap")
    project.at(f"map-{run}")
    wait_until(lambda: "step.failed" in kinds(project.get(run)), "the first item to fail")
    project.open(f"map-{run}")
    assert project.finish(run)["result"] == [0, 1]
    told = project.witness()
    assert told.count(f"item {run} 0") == 2
    assert told.count(f"item {run} 1") == 1


def test_next_attempt_reuses_recorded_steps(project: Project) -> None:
    """A new attempt after a failure runs only what is not on record."""
    run, result = done(project, "flakyAttempt")
    assert result == 3
    assert project.witness().count(f"good {run}") == 1
    assert [a["outcome"] for a in project.get(run)["attempts"]] == ["failed", "failed", "completed"]


def test_failing_step_fails_the_run_with_the_original_error(project: Project) -> None:
    """Past the last attempt the run is dead, with the type, message and place of the exception."""
    run = failure(project, "hopeless")
    assert run["attempt"] == 3 and run["dead"] is True
    error = run["error"]
    assert isinstance(error, dict)
    assert (error["type"], error["message"]) == ("ValueError", "no good")
    assert "in boom" in error["traceback"]


@pytest.mark.parametrize(("job", "attempts"), [("final", 1), ("asks", 2)])
def test_error_decides_whether_and_when_to_try_again(
    project: Project, job: str, attempts: int
) -> None:
    """`NonRetryable` ends a run at once, `RetryAfter` sets its next delay."""
    assert failure(project, job)["attempt"] == attempts


def test_child_is_called_once_and_its_result_comes_back(project: Project) -> None:
    """`call` and `start` make one run each, however often the parent is replayed."""
    run, result = done(project, "parent")
    assert isinstance(result, list)
    assert result[:2] == [{"from": 1}, {"from": 2}]
    children = [
        each for each in project.call("run.list", job="child")["runs"] if each["parent"] == run
    ]
    assert len(children) == 2
    assert result[2] in [each["id"] for each in children]


def test_children_called_side_by_side(project: Project) -> None:
    """Several calls may wait at the same time."""
    assert done(project, "parentAsync")[1] == [{"from": 1}, {"from": 2}]


def test_failed_child_fails_its_parent_without_a_retry(project: Project) -> None:
    """An uncaught `ChildFailed` is not tried again."""
    run = failure(project, "unlucky")
    assert run["attempt"] == 1
    error = run["error"]
    assert isinstance(error, dict)
    assert error["type"] == "ChildFailed" and "child's fault" in error["message"]


def test_failed_child_can_be_caught_and_replays(project: Project) -> None:
    """A caught `ChildFailed` is the same on the pass after a wait."""
    assert done(project, "forgiving")[1] == ["failed", "child's fault"]


def test_call_of_an_unknown_job_fails_and_names_it(project: Project) -> None:
    """A job that nobody has is refused in the handler that calls it."""
    error = failure(project, "unknownChild")["error"]
    assert isinstance(error, dict)
    assert "nobody" in error["message"]


def test_reads_give_the_same_on_every_pass(project: Project) -> None:
    """`now` and `uuid` are recorded reads."""
    run, result = done(project, "reads")
    assert isinstance(result, list)
    told = {line for line in project.witness() if line.startswith(f"read {run}")}
    assert told == {f"read {run} " + " ".join(result)}


def test_client_in_a_handler_is_refused_with_what_to_use(project: Project) -> None:
    """Starting a run by the client in a handler would repeat; the error names `ctx.step.start`."""
    error = failure(project, "clientInside")["error"]
    assert isinstance(error, dict)
    assert error["type"] == "InsideHandler" and "ctx.step.start" in error["message"]


def test_result_that_json_cannot_hold_fails_at_once_naming_its_place(project: Project) -> None:
    """A set in a step's result is refused, with its path, and not tried again."""
    run = failure(project, "badResult")
    assert run["attempt"] == 1
    error = run["error"]
    assert isinstance(error, dict)
    assert "$.a" in error["message"]


def test_command_step_keeps_what_the_program_printed(project: Project) -> None:
    """A program's streams and status are the step's result."""
    assert done(project, "runsCommand")[1] == {"exit_code": 0, "stdout": "out\n", "stderr": "err\n"}


@pytest.mark.parametrize("job", ["large", "largeAsync"])
def test_large_results_arrive_whole(project: Project, job: str) -> None:
    """Results far larger than a socket's buffer are recorded once each; the worker stays."""
    before = project.workers()
    run, result = done(project, job)
    assert result == [900_000] * 8
    assert kinds(project.get(run), "step.completed", "attempt.lost") == ["step.completed"] * 8
    assert project.workers() == before


LEFT_BEHIND = """
import threading


def use(ctx, call):
    try:
        call(ctx)
    except Exception as error:
        note("refused", type(error).__name__, error)


@stackshift.job("leaves")
def leaves(ctx):
    def late():
        gate("ended")
        use(ctx, lambda ctx: ctx.step.run("late", note, "ran late"))
        use(ctx, lambda ctx: ctx.progress(1))
        use(ctx, lambda ctx: ctx.now())

    def under_way():
        def work():
            note("under way")
            gate("ended")
        use(ctx, lambda ctx: ctx.step.run("under-way", work))

    for target in (late, under_way):
        threading.Thread(target=target, daemon=True).start()
    while not (noted("under way") and noted("at ended") >= 2):
        time.sleep(0.005)
    return True
"""


def test_thread_that_its_handler_has_left_behind_is_refused(make_project: Make) -> None:
    """Its function is not run, and it does not wait for an answer that never comes."""
    project = make_project(LEFT_BEHIND)
    project.start()
    assert project.finish(project.begin("leaves"))["result"] is True
    project.open("ended")
    refused = "refused ReplayError a thread used ctx after its handler had ended"
    wait_until(lambda: project.witness().count(refused) == 4, "each call to be refused")
    assert "ran late" not in project.witness()


HOGS = """
@stackshift.job("hogs")
async def hogs(ctx):
    async def all_threads():
        def one():
            note("in a thread")
            gate("let go")
        await asyncio.gather(*(asyncio.to_thread(one) for _ in range(64)))
    await ctx.step.run("hog", all_threads)


@stackshift.job("modest")
async def modest(ctx):
    return await ctx.step.run("work", lambda: "done", timeout="20s")
"""


def test_threads_that_a_step_asks_for_keep_none_from_other_steps(make_project: Make) -> None:
    """`asyncio.to_thread` has a pool of its own, however many calls wait in it."""
    project = make_project(HOGS)
    project.start()
    hogs = project.begin("hogs")
    wait_until(lambda: project.witness().count("in a thread") >= 32, "the pool to be full")
    assert project.finish(project.begin("modest"))["result"] == "done"
    project.open("let go")
    assert project.finish(hogs)["status"] == "completed"


STOPS = """
@stackshift.job("stops")
async def stops(ctx):
    async def stop():
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return note("stopped", ctx.run_id)
    await ctx.step.run("stop", stop)
    await ctx.step.run("after", note, "after", ctx.run_id)


@stackshift.job("beside")
async def beside(ctx):
    await ctx.step.run("held", agate, "held")
    await ctx.step.run("done", note, "done", ctx.run_id)
"""


def test_function_that_stops_its_loop_ends_no_worker(make_project: Make) -> None:
    """The loop is the worker's: all runs in it would be executed again."""
    project = make_project(STOPS)
    project.start()
    beside = project.begin("beside")
    project.at("held")
    stops = project.finish(project.begin("stops"))
    project.open("held")
    assert project.finish(beside)["status"] == stops["status"] == "completed"
    assert project.witness() == [
        "at held",
        f"stopped {stops['id']}",
        f"after {stops['id']}",
        f"done {beside}",
    ]
    assert "attempt.lost" not in {*kinds(stops), *kinds(project.get(beside))}


def test_run_for_which_no_thread_can_be_started_fails(make_project: Make) -> None:
    """What a job does to the process must not leave another run without an end."""
    project = make_project(
        """
import threading
threading.excepthook = None


@stackshift.job("def", retry=Retry(max_attempts=1))
def plain(ctx):
    return 1


@stackshift.job("async")
async def looped(ctx):
    return 2
"""
    )
    project.start()
    failed = project.finish(project.begin("def"))
    assert failed["status"] == "failed"
    assert "excepthook" in failed["error"]["message"]
    assert project.finish(project.begin("async"))["result"] == 2
