"""A plain `start`, `state get` or `event send` is fast because of the modules it does not load."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, record, run_object

SLOW = set(
    """
    typer click rich platformdirs pydantic dataclasses inspect tomllib msgspec asyncio subprocess
    stackshiftd stackshift_cli.commands.catalogue stackshift_cli.commands.typer_app
    stackshift_jobs.values.strict_json stackshift_jobs.project.config
    stackshift_jobs.values.durations stackshift_jobs.client.blocking
    """.split()
)

MIDDLING = set("collections contextlib enum functools importlib json re socket typing".split())
"""What a third of a `start` was spent on."""


def loaded(shell: Shell, *argv: str) -> set[str]:
    """The modules that `stackshift ARGV` has loaded when it ends. Run without `site`, which loads
    some of its own in an editable install."""
    script = (
        f"import sys; sys.argv[1:] = {list(argv)!r}\n"
        "from stackshift_cli import main\nstatus = main()\n"
        "print(*sys.modules, file=sys.stderr)\nsys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", script],
        capture_output=True,
        cwd=shell.directory,
        env=shell.env,
        check=True,
        text=True,
    )
    assert done.stdout.strip()
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    "argv",
    [
        ["start", "hello"],
        ["-q", "start", "hello", "-p", '{"a": [1, 2.5, "x"]}', "-F", "b=c", "-F", "d:=1"],
        [
            "start",
            "hello",
            "--queue",
            "q",
            "--idempotency-key=k",
            "--label",
            "a=b",
            "--priority",
            "3",
        ],
        ["state", "get", "k", "--default", "0"],
        ["state", "get", "k", "--default", "x", "--raw"],
        ["--json", "state", "set", "k", '{"a": 1}', "--if-version", "0"],
        ["state", "set", "k", "text", "--if-absent"],
        ["state", "increment", "k", "--by=2"],
        ["event", "send", "paid", "-F", "a=b", "--correlation-key", "o:1"],
    ],
)
def test_plain_command_loads_nothing_slow(shell: Shell, argv: list[str]) -> None:
    """Neither Typer nor Rich, nor any other module that takes longer to load than the request."""
    assert not loaded(shell, *argv) & (SLOW | MIDDLING)


COMMON = """
    stackshift_cli
    stackshift_cli.arguments
    stackshift_cli.commands
    stackshift_cli.commands.small_parser
    stackshift_cli.commands.spec
    stackshift_cli.daemon
    stackshift_cli.daemon.connection
    stackshift_cli.daemon.session
    stackshift_cli.errors
    stackshift_cli.exit
    stackshift_cli.fast_path
    stackshift_cli.flows
    stackshift_cli.flows.start_params
    stackshift_cli.output
    stackshift_cli.output.effects
    stackshift_cli.output.messages
    stackshift_cli.output.streams
    stackshift_cli.user_config
    stackshift_jobs
    stackshift_jobs.errors
    stackshift_jobs.project
    stackshift_jobs.project.discovery
    stackshift_jobs.project.locate
    stackshift_jobs.project.toml
    stackshift_jobs.project.trust
    stackshift_jobs.values
    stackshift_jobs.values.json_text
    stackshift_jobs.values.limits
    stackshift_jobs.version
    stackshift_jobs.wire
    stackshift_jobs.wire.bare_socket
    stackshift_jobs.wire.jsonrpc
    stackshift_jobs.wire.peer
    stackshift_jobs.wire.script
    stackshift_jobs.wire.unavailable
    stackshift_jobs.wire.unix_socket
    """.split()
STANDARD = {"__future__", "_json", "_socket", "errno", "gc", "select"}
"""All that they load of the standard library, on top of what Python loads for itself: no `re`,
`enum`, `typing`, `json` or `socket`, of which each takes longer than all of ours."""


@pytest.mark.usefixtures("daemon")
@pytest.mark.parametrize(
    ("argv", "own"),
    [
        (["start", "hello"], ["stackshift_cli.flows.start"]),
        (["start", "hello", "-p", '{"a": [1, 2.5, "x"]}'], ["stackshift_cli.flows.start"]),
        (
            ["state", "get", "k", "--default", "x"],
            ["stackshift_cli.verbs", "stackshift_cli.verbs.state"],
        ),
    ],
)
def test_modules_of_the_commands_of_loops_are_these(
    shell: Shell, argv: list[str], own: list[str]
) -> None:
    """Their number is their time: nine tenths of it are imports. One that is added here should be
    worth its tenth of a millisecond in each turn of a shell loop."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", "import os, sys; print(*sys.modules)"],
        capture_output=True,
        env=shell.env,
        check=True,
        text=True,
    )
    modules = loaded(shell, *argv) - set(done.stdout.split())
    ours = {name for name in modules if name.startswith("stackshift")}
    assert ours == {*COMMON, *own}
    assert modules - ours <= STANDARD


