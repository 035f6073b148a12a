"""Alerts of a daemon that is killed: at every record in between, and again and again
(guarantee: alerts). The long form, with a hundred kills:

    STACKSHIFT_LONG=1 pytest tests/crash/test_alerts.py
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from urllib.request import urlopen

import pytest

from helpers import scenery
from helpers.deadline import wait_until
from helpers.project import Json, Project
from helpers.project_factory import Make
from helpers.receiver import Receiver, receiver

IS_LONG = os.environ.get("STACKSHIFT_LONG") == "1"
KILLS = 100 if IS_LONG else 3
A_KILL = 3
"""Failures for each kill."""

JOBS = """
@stackshift.job("import", retry=ONCE)
def imports(ctx):
    raise ConnectionError("the shop does not answer")


def failing(name):
    @stackshift.job(name, retry=ONCE)
    def fails(ctx):
        raise ValueError(name)


for number in range(%d):
    failing(f"job-{number}")
"""


def config(server: Receiver, more: str = "") -> str:
    """A project that tells everything to `server`."""
    to = f'[notify.ops]\nto = "http://127.0.0.1:{server.port}/ops"\nrate = "10000/h"\n'
    return scenery.CONFIG + to + more


def failures(server: Receiver) -> Counter[str]:
    """How often each message about a failure has arrived, by its key."""
    return Counter(
        each.key for each in server.received if json.loads(each.body)["alert"] == "failed"
    )


def lines_of(project: Project) -> tuple[Path, list[bytes]]:
    """The journal's only file, and its lines."""
    [path] = sorted(Path(project.data_dir, "journal").glob("*.jsonl"))
    return path, path.read_bytes().splitlines(keepends=True)


def ends_of_appends(lines: list[bytes]) -> list[int]:
    """After how many lines an append is whole."""
    records: list[Json] = [json.loads(line) for line in lines]
    parts = [record.get("part") for record in records]
    return [n for n, part in enumerate(parts, 1) if part is None or part[0] == part[1]]


def test_message_is_sent_once_whatever_record_is_the_last(
    make_project: Make,
    tmp_path: Path,
) -> None:
    """From the failure to the end of the message, a daemon that finds the journal up to any append
    delivers the message once, if its delivery is not recorded; else not again."""
    with receiver() as server:
        project = make_project(JOBS % 0, config(server, 'on = ["failed"]\n'))
        project.start()
        run = project.finish(project.begin("import"))
        wait_until(lambda: len(server.received) == 1, "the message")
        [message] = project.call("run.list", parent=run["id"])["runs"]
        project.finish(message["id"])
        assert project.stop() == 0
        saved = tmp_path / "saved"
        shutil.copytree(project.data_dir, saved, ignore=shutil.ignore_patterns("attempts"))
        path, lines = lines_of(project)
        kinds = [json.loads(line).get("kind") for line in lines]
        failed = kinds.index("run.failed") + 1
        done = len(kinds) - kinds[::-1].index("step.completed")
        ended = len(kinds) - kinds[::-1].index("run.completed")
        cuts = [end for end in ends_of_appends(lines) if failed <= end <= ended]
        assert len(cuts) > 3
        for cut in cuts:
            shutil.rmtree(project.data_dir)
            shutil.copytree(saved, project.data_dir)
            path.write_bytes(b"".join(lines[:cut]))
            Path(project.data_dir, "witness.json").unlink()
            Path(project.data_dir, "history.db").unlink(missing_ok=True)
            server.received.clear()
            project.start()
            assert project.finish(message["id"])["status"] == "completed"
            assert failures(server) == ({} if cut >= done else {message["id"]: 1}), cut
            project.kill()


def test_each_failure_is_told_once_however_often_the_daemon_is_killed(make_project: Make) -> None:
    """Each failed run has one message, and each message arrives. One that arrives again was being
    delivered when a kill came between its delivery and the record of that: its key says so."""
    runs = KILLS * A_KILL
    with receiver() as server:
        project = make_project(JOBS % runs, config(server))
        project.start()
        begun = []
        for kill in range(KILLS):
            first = kill * A_KILL
            begun += [project.begin(f"job-{number}") for number in range(first, first + A_KILL)]
            wait_until(lambda first=first: len(failures(server)) > first, "a message")  # type: ignore[misc]
            project.kill()
            project.start()
        for run in begun:
            assert project.finish(run)["status"] == "failed"
        wait_until(lambda: len(failures(server)) >= runs, "all messages", 60.0)
        messages = {
            run: [each["id"] for each in project.call("run.list", parent=run)["runs"]]
            for run in begun
        }
        assert [run for run, found in messages.items() if len(found) != 1] == []
        assert failures(server).keys() == {found[0] for found in messages.values()}
        for found in messages.values():
            assert project.finish(found[0])["status"] == "completed"
        told = [
            r for r in project.journal() if r["kind"] == "alert.told" and r["alert"] == "failed"
        ]
        assert len(told) == runs
        project.verify()


def test_daemon_that_was_killed_is_told_of_by_the_next_one(make_project: Make) -> None:
    """With when it was there last. One that is asked to stop says so before it is gone."""
    with receiver() as server:
        project = make_project(JOBS % 0, config(server, 'quiet = "1s"\n'))
        project.start()
        project.kill()
        assert server.received == []
        project.start()
        wait_until(lambda: len(server.received) == 1, "the message")
        told = json.loads(server.received[0].body)
        assert (told["alert"], told["detail"]["reason"]) == ("daemon_stopped", "crashed")
        assert told["detail"]["last_at"] < told["detail"]["back_at"]
        wait_until(
            lambda: any(each["kind"] == "alert.closed" for each in project.journal()), "quiet"
        )
        assert project.stop() == 0
        assert json.loads(server.received[1].body)["detail"]["reason"] == "asked"
        project.start()
        assert len(server.received) == 2


def test_outside_heartbeat_is_silent_once_the_daemon_is_gone(make_project: Make) -> None:
    """Whoever watches hears nothing more from the moment of the kill."""
    with receiver() as server:
        beat = f'[heartbeat]\nurl = "http://127.0.0.1:{server.port}/beat"\nperiod = "1s"\n'
        project = make_project(JOBS % 0, scenery.CONFIG + beat)
        project.start()
        wait_until(lambda: server.paths.count("/beat") >= 3, "a few beats")
        project.kill()
        heard = len(server.received)
        # What was under way has arrived when the server answers somebody who comes after it.
        with urlopen(f"http://127.0.0.1:{server.port}/after", data=b"") as answer:
            assert answer.status == 200
        assert [path for path in server.paths[heard:] if path == "/beat"] in ([], ["/beat"])


@pytest.mark.parametrize("status", [404, 401])
def test_message_that_is_refused_for_good_is_in_the_dead_letter(
    make_project: Make, status: int
) -> None:
    """At once, where `status` counts it, and after a restart. A retry delivers it."""
    with receiver() as server:
        project = make_project(JOBS % 0, config(server))
        project.start()
        server.answers = [status]
        run = project.finish(project.begin("import"))
        [message] = project.call("run.list", parent=run["id"])["runs"]
        ended = project.finish(message["id"])
        assert (ended["status"], ended["dead"]) == ("failed", True)
        assert str(status) in ended["error"]["message"]
        project.kill()
        project.start()
        assert project.call("daemon.status")["undelivered"] == 1
        project.call("run.retry", run=message["id"])
        assert project.finish(message["id"])["status"] == "completed"
        assert project.call("daemon.status")["undelivered"] == 0
