"""What is hinted at whoever calls a command that does not exist."""

from __future__ import annotations

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.unknown import Called, unknown


@pytest.fixture(autouse=True)
def no_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No project, but for commands that are run as programs."""
    monkeypatch.setattr("stackshift_cli.daemon.known_jobs.is_job", lambda *_: False)


def near(line: str) -> list[str]:
    """The commands that are hinted at for `line`, which begins with a noun or not."""
    noun, _, rest = line.rpartition(":")
    word, *words = rest.split()
    return list(unknown(Called(noun, word, words)).fields["near"])


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("status", ["daemon status", "cluster status"]),
        ("retry", ["runs retry", "dead retry"]),
        ("lock", ["state lock"]),
        ("cancel", ["runs cancel"]),
        ("logs", ["runs logs", "daemon logs"]),
        ("logs @last", ["runs logs"]),
        ("version", ["--version"]),
        ("runs:pause", ["queues pause", "schedules pause"]),
        ("runs:status", ["daemon status", "cluster status"]),
        ("runs:start", ["start", "daemon start"]),
        ("runs:start hello", ["start"]),
        ("runs:@last", ["runs show @last"]),
        ("run_01m81y6r2xvk8yswy1y4cn4exs", ["runs show run_01m81y6r2xvk8yswy1y4cn4exs"]),
        ("rns", ["runs"]),
        ("runs:lits", ["runs list"]),
    ],
)
def test_exact_word_is_a_better_hint_than_a_similar_one(line: str, meant: list[str]) -> None:
    """A verb of a noun, an option, a run; and only then what is spelled alike."""
    assert near(line) == meant


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ps", ["runs list"]),
        ("ls", ["runs list"]),
        ("kill", ["runs cancel"]),
        ("submit hello", ["start"]),
        ("publish", ["event send"]),
        ("monitor", ["top"]),
        ("runs:kill", ["runs cancel"]),
        ("runs:delete", ["runs rm"]),
        ("state:rm", ["state delete"]),
        ("queues:ls", ["queues list"]),
        ("daemon:kill", ["daemon stop"]),
    ],
)
def test_word_of_another_program_is_hinted_at_with_ours(line: str, meant: list[str]) -> None:
    """`ps` is spelled most like `sh`, which nobody means; and a noun that was typed stays."""
    assert near(line) == meant


def test_every_verb_alone_is_hinted_at_with_its_nouns() -> None:
    """Whatever the table of commands has."""
    alone = {command.path[0] for command in COMMANDS if len(command.path) == 1}
    for command in COMMANDS:
        if len(command.path) == 2 and command.path[1] not in alone:
            assert " ".join(command.path) in near(command.path[1])


def test_hint_that_would_ask_for_too_many_lists_them() -> None:
    """`list` belongs to most nouns."""
    hint = unknown(Called("", "list", [])).hint
    assert hint.startswith("one of: stackshift runs list, ")
    assert unknown(Called("", "zzz", [])).hint.startswith("one of: checkpoint, cluster, ")


JOBS = """
@stackshift.job("weeklyReport", queue="slow")
def weekly(ctx): ...

@stackshift.job
def nightly(ctx): ...

def helper(ctx): ...
"""


@pytest.mark.not_via("ssh", why="the project's files are looked at on their machine alone")
@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["weeklyReport"], "did you mean stackshift start weeklyReport?"),
        (["nightly", "-F", "a=1"], "did you mean stackshift start nightly?"),
        (["run", "nightly"], "did you mean stackshift start nightly?"),
        (
            ["jobs", "nightly"],
            "did you mean stackshift jobs show nightly or stackshift start nightly?",
        ),
    ],
)
def test_job_of_the_project_is_hinted_at_without_a_daemon(
    shell: Shell, argv: list[str], hint: str
) -> None:
    """The files of job modules are read; no daemon is started, and nothing is imported."""
    jobs = shell.directory / "jobs"
    jobs.mkdir(exist_ok=True)
    (jobs / "reports.py").write_text(JOBS)
    told = shell(*argv)
    assert told.stderr.splitlines()[1:] == [f"hint: {hint}"]
    assert not (shell.directory / ".stackshift").exists()
    told = shell("helper")
    assert "start helper" not in told.stderr


def test_running_daemon_is_asked_for_a_job(shell: Shell, daemon: FakeDaemon) -> None:
    """It knows jobs whose names are not in the files as they are."""
    told = shell("hello")
    assert told.stderr.splitlines()[1] == "hint: did you mean stackshift start hello?"
    assert daemon.params("job.get") == {"job": "hello"}


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["name=World"], "fields of the payload follow -F: -F name=World"),
        (["name=World", "n:=3"], "fields of the payload follow -F: -F name=World -F n:=3"),
        (['{"a": 1}'], "the payload follows -p: stackshift start … -p '{\"a\": 1}'"),
        (["World"], "stackshift start --help"),
        (["name=Big World"], "stackshift start --help"),
    ],
)
def test_fields_without_their_option_are_hinted_at(
    shell: Shell, argv: list[str], hint: str
) -> None:
    """`start hello name=World` is what other programs take."""
    told = shell("start", "hello", *argv)
    assert told.code == 2
    assert told.stderr.splitlines()[1:] == [f"hint: {hint}"]


def test_help_of_a_verb_names_its_commands(shell: Shell) -> None:
    """`help cancel` is of `runs cancel`."""
    assert shell("help", "cancel").stderr.endswith("hint: did you mean runs cancel?\n")
