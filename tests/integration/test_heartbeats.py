"""Heartbeats of jobs and of the daemon, to a watcher that answers, refuses or hangs."""

from __future__ import annotations

import time
from functools import partial

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make
from helpers.receiver import Receiver, receiver

JOBS = """
@stackshift.job("nightly", retry=Retry(max_attempts=2, backoff="10ms", jitter=0.0), heartbeat="%s")
def nightly(ctx):
    print("closing the day")
    if ctx.payload.get("fails"):
        raise ConnectionError("the bank does not answer")
"""


def project_with(make_project: Make, port: int, config: str = "") -> Project:
    """A project whose job has a watcher."""
    url = f"http://127.0.0.1:{port}/uuid"
    return make_project(JOBS % url, scenery.CONFIG + config)


def test_watcher_of_a_job_hears_of_beginning_and_end(make_project: Make) -> None:
    """In order: start, then success or failure, which comes once, with the error and the log."""
    with receiver() as server:
        project = project_with(make_project, server.port)
        project.start()
        project.finish(project.begin("nightly"))
        wait_until(lambda: len(server.received) == 2, "a start and a success")
        assert server.paths == ["/uuid/start", "/uuid"]
        run = project.finish(project.begin("nightly", {"fails": True}))
        wait_until(lambda: len(server.received) == 4, "a start and a failure")
        assert server.paths[2:] == ["/uuid/start", "/uuid/fail"]
        first, *log = server.received[-1].body.splitlines()
        assert first == f"{run['id']}: ConnectionError: the bank does not answer"
        assert log == ["closing the day", "closing the day"]


def test_watcher_that_hangs_slows_nothing(make_project: Make) -> None:
    """Runs begin and end, and the daemon answers, while it does. When it is back it hears the rest,
    in order."""
    with receiver() as server:
        beat = f'[heartbeat]\nurl = "http://127.0.0.1:{server.port}/beat"\nperiod = "1s"\n'
        project = project_with(make_project, server.port, beat)
        project.start()
        wait_until(lambda: "/beat" in server.paths, "a beat")
        server.hang()
        began = time.monotonic()
        for run in [project.begin("nightly") for _ in range(20)]:
            assert project.finish(run)["status"] == "completed"
        assert time.monotonic() - began < 10, "a request to the watcher takes so long"
        assert project.call("daemon.status")["mode"] == "serving"
        server.go_on()
        wait_until(lambda: server.paths.count("/uuid") >= 20, "the rest", 60.0)
        mine = [path for path in server.paths if path != "/beat"]
        assert mine.count("/uuid/start") == 20


def called(server: Receiver, path: str) -> bool:
    """Has something called the path?"""
    return path in server.paths


def test_reload_puts_another_heartbeat_of_the_daemon_in_force(make_project: Make) -> None:
    """Nothing has to be restarted for it, and the old URL is called no more."""
    with receiver() as server:
        project = project_with(make_project, server.port)
        project.start()
        settings = project.root / "stackshift.toml"
        before = settings.read_text()
        for path in ("/one", "/two"):
            beat = f'[heartbeat]\nurl = "http://127.0.0.1:{server.port}{path}"\nperiod = "1s"\n'
            settings.write_text(before + beat)
            assert project.call("daemon.reload")["loaded"]
            wait_until(partial(called, server, path), f"a beat at {path}")
        assert project.call("job.get", job="nightly")["notes"] == []
        count = server.paths.count("/one")
        wait_until(lambda: server.paths.count("/two") > 2, "more beats at the new URL")
        assert server.paths.count("/one") <= count + 1  # one may have been under way
        settings.write_text(before)
        assert project.call("daemon.reload")["loaded"]


def test_watcher_that_refuses_is_named_once_in_the_log(make_project: Make) -> None:
    """By its host alone: who knows the URL can call it. A failing watcher is tried again."""
    with receiver() as server:
        server.answers = [503, 200, 404, 404]
        project = project_with(make_project, server.port)
        project.start()
        project.finish(project.begin("nightly"))
        wait_until(lambda: len(server.received) >= 3, "a start, again, and a success")
        assert server.paths[:3] == ["/uuid/start", "/uuid/start", "/uuid"]
        wait_until(lambda: "could not be sent" in project.log(), "a warning")
        assert "the heartbeat at 127.0.0.1 could not be sent: it answered 404" in project.log()
        assert "/uuid" not in project.log()
