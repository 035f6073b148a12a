"""Workers on other hosts: a host here is a command that runs the keeper on this machine, with a
cache of its own, as `ssh` would elsewhere."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from helpers.deadline import wait_until
from helpers.inner_daemon import InsideDaemon
from helpers.processes import wait_gone
from helpers.project import Project, kinds, steps
from helpers.project_factory import Make
from stackshiftd.core.state.state import MOST_DEATHS
from stackshiftd.shell.tuning import Tuning

JOBS = """
import logging

@stackshift.job("where", queue="far")
def where(ctx):
    print("begins")
    logging.getLogger("shop").warning("careful")
    place = ctx.step.run("look", lambda: (print("in a step"), os.getcwd())[1])
    ctx.step.command("program", ["sh", "-c", "echo from a program"])
    ctx.step.sleep("nap", "300ms")
    print("ends")
    return {"place": place, "env": dict(os.environ), "pid": os.getpid()}


@stackshift.job("near")
async def near(ctx):
    return await ctx.step.call("where", {})


@stackshift.job("held", queue="far", retry=Retry(max_attempts=5, backoff="10ms"))
def held(ctx):
    print("it holds")
    ctx.step.run("first", note, "first", ctx.run_id)
    ctx.step.run("held", gate, ctx.payload["gate"])
    ctx.step.run("next", note, "next", ctx.run_id)
    return os.getpid()


@stackshift.job("program", queue="far", retry=Retry(max_attempts=5, backoff="10ms"))
def program(ctx):
    if is_open("mended"):
        return "mended"
    ctx.step.command("long", ["sh", "-c", f"echo $$ > {ROOT}/program-{ctx.attempt}; sleep 600"])


@stackshift.job("measures", queue="far")
def measures(ctx):
    key = ctx.payload["key"].reveal()
    print("it is", key)
    return ctx.step.run("measure", len, key)


@stackshift.job("spells", queue="far")
def spells(ctx):
    return ctx.payload["key"]
"""


def hosts(root: Path, more: str = "", *, code: str = "") -> str:
    """Settings that put the queue `far` on the host `box`, whose cache is in `root`."""
    directory = f'code = "{code}"\n' if code else ""
    return (
        '[workers]\nprocesses = 1\nslots = 4\ngrace = "1s"\n'
        'inherit_env = ["PYTHONPATH"]\n[queues.far]\nhosts = ["box"]\n'
        f'[hosts.box]\ncommand = ["env", "XDG_CACHE_HOME={root}/cache"]\n'
        f'python = "{sys.executable}"\n{directory}{more}\n'
    )


@pytest.fixture
def far(make_project: Make, tmp_path: Path) -> Project:
    """A project whose code is sent to its host."""
    return make_project(JOBS, hosts(tmp_path))


@pytest.fixture
def beside(make_project: Make, tmp_path: Path) -> Project:
    """A project whose host uses the code where it is, so that its jobs share notes and gates."""
    return make_project(JOBS, hosts(tmp_path, code=str(tmp_path / "p0")))


def host(project: Project) -> dict[str, Any]:
    """What the daemon says of the host."""
    [one] = project.call("daemon.status")["hosts"]
    assert isinstance(one, dict)
    return one


def worker(project: Project) -> psutil.Process:
    """The worker on the host, a child of its keeper."""

    daemon = project.executing

    def found() -> psutil.Process | None:
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                words = process.cmdline()
                parent = process.parent()
                if (
                    "--fd" in words
                    and parent is not None
                    and "stackshiftd.keeper" in parent.cmdline()
                ):
                    above = parent.parent()
                    if above is not None and above.pid == daemon:
                        return process
        return None

    return wait_until(found, "a worker on the host") or psutil.Process()


def keeper(project: Project) -> psutil.Process:
    """The keeper of that worker."""
    found = worker(project).parent()
    assert found is not None
    return found


def lines(project: Project, run: str) -> list[str]:
    """What is in the run's log."""
    return [line["message"] for line in project.call("run.logs", run=run)["lines"]]