AUDITED = """
import sys
def note(event, args):
    is_file = event == "open" and isinstance(args[0], str) and not args[0].endswith(".pyc")
    if is_file or event.startswith("socket."):
        print(event, *(a for a in args if isinstance(a, str)), file=sys.stderr)
sys.addaudithook(note)
from stackshift_cli import main
sys.exit(main())
"""


def test_start_opens_three_files_and_connects_once(shell: Shell, daemon: FakeDaemon) -> None:
    """The user's settings (there are none), the project's and `daemon.json`; then it is one
    request."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", AUDITED, "start", "hello"],
        capture_output=True,
        cwd=shell.directory,
        env=shell.env,
        check=True,
        text=True,
    )
    data_dir = shell.directory / ".stackshift"
    assert done.stderr.splitlines() == [
        f"open {shell.env['HOME']}/.config/stackshift/config.toml r",
        f"open {shell.env['HOME']}/Library/Application Support/stackshift/config.toml r",
        f"open {shell.directory}/stackshift.toml r",
        f"open {data_dir}/daemon.json r",
        "socket.__new__",
        f"socket.connect {data_dir}/daemon.sock",
    ]
    assert [method for method, _ in daemon.requests] == ["run.start"]


HEAVY = SLOW - {"stackshift_cli.commands.catalogue", "stackshift_jobs.values.durations"}


@pytest.mark.usefixtures("finished")
@pytest.mark.parametrize(
    "line",
    [
        "runs list",
        "runs list --json --status completed",
        "runs show @last",
        "runs show @last --json",
        "runs why @last",
        "runs wait @last",
        "start hello --wait",
        "queues list",
        "daemon status",
        "daemon status --json",
        "jobs list",
        "schedules next",
        "--version",
        "--help",
        "runs --help",
        "start --help",
        "help runs",
        "__complete zsh start h",
        "__complete fish runs show r",
    ],
)
def test_reading_commands_load_no_framework(shell: Shell, line: str) -> None:
    """Off a terminal, what is typed most loads neither Typer nor Rich, msgspec or pydantic, and
    takes a quarter of the time."""
    assert not loaded(shell, *line.split()) & HEAVY


@pytest.fixture
def finished(daemon: FakeDaemon) -> None:
    """A daemon with a finished run, a queue and a schedule."""
    run = daemon.add(run_object(1, why="it has ended"))
    daemon.append(record(1, "run.created", run["id"]), record(2, "run.completed", run["id"]))
    queue = dict.fromkeys("concurrency key_concurrency rate next_start_at oldest_ms".split())
    queue |= {"name": "default", "depth": 0, "running": 0, "paused": False, "processes": None}
    daemon.answers["queue.list"] = lambda _: {
        "queues": [queue | {"rate_burst": 1}],
        "cursor": None,
    }
    daemon.answers["run.start"] = lambda _: {"id": run["id"], "reused": False, "status": "queued"}
    tick = {"at": "2026-05-06T09:00:00Z", "job": "hello", "local": "2026-05-06T09:00:00"}
    daemon.answers["schedule.next"] = lambda _: {"ticks": [tick]}


@pytest.mark.usefixtures("daemon")
def test_start_with_a_typer_spelling_loads_typer(shell: Shell) -> None:
    """The test above can fail: a command line that is not plain loads Typer."""
    script = 'import sys; sys.argv[1:] = ["start", "hello", "-p1"]\n' + (
        "from stackshift_cli import main\nmain()\nassert 'typer' in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=shell.directory,
        env=shell.env,
        check=False,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
