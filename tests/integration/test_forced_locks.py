"""`state unlock --force` against a run of a real daemon."""

from __future__ import annotations

from helpers.deadline import wait_until
from helpers.project_factory import Make

JOBS = """
@stackshift.job("holds", retry=ONCE)
def holds(ctx):
    with ctx.state.lock("index"):
        note("holds")
        while not is_open("go"):
            time.sleep(0.01)
        ctx.step.run("write", lambda: note("written"))
"""


def test_handler_whose_lock_is_taken_away_writes_no_more(make_project: Make) -> None:
    """The next has the lock at once; the step that follows is not run, and the run says why."""
    project = make_project(JOBS)
    project.start()
    run = project.begin("holds")
    wait_until(lambda: "holds" in project.witness(), "the lock to be held")
    [lock] = project.call("lock.list")["locks"]
    assert lock["run"] == run
    project.call("lock.release", key="index", token=lock["token"], force=True)
    project.call("lock.acquire", key="index", ttl_ms=60_000, asker="next")
    project.open("go")
    ended = project.finish(run)
    assert (ended["status"], ended["error"]["type"]) == ("failed", "LockLost")
    assert "was taken away" in ended["error"]["message"]
    assert "written" not in project.witness()
    assert [lock["run"] for lock in project.call("lock.list")["locks"]] == [None]
    project.verify()