def edit(project: Project) -> None:
    """Let `spells` say the key three times."""
    module = project.root / "jobs" / "story.py"
    before = 'return ctx.payload["key"]\n'
    module.write_text(module.read_text().replace(before, before.strip() + " * 3\n"))


def test_runs_of_a_queue_execute_on_its_host(far: Project, tmp_path: Path) -> None:
    """In the code that was sent there, by a worker that is named after the host; what they and
    their programs print is in the run's log here, once though the handler was replayed."""
    far.start()
    run = far.finish(far.begin("where"))
    place = Path(run["result"]["place"])
    assert place.parent == tmp_path / "cache" / "stackshift" / "code"
    assert (place / "jobs" / "story.py").read_text() == (far.root / "jobs/story.py").read_text()
    begun = [record for record in run["timeline"] if record["kind"] == "attempt.started"]
    assert begun[0]["worker"].startswith("box/w")
    assert lines(far, run["id"]) == ["begins", "careful", "in a step", "from a program", "ends"]
    told = host(far)
    assert told["problem"] is None
    assert told["workers"] == [begun[0]["worker"]]
    wait_until(lambda: host(far)["round_trip_ms"] is not None, "a pulse to be answered")
    child = far.finish(far.begin("near"))
    assert child["result"]["pid"] == run["result"]["pid"] != far.workers()[0]
    assert far.stop() == 0


def test_what_a_far_handler_prints_is_seen_at_once(beside: Project) -> None:
    """While it still executes."""
    beside.start()
    run = beside.begin("held", {"gate": "g"})
    beside.at("g")
    assert lines(beside, run) == ["it holds"]
    beside.open("g")
    assert beside.finish(run)["status"] == "completed"


