"""Which words completion offers, and in which form each shell gets them."""

from __future__ import annotations

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, run_id, run_object, schedule_object
from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.completion import candidates
from stackshift_cli.commands.completion_line import bash_word, bash_words
from stackshift_cli.commands.spec import Option
from stackshift_jobs.schedules import CATCH_UP, OVERLAP
from stackshift_jobs.values.limits import ON_DUPLICATE, ON_TIMEOUT


def texts(words: list[str]) -> list[str] | None:
    """The candidates for the last of `words`, without what they are; None for files."""
    found = candidates(words)
    return None if found is None else [candidate.text for candidate in found]


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ru"], ["runs"]),
        (["runs", "wh"], ["why"]),
        (["run", "ca"], ["cancel"]),
        (["-C", "x", "--json", "jobs", ""], ["check", "list", "schema", "show"]),
        (["start", "x", "--id"], ["--idempotency-key", "--idempotency-ttl"]),
        (["runs", "list", "--status", "f"], ["failed"]),
        (["runs", "list", "--status=f"], ["--status=failed"]),
        (["start", "x", "--color", ""], ["always", "auto", "never"]),
        (["runs", "show", "@"], ["@failed", "@last"]),
        (["completion", ""], ["bash", "fish", "zsh"]),
        (["help", "pa"], ["payload"]),
        (["help", "runs", "wh"], ["why"]),
        (["config", "get", "workers.sl"], ["workers.slots"]),
        (["config", "set", "default_p"], ["default_project"]),
        (["states", "unl"], ["unlock"]),
        (["event", "send", "x", "--co"], ["--color", "--correlation-key"]),
        (["nope", ""], []),
        (["runs", "why", "run_1", ""], []),
        (["start", "x", "--delay", ""], []),
        (["runs", "list", "--status", "failed,ca"], ["failed,cancelled"]),
        (["journal", "backup", ""], None),
        (["start", "x", "-p", "@"], None),
        (["start", "x", "-p", ""], ["-", "@"]),
        (["start", "x", "--payload=@f"], None),
        (["-C", ""], None),
        (["state", "lock", "k", "--", "l"], None),
    ],
)
def test_table_says_what_may_come_next(words: list[str], wanted: list[str] | None) -> None:
    """Commands, options, their values and forms of RUN; files only where a file is wanted."""
    assert texts(words) == wanted


def test_words_that_an_option_takes_are_offered() -> None:
    """All that are accepted, for each option that takes one of a few."""
    for argv, accepted in (
        (["start", "x", "--on-duplicate", ""], ON_DUPLICATE),
        (["schedules", "add", "x", "--overlap", ""], OVERLAP),
        (["crontab", "import", "--catch-up", ""], CATCH_UP),
        (["wait-event", "x", "--on-timeout", ""], ON_TIMEOUT),
    ):
        assert texts(argv) == sorted(accepted)
    for command in COMMANDS:
        for option in command.parameters:
            if isinstance(option, Option) and option.metavar in ("WORD", "WHAT"):
                assert texts([*command.path, option.flags[-1], ""]), (command, option)


def test_candidates_say_what_they_are() -> None:
    """Commands and options with their help."""
    found = dict(candidates(["runs", "w"]) or ())
    assert found["why"] == "Explain why a run is not progressing."
    assert dict(candidates(["start", "--dr"]) or ())["--dry-run"].startswith("Start nothing")


@pytest.fixture
def filled(shell: Shell, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    """A daemon with one thing of each kind, for the project in the working directory."""
    monkeypatch.chdir(shell.directory)
    monkeypatch.delenv("STACKSHIFT_PROJECT", raising=False)
    waiting = {"kind": "event", "event": "paid", "correlation_key": "order:1"}
    daemon.add(run_object(1, status="failed", labels={"team": "shop"}))
    daemon.add(run_object(2, status="waiting", waiting_for=waiting, job="order"))
    steps = [{"name": "charge card", "status": "completed"}, {"name": "mail", "status": "failed"}]
    get = daemon.on_run_get
    daemon.answers["run.get"] = lambda params: {**get(params), "steps": steps}
    daemon.answers["lock.list"] = lambda _: {"locks": [{"key": "import", "run": "run_1"}]}
    queue = {"name": "default", "depth": 0, "running": 1, "paused": False}
    daemon.answers["queue.list"] = lambda _: {"queues": [queue]}
    daemon.schedules["hello"] = schedule_object()
    for key in ("c:1", "c:2", "c:\x1b", "other"):
        daemon.put(key, 1)
    return daemon


@pytest.mark.usefixtures("filled")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["start", "h"], ["hello"]),
        (["runs", "list", "--job", ""], ["hello"]),
        (["schedules", "pause", ""], ["hello"]),
        (["queues", "pause", ""], ["default"]),
        (["start", "x", "--queue", "d"], ["default"]),
        (["runs", "show", "run_"], [run_id(1), run_id(2)]),
        (["runs", "show", run_id(2)[-6:-1]], [run_id(1)[-6:], run_id(2)[-6:]]),
        (["runs", "cancel", "run_"], [run_id(2)]),
        (["runs", "retry", "run_"], [run_id(1)]),
        (["runs", "wait", run_id(2), "run_"], []),
        (["runs", "retry", run_id(1), "--from", ""], ["charge card", "mail"]),
        (["runs", "logs", run_id(1), "--step", "m"], ["mail"]),
        (["runs", "retry", run_id(1), "--set", "m"], ["mail="]),
        (["runs", "list", "--label", ""], ["team=shop"]),
        (["state", "get", "c:"], ["c:1", "c:2"]),
        (["state", "list", "o"], ["other"]),
        (["state", "unlock", ""], ["import"]),
        (["event", "send", "p"], ["paid"]),
        (["event", "send", "paid", "--correlation-key", ""], ["order:1"]),
    ],
)
def test_daemon_says_which_names_there_are(words: list[str], wanted: list[str]) -> None:
    """Only what the command can act on is offered, and nothing that would print as an escape."""
    assert [text for text in texts(words) or () if not text.startswith("@")] == wanted


