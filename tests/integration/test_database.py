"""Projects whose journal is in PostgreSQL: daemons in two directories, as on two machines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.postgres import Postgres
from helpers.project import Project, environment, kinds
from helpers.project_factory import Make
from stackshift_jobs.errors import DaemonUnavailable, DatabaseUnavailable

pytestmark = pytest.mark.not_via(why="it says itself where its journal is")

JOBS = """
@stackshift.job("held", retry=Retry(max_attempts=5))
async def held(ctx):
    await ctx.step.run("before", note, "before", ctx.run_id)
    await ctx.state.increment("count")
    await ctx.step.run("held", agate, ctx.payload["gate"])
    await ctx.step.run("after", note, "after", ctx.run_id)
    return ctx.payload["gate"]
"""


@pytest.fixture
def both(make_project: Make, database: Postgres, tmp_path: Path) -> Iterator[list[Project]]:
    """One project in two directories, with one database."""
    config = (
        f'[project]\nname = "{tmp_path.name}"\n[workers]\nprocesses = 1\nslots = 4\ngrace = "1s"\n'
        f'inherit_env = ["PYTHONPATH"]\n[journal]\nurl = "{database.url}"\nlease = "1s"\n'
        'segment_size = "4KiB"\n'
    )
    listens = '[cluster]\nlisten = "127.0.0.1:0"\nhost ='
    made = [make_project(JOBS, f'{config}{listens} "app-{number}"\n') for number in (1, 2)]
    shutil.copytree(made[0].root / "jobs", made[1].root / "jobs", dirs_exist_ok=True)
    yield made


def segments(project: Project) -> dict[str, bytes]:
    """The files of its journal."""
    folder = project.data_dir / "journal"
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def cli(project: Project, *words: str) -> subprocess.CompletedProcess[str]:
    """What a command does."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "stackshift_cli", *words],
        cwd=project.root,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def told(project: Project, *words: str) -> Any:
    """What a command that succeeds prints as JSON."""
    done = cli(project, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def leads(project: Project) -> bool:
    """Does its daemon lead? A takeover breaks the connections of its clients."""
    with suppress(DaemonUnavailable):
        return bool(project.call("daemon.status")["role"] == "leads")
    return False


def test_another_machine_goes_on_when_the_first_is_gone(both: list[Project]) -> None:
    """What was recorded is there and is not done again; the run that was under way goes on; the
    first directory becomes a copy of what the second one has done since (guarantee: shared
    journal)."""
    first, second = both
    first.start()
    run = first.begin("held", {"gate": "g"}, idempotency_key="once")
    first.at("g")
    assert "follows" in second.start()["notes"][0]
    listed = cli(second, "runs", "list")
    assert listed.stdout.startswith(f"{run}\trunning\theld"), listed.stderr
    first.kill()
    wait_until(lambda: leads(second), "the other one to lead")
    assert second.begin("held", {"gate": "g"}, idempotency_key="once") == run
    second.at("g")
    second.open("g")
    seen = second.finish(run)
    assert (seen["result"], kinds(seen, "attempt.lost")) == ("g", ["attempt.lost"])
    assert f"before {run}" in first.witness()
    assert f"before {run}" not in second.witness()
    assert second.call("state.get", key="count")["value"] == 1
    workers = [each["worker"] for each in seen["timeline"] if "worker" in each]
    assert [worker.partition("/")[0] for worker in workers] == ["app-1", "app-2"]
    assert second.call("run.logs", run=run)["elsewhere"] == ["app-1"]
    told_logs = cli(second, "runs", "logs", run)
    assert "note: app-1 does not answer: what it printed there is missing" in told_logs.stderr
    assert "follows" in first.start()["notes"][0]
    status = told(first, "cluster", "status")
    assert [each["role"] for each in status["members"]] == ["follows", "leads"]
    assert (int(status["server"].partition(".")[0]) >= 14, status["synchronous"]) == (True, None)
    assert second.stop() == 0
    wait_until(lambda: leads(first), "the first one to lead")
    assert first.get(run)["result"] == "g"
    assert first.stop() == 0
    second.start()
    assert second.stop() == 0
    ours = b"".join(segments(first).values())
    assert b"".join(segments(second).values()).startswith(ours)
    first.verify()
    second.verify()


def test_follower_of_records_loses_none_when_the_lead_moves(both: list[Project]) -> None:
    """On either machine, by a handover and by the death of the leader: each record once, in
    order."""
    first, second = both
    first.start()
    second.start()
    tails = [tail(project) for project in both]
    for _, heard in tails:
        wait_until(heard, "the first records to be heard of")
    for number, (old, new) in enumerate(((first, second), (second, first))):
        if old is first:
            new.call("cluster.handover")
        else:
            old.kill()
        wait_until(partial(leads, new), "the other one to lead")
        if old is second:
            old.start()
        for more in range(5):
            new.call("state.set", key=f"k{number}{more}", value=more)
    last = first.call("journal.stats")["last_seq"]
    kept = {record["seq"] for record in first.journal() if record["kind"] == "state.set"}
    assert len(kept) == 10
    for process, heard in tails:
        wait_until(partial(up_to, heard, last), "all records to be heard of")
        process.terminate()
        process.wait()
        seqs = [record["seq"] for record in heard()]
        assert seqs == sorted(set(seqs))
        assert kept <= set(seqs)


def tail(project: Project) -> tuple[subprocess.Popen[bytes], Callable[[], list[Any]]]:
    """`runs tail` in the background, and what it has printed."""
    file = project.root / "tail.jsonl"
    words = ("runs", "tail", "--since", "1h", "--json")
    with file.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stackshift_cli", *words],
            cwd=project.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.DEVNULL,
        )
    return process, lambda: [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def up_to(heard: Callable[[], list[Any]], seq: int) -> bool:
    """Has the record `seq` been heard of?"""
    records = heard()
    return bool(records) and records[-1]["seq"] >= seq


def test_directory_that_was_lost_is_made_anew(both: list[Project]) -> None:
    """Journal, snapshots, lists and state: all of it is in the database."""
    project = both[0]
    project.start()
    runs = []
    for number in range(5):
        gate = f"g{number}"
        project.open(gate)
        runs.append(project.begin("held", {"gate": gate}))
    for run in runs:
        project.finish(run)
    project.call("journal.compact")
    assert project.stop() == 0
    before = segments(project)
    shutil.rmtree(project.data_dir)
    project.start()
    listed = project.call("run.list", limit=50)["runs"]
    assert [run["id"] for run in listed] == runs[::-1]
    assert project.call("state.get", key="count")["value"] == 5
    after = segments(project)
    assert all(after[name].startswith(data) for name, data in before.items())
    assert project.stop() == 0
    project.verify()


def test_database_that_stands_still_is_waited_for(both: list[Project], database: Postgres) -> None:
    """Clients are refused with 75 meanwhile; then everything goes on, in the same attempt."""
    project = both[0]
    project.start()
    run = project.begin("held", {"gate": "g"})
    project.at("g")
    database.freeze(signal.SIGSTOP)
    try:
        project.open("g")

        def refused() -> bool:
            try:
                project.call("run.get", run=run)
            except DatabaseUnavailable:
                return True
            return False

        wait_until(refused, "reads to be refused")
        done = cli(project, "state", "set", "k", "1")
        assert done.returncode == 75
        assert "error[database_unavailable]" in done.stderr
    finally:
        database.freeze(signal.SIGCONT)
    seen = project.finish(run)
    assert (seen["result"], kinds(seen, "attempt.lost")) == ("g", [])
    assert project.witness().count(f"after {run}") == 1
    assert project.stop() == 0
    project.verify()


def test_daemon_that_starts_again_waits_for_the_database(
    both: list[Project], database: Postgres
) -> None:
    """As it does when an append was not answered for too long; one that a person starts says so."""
    project = both[0]
    database.stop()
    refused = cli(project, "daemon", "start")
    assert refused.returncode == 75
    assert "error[database_unavailable]" in refused.stderr
    process, ready = project.launch([*project.command(), "--restarted-at", "1"])
    wait_until(lambda: "waiting for the database" in project.log(), "it to wait")
    database.start()
    project.adopt(process, ready)
    assert project.call("daemon.status")["database"]["answers"]
    assert project.stop() == 0


def test_journal_moves_into_the_database_and_back(both: list[Project], database: Postgres) -> None:
    """The same bytes in both, and at each time one of them that a daemon starts from."""
    project = both[0]
    config = project.root / "stackshift.toml"
    shared = config.read_text()
    config.write_text(shared.replace(f'url = "{database.url}"\n', ""))
    project.start()
    project.open("g")
    run = project.begin("held", {"gate": "g"})
    project.finish(run)
    assert project.stop() == 0
    files = segments(project)
    meant = told(project, "journal", "move", "--to", database.url, "--dry-run")
    assert meant["bytes"] == sum(map(len, files.values()))
    assert told(project, "journal", "move", "--to", database.url, "--yes") == meant
    assert segments(project) == files
    refused = cli(project, "daemon", "start")
    assert refused.returncode == 78
    assert "is a copy of the journal in postgresql://" in refused.stderr
    assert "is a copy" in cli(project, "journal", "repair", "--yes").stderr
    config.write_text(shared)
    shutil.rmtree(project.data_dir)
    project.start()
    assert project.get(run)["result"] == "g"
    again = project.begin("held", {"gate": "g"})
    project.finish(again)
    assert project.stop() == 0
    moved = told(project, "journal", "move", "--to", "files", "--yes")
    assert moved["journal"] == meant["journal"]
    refused = cli(project, "daemon", "start")
    assert "holds a journal of its own" in refused.stderr
    refused = cli(both[1], "daemon", "start")
    assert refused.returncode == 78
    assert "was moved to files" in refused.stderr
    config.write_text(shared.replace(f'url = "{database.url}"\n', ""))
    project.start()
    assert {run, again} == {each["id"] for each in project.call("run.list")["runs"]}
    assert project.stop() == 0
    project.verify()


def test_database_that_was_restored_gets_back_what_it_has_lost(
    both: list[Project], database: Postgres
) -> None:
    """Until then nothing starts; afterwards all is there, and the other machine goes on from it."""
    first, second = both
    first.start()
    runs = []
    for number in range(3):
        first.open(f"g{number}")
        runs.append(first.begin("held", {"gate": f"g{number}"}))
        first.finish(runs[-1])
    assert first.stop() == 0
    last = first.journal()[-1]["seq"]
    database.sql("DELETE FROM stackshift_log WHERE last_seq > 10")
    refused = cli(first, "daemon", "start")
    assert refused.returncode == 78
    assert "stackshift journal move --rescue" in refused.stderr
    meant = told(first, "journal", "move", "--rescue", "--dry-run")
    assert meant["last"] == last
    assert cli(first, "journal", "move", "--rescue", "--to", "files").returncode == 2
    assert told(first, "journal", "move", "--rescue", "--yes") == meant
    assert cli(first, "journal", "move", "--rescue", "--yes").returncode == 5
    second.start()
    assert {each["id"] for each in second.call("run.list")["runs"]} == set(runs)
    assert second.stop() == 0
    second.verify()


def test_move_that_was_killed_is_done_by_the_same_command(
    both: list[Project], database: Postgres
) -> None:
    """Between any two of its changes; and until then the files are the journal."""
    project = both[0]
    config = project.root / "stackshift.toml"
    shared = config.read_text()
    config.write_text(shared.replace(f'url = "{database.url}"\n', ""))
    project.start()
    assert project.stop() == 0
    for number in range(1, 40):
        killed = subprocess.run(
            [sys.executable, "-P", "-c", DIES, str(number), str(project.root)],
            env=environment() | {"STACKSHIFT_JOURNAL_URL": database.url},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert killed.returncode in (0, -signal.SIGKILL), killed.stderr.decode()
        if killed.returncode == 0:
            break
    else:
        raise AssertionError("it is killed each time")
    assert number > 3
    config.write_text(shared)
    project.start()
    assert project.call("daemon.status")["database"]["term"] > 0
    assert project.stop() == 0
    project.verify()


DIES = """
import asyncio, os, signal, sys
from pathlib import Path
from stackshiftd import journal_verbs
from stackshiftd.journal import filesystem
from stackshiftd.journal.shared import postgres_log

left = [int(sys.argv[1])]

def dying(function):
    def called(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return called

for name in ("rename", "unlink"):
    setattr(filesystem.RealFileSystem, name, dying(getattr(filesystem.RealFileSystem, name)))
for name in ("one", "run", "together"):
    setattr(postgres_log._Line, name, dying(getattr(postgres_log._Line, name)))
sys.exit(journal_verbs.move(Path(sys.argv[2]), "database"))
"""


def test_settings_that_cannot_be_kept_are_refused(make_project: Make, database: Postgres) -> None:
    """A password in a file that others read; a durability that the database decides."""
    url = database.url
    with_password = url.replace("postgres@", "postgres:secret@")
    project = make_project(JOBS, f'[journal]\nurl = "{with_password}"\n')
    done = cli(project, "config", "show")
    assert done.returncode == 78
    assert "has a password" in done.stderr
    assert "secret" not in done.stderr
    (project.root / "stackshift.toml").write_text(
        f'[journal]\nurl = "{url}"\ndurability = "interval"\n'
    )
    done = cli(project, "config", "show")
    assert (done.returncode, "each append durable" in done.stderr) == (78, True)
    (project.root / "stackshift.toml").write_text("")
    environ = os.environ | {"STACKSHIFT_JOURNAL_URL": with_password}
    shown = subprocess.run(
        [sys.executable, "-P", "-m", "stackshift_cli", "config", "get", "journal.url"],
        cwd=project.root,
        env=environment() | environ | {"PYTHONPATH": environment()["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert shown.stdout.strip() == url
