"""Transcripts of `journal …`: what its tools print is shown, and their errors keep their status."""

from __future__ import annotations

import json
import signal

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon, record, run_id
from cli.live_output import read_lines

GOOD = {"ok": True, "records": 12, "segments": 1, "problems": []}
PROBLEM = {"file": "journal/1.jsonl", "offset": 70, "seq": 3, "message": "checksum\x1b"}


def arguments(shell: Shell) -> list[str]:
    """The arguments that the tool was called with."""
    told: list[str] = json.loads((shell.directory / ".stackshift/tool.json").read_text())
    return told


def test_verify_of_a_good_journal(shell: Shell) -> None:
    """Exit 0 and how much was checked."""
    told = shell("journal", "verify", FAKE_TOOL=json.dumps(GOOD))
    assert told == ("ok\t12\trecords\t1\tsegments\n", "", 0)
    assert arguments(shell) == ["verify", "--data-dir", str(shell.directory / ".stackshift")]


def test_verify_of_a_damaged_journal_is_exit_78_and_the_places(shell: Shell) -> None:
    """A line for each place: `file offset seq message`."""
    report = {**GOOD, "ok": False, "problems": [PROBLEM]}
    told = shell("journal", "verify", FAKE_TOOL=json.dumps(report), FAKE_TOOL_STATUS="78")
    assert told == (
        "damaged\t12\trecords\t1\tsegments\njournal/1.jsonl\t70\t3\tchecksum\\x1b\n",
        "",
        78,
    )
    told = shell("journal", "verify", "--json", FAKE_TOOL=json.dumps(report), FAKE_TOOL_STATUS="78")
    assert (json.loads(told.stdout), told.code) == (report, 78)


def test_cat_prints_lines_as_they_are(shell: Shell) -> None:
    """No byte is changed, so that `jq` and checksums work on them."""
    text = '{"crc":"a8f20a16","seq":17,"at":"x"}\n{"crc":"b","seq":18}\n'
    assert shell("journal", "cat", "--since-seq", "16", FAKE_TOOL=text) == (text, "", 0)
    assert arguments(shell)[:3] == ["cat", "--since-seq", "16"]


def test_cat_follows_behind_the_last_line(shell: Shell, daemon: FakeDaemon) -> None:
    """`-f` continues with the daemon's records after the last line of the files."""
    daemon.append(record(17, "run.created", run_id(1)), record(18, "run.created", run_id(2)))
    shell.env["FAKE_TOOL"] = '{"crc":"a","seq":17}\n'
    cat = shell.popen("journal", "cat", "-f")
    first, second = read_lines(cat, 2)
    assert (first, json.loads(second)["seq"]) == ('{"crc":"a","seq":17}', 18)
    daemon.append(record(19, "run.created", run_id(3)))
    assert json.loads(read_lines(cat, 1)[0])["seq"] == 19
    cat.send_signal(signal.SIGINT)
    cat.communicate(timeout=60)
    assert cat.returncode == 130


def test_errors_of_tools_keep_code_hint_and_status(shell: Shell) -> None:
    """Damage is 78; an error that a tool prints in our form is not wrapped in another."""
    said = "error[journal_damaged]: a line is damaged\nhint: stackshift journal repair\n"
    told = shell("journal", "cat", FAKE_TOOL_STDERR=said, FAKE_TOOL_STATUS="78")
    assert told == ("", said, 78)


@pytest.mark.parametrize("verb", [["repair"], ["restore", "x"]])
def test_what_changes_the_journal_refuses_while_the_daemon_runs(
    shell: Shell, verb: list[str]
) -> None:
    """The daemon holds the lock: exit 5, with a hint how to stop it."""
    (shell.directory / "x").touch()
    said = "error[daemon_running]: in use by process 7\nhint: stackshift daemon stop\n"
    told = shell("journal", *verb, "-y", FAKE_TOOL_STDERR=said, FAKE_TOOL_STATUS="3")
    assert told == ("", said, 5)


@pytest.mark.parametrize("verb", [["repair"], ["restore", "x"]])
def test_what_changes_the_journal_needs_a_yes(shell: Shell, verb: list[str]) -> None:
    """Off a terminal without `-y`: exit 2, and the tool is not called."""
    (shell.directory / "x").touch()
    told = shell("journal", *verb, FAKE_TOOL="{}")
    assert (told.stdout, told.code) == ("", 2)
    assert "confirmation is required" in told.stderr
    assert not (shell.directory / ".stackshift").exists()


