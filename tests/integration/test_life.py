"""A daemon's life: one at a time, stopped in good order, and found again as it was."""

from __future__ import annotations

import json
import os
import signal
import sqlite3

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.processes import alive, wait_gone
from helpers.project import Project, kinds
from helpers.project_factory import Make
from stackshift_cli.daemon.connection import Connection
from stackshift_jobs.errors import Conflict
from stackshift_jobs.project.discovery import read_daemon

JOBS = """
@stackshift.job("quick")
def quick(ctx):
    return ctx.step.run("one", lambda: ctx.payload.get("n"))


@stackshift.job("held")
def held(ctx):
    ctx.step.run("before", note, "before", ctx.run_id)
    ctx.step.run("held", gate, ctx.payload["gate"])
    ctx.step.run("after", note, "after", ctx.run_id)
    return ctx.attempt


@stackshift.job("heldAsync")
async def held_async(ctx):
    await ctx.step.run("before", note, "before", ctx.run_id)
    await ctx.step.run("held", agate, ctx.payload["gate"])
    await ctx.step.run("after", note, "after", ctx.run_id)
    return ctx.attempt


@stackshift.job("naps")
async def naps(ctx):
    await ctx.step.sleep("nap", ctx.payload["for"])
    return "rested"
"""
TWO_SLOTS = """\
[workers]
processes = 1
slots = 2
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""
GRACE = TWO_SLOTS.replace("1s", "20s")


@pytest.mark.not_via("follower", why="it is about one daemon, and two are started")
def test_second_daemon_says_who_serves_and_ends(make_project: Make) -> None:
    """Of two daemons started at once one serves; the other exits 3 and names the first's pid."""
    project = make_project(JOBS)
    started = [project.launch(), project.launch()]
    said = []
    for process, ready in started:
        with os.fdopen(ready, "rb") as pipe:
            said.append((process, json.loads(pipe.readline())))
    [(winner, _)] = [pair for pair in said if pair[1].get("ready")]
    [(loser, told)] = [pair for pair in said if not pair[1].get("ready")]
    assert loser.wait(SECONDS) == 3
    assert told["error"]["code"] == "daemon_running"
    assert str(winner.pid) in told["error"]["message"]
    assert project.finish(project.begin("quick"))["status"] == "completed"
    project.daemon = winner
    assert project.stop() == 0


def test_removed_lock_file_makes_no_second_daemon(make_project: Make) -> None:
    """A daemon that is started then is refused, again and again, and the first one loses nothing
    that it acknowledges meanwhile. (guarantee: one daemon)"""
    project = make_project(JOBS)
    project.start()
    runs: list[str] = []
    for _ in range(3):
        (project.data_dir / "lock").unlink()
        process, ready = project.launch()
        with os.fdopen(ready, "rb") as pipe:
            while process.poll() is None:
                runs.append(project.begin("quick", {"n": len(runs)}))
            assert json.loads(pipe.readline())["error"]["code"] == "daemon_running"
        assert process.returncode == 3
    assert project.stop() == 0
    project.verify()
    kept = {record["run"] for record in project.journal() if record["kind"] == "run.created"}
    assert kept == set(runs)
    project.start()
    assert [project.finish(run)["result"] for run in runs] == list(range(len(runs)))


def test_daemon_itself_refuses_code_that_others_can_change(make_project: Make) -> None:
    """Whoever has started it, before it opens anything. (guarantee: own code)"""
    project = make_project(JOBS, other="note('imported')")
    (project.root / "jobs").chmod(0o777)
    process, ready = project.launch()
    with os.fdopen(ready, "rb") as pipe:
        error = json.loads(pipe.readline())["error"]
    assert (process.wait(SECONDS), error["code"]) == (78, "configuration")
    assert error["message"].startswith(f"{project.root}/jobs (mode 0777) of ")
    assert project.witness() == []
    assert not project.data_dir.exists()