def test_far_worker_has_the_variables_of_the_settings(make_project: Make, tmp_path: Path) -> None:
    """And none in the arguments of any command, where all users see them."""
    project = make_project(JOBS, hosts(tmp_path))
    (project.root / "env").write_text("API_KEY=a-very-secret-key\n")
    config = (project.root / "stackshift.toml").read_text()
    (project.root / "stackshift.toml").write_text('[project]\nenv_file = "env"\n' + config)
    project.start()
    found = project.finish(project.begin("where"))["result"]["env"]
    assert found["API_KEY"] == "a-very-secret-key"
    assert found["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    words = [*worker(project).cmdline(), *keeper(project).cmdline()]
    assert not [word for word in words if "secret" in word]
    secret = project.finish(project.begin("measures", {"key": {"$env": "API_KEY"}}))
    assert secret["result"] == len("a-very-secret-key"), secret["error"]
    assert "a-very-secret-key" not in json.dumps(secret)
    assert lines(project, secret["id"]) == ["it is [secret $env API_KEY]"]


@pytest.mark.parametrize("victim", ["worker", "keeper"])
def test_run_goes_on_after_its_far_worker_was_killed(beside: Project, victim: str) -> None:
    """Its recorded steps do not run again; the attempt is not used up."""
    beside.start()
    run = beside.begin("held", {"gate": "g"})
    beside.at("g")
    process = worker(beside) if victim == "worker" else keeper(beside)
    process.kill()
    beside.at("g", times=2)
    beside.open("g")
    seen = beside.finish(run)
    assert seen["status"] == "completed"
    assert beside.witness().count(f"first {run}") == 1
    assert "attempt.lost" in kinds(seen)
    assert steps(seen)["held"]["status"] == "completed"


@pytest.mark.parametrize("victim", ["worker", "keeper", "daemon"])
def test_programs_on_a_host_end_with_their_worker(beside: Project, victim: str) -> None:
    """Whatever of the chain is killed."""
    beside.start()
    beside.begin("program")
    file = beside.root / "program-1"
    wait_until(lambda: file.exists() and file.read_text().strip(), "the program to begin")
    pid = int(file.read_text())
    far = [worker(beside).pid, keeper(beside).pid]
    beside.open("mended")
    if victim == "daemon":
        beside.kill()
        wait_gone([pid, *far], "all that the daemon had there")
        return
    os.kill(far[0] if victim == "worker" else far[1], signal.SIGKILL)
    wait_gone([pid, *far], "the program and its worker")


def test_frozen_host_is_given_up_and_ends_by_itself(beside: Project) -> None:
    """Its runs go on elsewhere; when it comes back, it finds out and changes nothing."""
    inside = InsideDaemon(beside, Tuning(host_silence=2.0, host_given_up=3.0))
    try:
        run = beside.begin("held", {"gate": "g"})
        beside.at("g")
        frozen = [worker(beside), keeper(beside)]
        for process in frozen:
            process.suspend()
        # Killing the command is all that a daemon can do to a host that does not answer; here that
        # would kill the keeper itself, which elsewhere goes on.
        beside.at("g", times=2)
        beside.open("g")
        seen = beside.finish(run)
        assert seen["status"] == "completed"
        assert [r["reason"] for r in seen["timeline"] if r["kind"] == "attempt.lost"] == [
            "box has not answered for 3 s"
        ]
        for process in frozen:
            with suppress(psutil.NoSuchProcess):
                process.resume()
        wait_gone([process.pid for process in frozen], "the frozen worker and its keeper")
        assert beside.witness().count(f"next {run}") == 1
    finally:
        assert inside.close() is None


def test_connection_that_ends_is_no_fault_of_the_run(beside: Project) -> None:
    """A run is not given up for it, however often it happens; a worker that dies counts."""
    inside = InsideDaemon(beside, Tuning(host_settles=0.0))
    try:
        run = beside.begin("held", {"gate": "g"})
        for times in range(1, MOST_DEATHS + 2):
            beside.at("g", times=times)
            keeper(beside).kill()
        beside.at("g", times=MOST_DEATHS + 2)
        worker(beside).kill()
        beside.at("g", times=MOST_DEATHS + 3)
        beside.open("g")
        seen = beside.finish(run)
        assert seen["status"] == "completed", seen["error"]
        lost = [each for each in seen["timeline"] if each["kind"] == "attempt.lost"]
        assert [each.get("ours", True) for each in lost] == [*[True] * (MOST_DEATHS + 1), False]
    finally:
        assert inside.close() is None


def test_reload_sends_the_new_code(far: Project) -> None:
    """New runs have it; what lies there is the code of both."""
    far.start()
    first = far.finish(far.begin("spells", {"key": "a"}))
    assert first["result"] == "a"
    module = far.root / "jobs" / "story.py"
    module.write_text(
        module.read_text().replace('return ctx.payload["key"]', 'return ctx.payload["key"] * 3')
    )
    assert far.call("daemon.reload")["loaded"]
    again = far.finish(far.begin("spells", {"key": "a"}))
    assert again["result"] == "aaa"
    assert host(far)["problem"] is None


def test_worker_that_is_replaced_gets_the_code_of_the_others(far: Project) -> None:
    """A file that was edited and not reloaded is not sent."""
    far.start()
    far.finish(far.begin("spells", {"key": "a"}))
    module = far.root / "jobs" / "story.py"
    module.write_text(
        module.read_text().replace('return ctx.payload["key"]', 'return ctx.payload["key"] * 3')
    )
    keeper(far).kill()
    assert far.finish(far.begin("spells", {"key": "a"}))["result"] == "a"


def test_host_with_other_code_gets_no_work_until_it_has_ours(
    make_project: Make, tmp_path: Path
) -> None:
    """What others deploy there is looked at again and again; `why` says what is missing."""
    there = tmp_path / "there"
    project = make_project(JOBS, hosts(tmp_path, code=str(there)))
    (there / "jobs").mkdir(parents=True)
    for file in (project.root / "jobs").iterdir():
        if file.is_file():
            (there / "jobs" / file.name).write_text(file.read_text())
    story = there / "jobs" / "story.py"
    text = story.read_text()
    story.write_text(text.replace('ctx.payload["key"]', '"other"'))
    inside = InsideDaemon(project, Tuning(outdated_seconds=1.0, respawn_first=0.01))
    try:
        run = project.begin("spells", {"key": "ours"})
        wait_until(lambda: host(project)["problem"], "the difference to be seen")
        why = project.call("run.why", run=run)
        assert why["why_code"] == "host_unreachable"
        assert "is not that of the project" in why["why"]
        story.write_text(text)
        assert project.finish(run)["result"] == "ours"
        assert host(project)["problem"] is None
    finally:
        assert inside.close() is None


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ('python = "/no/such/python"', "/no/such/python"),
        ('code = "/no/such/directory"', "there is no directory /no/such/directory"),
        (
            'prepare = ["sh", "-c", "echo no network >&2; exit 3"]',
            "ended with status 3: no network",
        ),
        ('send = ["nothing"]', "nothing is to be sent to hosts, and is not there"),
        ('command = ["/no/such/ssh"]', "/no/such/ssh"),
    ],
)
def test_host_that_cannot_be_used_says_why_and_slows_nobody(
    make_project: Make, tmp_path: Path, setting: str, words: str
) -> None:
    """In `daemon status`, in `why` and in the log; runs of other queues go on."""
    config = hosts(tmp_path)
    name = setting.partition(" ")[0]
    kept = [line for line in config.splitlines() if not line.startswith(f"{name} = ")]
    project = make_project(
        JOBS + '\n@stackshift.job("here")\ndef here(ctx):\n    return 1\n',
        "\n".join([*kept, setting, ""]),
    )
    project.start()
    run = project.begin("where")
    wait_until(lambda: host(project)["problem"], "the problem to be known")
    assert words in host(project)["problem"]
    why = project.call("run.why", run=run)
    assert why["why_code"] == "host_unreachable"
    assert words in why["why"]
    assert words in project.log()
    assert project.finish(project.begin("here"))["result"] == 1
    assert project.stop() == 0


