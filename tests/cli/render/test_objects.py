"""One object on a terminal: `jobs show`, `queues show`, `journal stats` and `state get -v`."""

from __future__ import annotations

import re

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from cli.fake_state import lock_object
from cli.render.conftest import Terminal, ended, plain

QUEUE = {"name": "media", "oldest_ms": 90_000, "paused": True, "rate": None, "rate_burst": 1}
SOURCES = {"rate": "default", "rate_burst": "code"}
KEYS = [{"key": "customer:1", "running": 2}, {"key": "x\x1b", "running": 1}]
QUEUE_SHOWN = """
name          media
oldest        1m30s
paused        yes
paused since  2026-05-06 18:00, … ago
rate          none  (default)
rate burst    1  (code)
busy keys     key customer:1, running 2
              key x\\x1b, running 1
"""
JOB_SHOWN = """
name          hello
module        jobs.hello
queue         default
max attempts  3
timeout       1m
code          3f9c2a1d
schema        {"type": "object"}
doc           Greet somebody.
retry
  max attempts  3
priority      0
"""


def lines(text: str) -> list[str]:
    """The lines of `text` without colours; how long ago something was does not matter."""
    text = re.sub(r"06 May 18:00|2026-05-06 18:00", "2026-05-06 18:00", plain(text))
    return [re.sub(r", \w+ ago", ", … ago", line.rstrip()) for line in text.splitlines()]


def test_queue_is_aligned_text(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Fields by name and unit, where each limit comes from, and times by the local clock."""
    queue = QUEUE | {"sources": SOURCES, "busy_keys": KEYS, "next_start_at": None}
    queue |= {"paused_since": "2026-05-06T09:00:00.000000Z"}
    fields = ("name", "oldest_ms", "paused", "paused_since", "rate", "rate_burst", "sources")
    shown = {name: queue[name] for name in (*fields, "busy_keys")}
    daemon.answers["queue.show"] = lambda _: dict(shown)
    text, code = ended(terminal("queues", "show", "media", TZ="Asia/Tokyo"))
    assert (lines(text), code) == (QUEUE_SHOWN.strip().splitlines(), 0)


def test_in_a_pipe_the_fields_are_tsv(shell: Shell, daemon: FakeDaemon) -> None:
    """As they were: a script that reads them is not broken by what a terminal shows."""
    daemon.answers["queue.show"] = lambda _: QUEUE | {"sources": SOURCES, "busy_keys": KEYS}
    told = shell("queues", "show", "media")
    assert told.stdout.splitlines()[-3:] == [
        "rate_burst\t1\t(code)",
        "key\tcustomer:1\t2 running",
        "key\tx\\x1b\t1 running",
    ]


@pytest.mark.usefixtures("daemon")
def test_job_is_aligned_text_and_long_values_go_on(terminal: Terminal) -> None:
    """An object in it is indented; nothing is cut, and no line is wider than the screen."""
    text, code = ended(terminal("jobs", "show", "hello"))
    name = re.compile(r"^( *\w+(?: \w+)*) {2,}")
    shown = [name.sub(r"\1|", line) for line in lines(text)]
    wanted = [name.sub(r"\1|", line) for line in JOB_SHOWN.strip().splitlines()]
    assert (shown, code) == (wanted, 0)
    narrow, _ = ended(terminal("jobs", "show", "hello", cells=24))
    assert max(map(len, lines(narrow))) <= 36
    assert "".join("".join(lines(narrow)).split()).endswith("priority0")


@pytest.mark.usefixtures("daemon")
def test_stats_of_the_journal_have_units(terminal: Terminal) -> None:
    """Bytes are sizes, and what the runs are that are counted is said."""
    text, code = ended(terminal("journal", "stats", cells=100))
    assert code == 0
    assert "runs  0  (unfinished, or in the dead letter; " in re.sub(" {2,}", "  ", plain(text))
    assert "state bytes  64B" in re.sub(" {2,}", "  ", plain(text))


def test_verbose_get_says_when_and_by_whom(
    terminal: Terminal, shell: Shell, daemon: FakeDaemon
) -> None:
    """On standard error, so that standard output stays the value."""
    daemon.put("k", 5)
    told = shell("state", "get", "k", "-v")
    assert (told.stdout, told.code) == ("5\n", 0)
    assert re.sub(" {2,}", "  ", told.stderr).splitlines()[0] == "version  1"
    assert told.stderr.splitlines()[-1] == "updated by  client"
    assert shell("state", "get", "k").stderr == ""
    text, _ = ended(terminal("state", "get", "k", "-v"))
    assert plain(text).endswith("5\n")


def test_locks_are_a_table(terminal: Terminal, daemon: FakeDaemon) -> None:
    """Key, holder, since when, until when, and who waits; none says so."""
    assert ended(terminal("state", "locks"))[0] == "no locks\n"
    run = f"run_01kan5c8{7:018d}"
    line = [{"run": run, "step": "[lock a]", "holder": None, "until": None}]
    daemon.locks["a"] = lock_object("a", waiting=2, line=[*line, line[0] | {"run": None}])
    daemon.locks["b"] = lock_object("b", run=run, holder=None, expires_at=None)
    text, code = ended(terminal("state", "locks", cells=120))
    header, first, second = plain(text).splitlines()
    assert header.split() == ["KEY", "HOLDER", "SINCE", "(UTC)", "EXPIRES", "WAITING"]
    assert re.fullmatch(
        r"a +backup.sh \(pid 4711\) +\S.*09:00 +\S+ ago +2: 000007, a client", first
    )
    assert re.fullmatch(r"b +run 000007 +\S.*09:00 +never +0 *", second)
    assert code == 0


def test_words_of_a_queue_are_those_of_lists(terminal: Terminal, daemon: FakeDaemon) -> None:
    """How many are queued, and by which command it was paused or resumed."""
    sources = {"paused": "queues pause, resume"}
    queue = {"name": "media", "depth": 4, "paused": False, "busy_keys": []}
    daemon.answers["queue.show"] = lambda _: queue | {"sources": dict(sources)}
    text, _ = ended(terminal("queues", "show", "media"))
    shown = [line.split(maxsplit=1) for line in lines(text)]
    assert shown[1:] == [["queued", "4"], ["paused", "no  (queues resume)"]]
    daemon.answers["queue.show"] = lambda _: queue | {"paused": True, "sources": dict(sources)}
    text, _ = ended(terminal("queues", "show", "media"))
    assert lines(text)[-1].split(maxsplit=1)[1].split("  ") == ["yes", "(queues pause)"]