def test_worker_is_not_started_on_code_that_others_can_change_by_now(make_project: Make) -> None:
    """It would import it by its path, however long the daemon has been running; once that is set
    right, work goes on. (guarantee: own code)"""
    project = make_project(JOBS)
    project.start()
    [worker] = project.workers()
    (project.root / "jobs/story.py").chmod(0o666)
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "story.py (mode 0666) of " in project.log(), "the refusal")
    run = project.begin("quick", {"n": 1})
    assert project.get(run)["status"] == "queued"
    (project.root / "jobs/story.py").chmod(0o644)
    assert project.finish(run)["result"] == 1


@pytest.mark.parametrize("job", ["held", "heldAsync"])
def test_sigterm_lets_a_step_end_and_hands_its_run_back(make_project: Make, job: str) -> None:
    """A step under way at SIGTERM ends within the grace and is recorded; the next daemon goes on
    after it, in the same attempt."""
    project = make_project(JOBS, GRACE)
    project.start()
    run = project.begin(job, {"gate": "step"})
    project.at("step")
    daemon = project.daemon
    assert daemon is not None
    daemon.send_signal(signal.SIGTERM)
    wait_until(lambda: not project_listens(project), "the daemon to begin to stop")
    project.open("step")
    assert project.ended() == 0
    assert project.journal()[-1]["kind"] == "journal.closed"
    project.start()
    seen = project.finish(run)
    assert (seen["status"], seen["result"]) == ("completed", 1)
    told = project.witness()
    assert [told.count(f"{x} {run}") for x in ("before", "after")] == [1, 1]
    assert told.count("at step") == 1


def project_listens(project: Project) -> bool:
    """Does the daemon that executes runs take connections?"""
    try:
        with Connection.open(project.data_dir):
            return True
    except Exception:
        return False


@pytest.mark.not_via("follower", why="it is about one daemon, and two are started")
def test_sigterm_ends_a_daemon_that_waits_for_its_jobs(make_project: Make) -> None:
    """A module that does not come to the end of its import is not waited for."""
    project = make_project(JOBS, slow="gate('import')")
    process, ready = project.launch()
    project.at("import")
    process.send_signal(signal.SIGTERM)
    assert process.wait(SECONDS) == 0
    os.close(ready)
    assert not (project.data_dir / "daemon.json").exists()
    assert project.journal()[-1]["kind"] == "journal.closed"


@pytest.mark.parametrize("job", ["held", "heldAsync"])
def test_sigterm_ends_what_will_not_end_and_its_run_goes_on(make_project: Make, job: str) -> None:
    """A step that outlives the grace is killed, its run handed back without using up an attempt."""
    project = make_project(JOBS, TWO_SLOTS)
    project.start()
    run = project.begin(job, {"gate": "step"})
    project.at("step")
    workers = project.workers()
    assert project.stop() == 0
    wait_gone(workers, "workers")
    assert project.journal()[-1]["kind"] == "journal.closed"
    assert not (project.data_dir / "daemon.json").exists()
    project.start()
    project.at("step", times=2)
    project.open("step")
    seen = project.finish(run)
    assert (seen["status"], seen["result"]) == ("completed", 1)
    assert project.witness().count(f"before {run}") == 1
    lost = [record for record in seen["timeline"] if record["kind"] == "attempt.lost"]
    assert len(lost) == 1


def test_draining_stop_waits_until_runs_have_ended(make_project: Make) -> None:
    """`daemon.stop` with `drain` ends only when nothing executes, and starts nothing new."""
    project = make_project(JOBS, TWO_SLOTS)
    project.start()
    run = project.begin("held", {"gate": "step"})
    project.at("step")
    project.call("daemon.stop", drain=True)
    wait_until(lambda: not project_listens(project), "the daemon to begin to stop")
    project.open("step")
    assert project.ended() == 0
    ends = [record for record in project.journal() if record["kind"] == "run.completed"]
    assert [record["run"] for record in ends] == [run]


def test_sleeping_runs_hold_no_slot(make_project: Make) -> None:
    """A hundred runs sleep at the same time where two can execute, and all wake up."""
    project = make_project(JOBS, TWO_SLOTS)
    project.start()
    runs = [project.begin("naps", {"for": "3s"}) for _ in range(100)]

    def asleep() -> int:
        return len(project.call("run.list", status="waiting", limit=1000)["runs"])

    wait_until(lambda: asleep() == 100, "all to sleep at once")
    [queue] = project.call("daemon.status")["queues"]
    assert (queue["running"], queue["depth"]) == (0, 0)
    assert {project.finish(run)["result"] for run in runs} == {"rested"}