def test_dry_run_of_a_repair_asks_nothing(shell: Shell) -> None:
    """It changes nothing, so it needs no `-y`."""
    told = shell("journal", "repair", "--dry-run", FAKE_TOOL='{"done": []}')
    assert (told.stdout, told.code) == ("done\t[]\n", 0)
    assert arguments(shell)[:2] == ["repair", "--dry-run"]


def test_backup_and_restore_name_the_file_from_where_one_stands(shell: Shell) -> None:
    """A relative file name is relative to the working directory."""
    for argv in (["backup", "b.tar"], ["restore", "b.tar", "-y"]):
        if argv[0] == "restore":
            (shell.directory / "b.tar").touch()
        told = shell("journal", *argv, FAKE_TOOL='{"last_seq": 12, "bytes": 7}')
        assert told == ("last_seq\t12\nbytes\t7\n", "", 0)
        assert arguments(shell)[:2] == [argv[0], str(shell.directory / "b.tar")]


def test_backup_takes_the_place_of_a_file_only_after_a_yes(shell: Shell) -> None:
    """Off a terminal: exit 2 and the tool is not called, unless `-y` is given."""
    (shell.directory / "b.tar").write_text("mine")
    told = shell("journal", "backup", "b.tar", FAKE_TOOL="{}")
    assert (told.stdout, told.code) == ("", 2)
    assert f"replace the file {shell.directory}/b.tar" in told.stderr
    assert not (shell.directory / ".stackshift").exists()
    assert shell("journal", "backup", "b.tar", "-y", FAKE_TOOL='{"bytes": 7}').code == 0


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["backup", "no/b.tar"], "there is no directory "),
        (["backup", "."], " is a directory"),
        (["restore", "b.tar", "-y"], "there is no file "),
    ],
)
def test_path_that_is_not_there_is_usage(shell: Shell, argv: list[str], said: str) -> None:
    """Exit 2 before anything is asked or done."""
    told = shell("journal", *argv, FAKE_TOOL="{}")
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: ")
    assert said in told.stderr
    assert not (shell.directory / ".stackshift").exists()


def test_restore_says_what_it_does_before_it_does_it(shell: Shell) -> None:
    """The question names the backup, the place, and that it must not have a journal."""
    (shell.directory / "b.tar").touch()
    told = shell("journal", "restore", "b.tar")
    assert f"restore the backup {shell.directory}/b.tar into " in told.stderr
    assert f"{shell.directory}/.stackshift, which must not have a journal yet" in told.stderr


def test_stats_ask_the_daemon_if_it_runs(shell: Shell, daemon: FakeDaemon) -> None:
    """A running daemon answers."""
    assert json.loads(shell("journal", "stats", "--json").stdout)["journal"] == "j1"
    assert daemon.asked("journal.stats") == 1
    daemon.put("counter", 1)
    printed = dict(line.split("\t") for line in shell("journal", "stats").stdout.splitlines())
    assert printed["state_entries"] == "1"
    assert {"state_bytes", "locks", "events_kept", "events_kept_bytes", "event_keys"} <= set(
        printed
    )


def test_stats_are_read_from_the_files_without_a_daemon(shell: Shell) -> None:
    """Without a daemon the files are read, and none is started."""
    assert shell("journal", "stats", FAKE_TOOL='{"bytes": 9}') == ("bytes\t9\n", "", 0)


@pytest.mark.usefixtures("daemon")
def test_compact_tells_of_the_snapshot(shell: Shell) -> None:
    """Sequence number, state hash and size."""
    assert shell("journal", "compact").stdout == "seq\t17\nstate_hash\tab12\nbytes\t2048\n"


def test_tool_that_breaks_down_is_an_error(shell: Shell) -> None:
    """A tool without an answer has not succeeded."""
    told = shell("journal", "verify", FAKE_TOOL_STDERR="Killed\n", FAKE_TOOL_STATUS="9")
    assert (told.stdout, told.code) == ("", 70)
    assert "journal verify exited with status 9: Killed" in told.stderr


def test_move_is_refused_before_it_asks_where_it_cannot_be_made(shell: Shell) -> None:
    """To a place that is no database, and into files that it is in already."""
    told = shell("journal", "move", "--to", "elsewhere")
    assert told.code == 2
    assert told.stderr.startswith("error[usage]: --to takes the URL of a database")
    told = shell("journal", "move", "--to", "files")
    assert told == ("", "error[conflict]: the journal of this project is in files already\n", 5)