def test_project_on_the_line_is_the_one_that_is_asked(
    filled: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`-C DIR`, not the working directory."""
    root = filled.data_dir.parent
    monkeypatch.chdir("/")
    assert texts(["start", "h"]) == []
    for words in (["-C", str(root)], ["--project", str(root)], [f"--project={root}"]):
        assert texts([*words, "start", "h"]) == ["hello"]
        assert texts(["start", *words, "h"]) == ["hello"]


def test_absent_daemon_is_neither_started_nor_missed(shell: Shell, daemon: FakeDaemon) -> None:
    """Without a daemon there are no names, and no errors."""
    assert shell("__complete", "zsh", "start", "h") == ("hello\tjobs.hello, queue default\n", "", 0)
    daemon.stop()
    assert shell("__complete", "zsh", "start", "h") == ("", "", 0)
    assert shell("__complete", "fish", "journal", "backup", "") == ("", "", 10)
    assert shell("__complete", "fish", "start", "x", "-p", "@a") == ("", "", 11)
    assert shell("__complete", "zsh", "start", "x", "--payload=@") == ("", "", 11)


def test_bash_is_told_what_candidates_are_where_it_only_lists_them(
    shell: Shell, filled: FakeDaemon
) -> None:
    """A single one, which it may insert, has no more than its text."""
    filled.add(run_object(3, job="order"))
    line = "stackshift runs show run_"
    listed = shell("__complete", "bash", line, "run_", "63").stdout
    assert f"{run_id(3)}  (order, completed)\n" in listed
    assert "(" not in shell("__complete", "bash", line, "run_", "9").stdout
    line = "stackshift start h"
    assert shell("__complete", "bash", line, "h", "63").stdout == "hello\n"


def test_newest_runs_are_offered_and_no_more_than_fit_a_screen(filled: FakeDaemon) -> None:
    """Of those that fit what is typed: an older one is offered once enough of it is."""
    for number in range(10, 60):
        filled.add(run_object(number))
    offered = texts(["runs", "show", "run_"]) or []
    assert len(offered) == 20
    assert set(offered) == {run_id(number) for number in range(40, 60)}
    assert texts(["runs", "show", run_id(12)]) == [run_id(12)]


@pytest.mark.parametrize(
    ("line", "current", "words", "kept"),
    [
        ("stackshift ru", "ru", ["ru"], ""),
        ("stackshift runs ", "", ["runs", ""], ""),
        ("stackshift state get c:", ":", ["state", "get", "c:"], "c:"),
        ("stackshift state get c:1", "1", ["state", "get", "c:1"], "c:"),
        ("stackshift runs show @la", "@la", ["runs", "show", "@la"], ""),
        ("stackshift runs show @", "@", ["runs", "show", "@"], ""),
        ("stackshift start --queue=m", "m", ["start", "--queue=m"], "--queue="),
        ("stackshift state get my\\ k", "my\\ k", ["state", "get", "my k"], ""),
        ("stackshift state get 'my k", "'my k", ["state", "get", "my k"], ""),
        ('stackshift state get "a\\"b" c', "c", ["state", "get", 'a"b', "c"], ""),
    ],
)
def test_words_of_a_bash_line(line: str, current: str, words: list[str], kept: str) -> None:
    """They are those that the shell will read, and bash keeps what stands before its own word."""
    assert bash_words(line, current) == (words, kept)


@pytest.mark.parametrize(
    ("text", "kept", "current", "inserted"),
    [
        ("runs", "", "ru", "runs"),
        ("c:12", "c:", ":", "12"),
        ("c:12", "c:", "1", "12"),
        ("my key", "", "my", "my\\ key"),
        ("my key", "", '"my', "my key"),
        ("$(rm)", "", "", "\\$\\(rm\\)"),
    ],
)
def test_bash_inserts_a_word_that_it_reads_back(
    text: str, kept: str, current: str, inserted: str
) -> None:
    """Blanks and signs are escaped, except in quotes; nothing is executed."""
    assert bash_word(text, kept, current) == inserted