def status_of(project: Project) -> str:
    """How the host is."""
    [host] = project.call("daemon.status")["hosts"]
    return str(host["status"])


def test_code_is_prepared_once(make_project: Make, tmp_path: Path) -> None:
    """In its directory, before the first worker, which is told while it goes on; a second one finds
    it prepared."""
    gate = tmp_path / "gate"
    script = f"until test -e {gate}; do sleep 0.02; done; pwd >> prepared"
    project = make_project(JOBS, hosts(tmp_path, f'prepare = ["sh", "-c", "{script}"]'))
    project.start()
    wait_until(lambda: status_of(project) == "preparing", "the preparation to be told")
    gate.touch()
    wait_until(lambda: status_of(project) == "serving", "the host to serve")
    place = Path(project.finish(project.begin("where"))["result"]["place"])
    keeper(project).kill()
    assert project.finish(project.begin("where"))["status"] == "completed"
    assert (place / "prepared").read_text().splitlines() == [str(place)]


def test_far_worker_that_outgrows_its_memory_is_replaced(
    make_project: Make, tmp_path: Path
) -> None:
    """Its size is that of the process there, not that of the command here."""
    config = hosts(tmp_path).replace("[queues", 'max_memory = "16MiB"\n[queues')
    project = make_project(JOBS, config)
    project.start()
    first = project.finish(project.begin("where"))["result"]["pid"]

    def replaced() -> bool:
        return bool(project.finish(project.begin("where"))["result"]["pid"] != first)

    wait_until(replaced, "another worker")
    assert "bytes of memory" in project.log()


def test_project_whose_workers_are_all_on_hosts(make_project: Make, tmp_path: Path) -> None:
    """It knows its jobs all the same, and loads them again; no worker stays on this machine."""
    config = hosts(tmp_path).replace("[workers]", '[workers]\nhosts = ["box"]')
    project = make_project(JOBS, config)
    project.start()
    assert project.finish(project.begin("near"))["status"] == "completed"
    module = project.root / "jobs" / "story.py"
    module.write_text(
        module.read_text().replace('return ctx.payload["key"]', 'return ctx.payload["key"] * 3')
    )
    assert project.call("daemon.reload")["loaded"]
    assert project.finish(project.begin("spells", {"key": "a"}))["result"] == "aaa"

    def ids() -> set[str]:
        return {each["id"].split("/")[0] for each in project.call("daemon.status")["workers"]}

    wait_until(lambda: ids() == {"box"}, "the worker that loaded the code to end")
    assert project.stop() == 0