def test_sleep_goes_on_across_a_restart(make_project: Make) -> None:
    """A run that sleeps when the daemon stops wakes at its time, not later by the pause."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("naps", {"for": "1s"})
    until = project.until_status(run, "waiting")["waiting_for"]["until"]
    project.stop()
    project.start()
    seen = project.finish(run)
    [ended] = [record for record in seen["timeline"] if record["kind"] == "wait.ended"]
    assert ended["at"] >= until
    assert seen["result"] == "rested"


def test_worker_that_is_too_large_once_it_has_imported_executes_a_run(make_project: Make) -> None:
    """It is replaced after that, not before: the next one imports the same, and is as large."""
    large = """
time.sleep(2.5)  # Workers are looked at more often.

@stackshift.job("pid")
def pid(ctx):
    return os.getpid()
"""
    project = make_project(large, TWO_SLOTS + 'max_memory = "16MiB"\n')
    project.start()
    first = project.finish(project.begin("pid"))["result"]

    def replaced() -> bool:
        return bool(project.finish(project.begin("pid"))["result"] != first)

    wait_until(replaced, "another worker")
    assert "bytes of memory" in project.log()


def test_stale_announcement_and_socket_are_no_hindrance(make_project: Make) -> None:
    """What a killed daemon left behind is replaced by the next."""
    project = make_project(JOBS)
    project.start()
    project.kill()
    left = read_daemon(project.data_dir)
    assert left is not None and not alive(left.pid)
    project.start()
    now = read_daemon(project.data_dir)
    assert now is not None and now.pid != left.pid
    assert project.finish(project.begin("quick"))["status"] == "completed"


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("how", ["deleted", "damaged", "emptied"])
def test_history_index_is_rebuilt(make_project: Make, how: str, compacted: bool) -> None:
    """Without its index the daemon lists and shows every finished run all the same."""
    project = make_project(JOBS)
    project.start()
    runs = [project.finish(project.begin("quick", {"n": n}))["id"] for n in range(5)]
    project.finish(project.begin("quick", {"n": 9}, idempotency_key="k"))
    if compacted:
        project.call("journal.compact")
    before = project.call("run.list", limit=100)["runs"]
    project.stop()
    index = project.data_dir / "history.db"
    if how == "deleted":
        index.unlink()
    elif how == "damaged":
        index.write_bytes(b"not a database" * 1000)
    else:
        with sqlite3.connect(index) as db:
            db.execute("DELETE FROM runs")
            db.execute("UPDATE meta SET value = '0' WHERE name = 'covered_seq'")
        db.close()
    for suffix in ("-wal", "-shm"):
        (project.data_dir / f"history.db{suffix}").unlink(missing_ok=True)
    project.start()
    wait_until(
        lambda: project.call("run.list", limit=100)["runs"] == before, "the index to be rebuilt"
    )
    for n, run in enumerate(runs):
        seen = project.get(run)
        assert (seen["status"], seen["result"]) == ("completed", n)
        assert kinds(seen)[0] == "run.created"
    with pytest.raises(Conflict):
        project.call("run.start", job="quick", payload={"n": 8}, idempotency_key="k")


@pytest.mark.not_via("follower", why="it is about one daemon, and two are started")
def test_daemon_whose_data_directory_is_gone_ends_and_says_so(make_project: Make) -> None:
    """It would acknowledge into files that nobody can find; and it leaves its successor's alone."""
    project = make_project(JOBS)
    project.start()
    first = project.daemon
    assert first is not None
    project.data_dir.rename(project.root / "aside")
    project.daemon, ready = project.launch()
    with os.fdopen(ready, "rb") as pipe:
        assert json.loads(pipe.readline())["ready"]
    assert first.wait(60) == 78
    assert "was moved or removed while the daemon was serving" in project.log()
    assert project.call("daemon.status")["pid"] == project.daemon.pid