@pytest.mark.parametrize(
    "first",
    ["echo Welcome to box", "exec 2>&-", "printf 'no end of line\\n'; echo; echo more >&2"],
)
def test_shell_that_has_something_to_say_is_no_obstacle(
    make_project: Make, tmp_path: Path, first: str
) -> None:
    """What start-up files print comes before the first frame; it is in the log."""
    config = hosts(tmp_path).splitlines()
    [at] = [n for n, line in enumerate(config) if line.startswith("command = ")]
    script = f'{first}; exec env XDG_CACHE_HOME={tmp_path}/cache "$0" "$@"'
    config[at] = f"command = {json.dumps(['sh', '-c', script])}"
    project = make_project(JOBS, "\n".join(config) + "\n")
    project.start()
    assert project.finish(project.begin("where"))["status"] == "completed"
    if "Welcome" in first:
        assert "Welcome to box" in project.log()
    assert psutil.Process(project.executing).cpu_percent(0.3) < 50


@pytest.mark.parametrize("nonsense", ["no frame", '{"type":"Host.Alive","number":"seven"}', "{}"])
def test_host_that_sends_nonsense_is_given_up(
    make_project: Make, tmp_path: Path, nonsense: str
) -> None:
    """It says so, and hurts nobody."""
    keeper = tmp_path / "keeper"
    opened = '{"type":"Host.Opened","protocol":1,"version":"0","name":"x","python":"p"}'
    keeper.write_text(f"#!/bin/sh\nread open\necho '{opened}'\necho '{nonsense}'\nexec sleep 600\n")
    keeper.chmod(0o755)
    config = [line for line in hosts(tmp_path).splitlines() if not line.startswith("command")]
    project = make_project(JOBS, "\n".join([*config, f'command = "{keeper}"', ""]))
    project.start()
    wait_until(lambda: host(project)["problem"], "the problem to be known")
    assert "what comes from there makes no sense" in host(project)["problem"]
    assert project.stop() == 0


def test_much_code_is_sent_in_parts(make_project: Make, tmp_path: Path) -> None:
    """And all of it arrives; the daemon answers meanwhile."""
    project = make_project(JOBS, hosts(tmp_path))
    table = os.urandom(20 << 20)
    (project.root / "jobs" / "table.bin").write_bytes(table)
    project.start()
    run = project.begin("where")
    assert project.call("run.get", run=run)["status"] in ("queued", "running", "waiting")
    place = Path(project.finish(run)["result"]["place"])
    assert (place / "jobs" / "table.bin").read_bytes() == table


SCRIPT = """#!/bin/sh
# stackshift: job carries  queue far
set -eu
n=$(stackshift step count -- sh -c 'echo x >> counted; wc -l < counted')
stackshift sleep a-while 3s
echo "again $n, $(stackshift state increment passes)"
stackshift step daemon -- sh -c 'stackshift state get passes || echo "exit $?"'
"""


def test_script_runs_on_the_host_and_its_calls_are_recorded_here(
    make_project: Make, tmp_path: Path
) -> None:
    """Steps, waits and state go by its worker; a program of a step finds no daemon there, and
    starts none."""
    project = make_project(JOBS, hosts(tmp_path))
    script = project.root / "jobs" / "carries.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    project.start()
    run = project.begin("carries")
    assert project.finish(run)["status"] == "completed"
    told = lines(project, run)
    assert told[:2] == ["1", "again 1, 1"]
    assert told[-1] in ("exit 3", "exit 78")
    assert project.call("state.get", key="passes")["value"] == 1
    assert not (project.root / "counted").exists()
