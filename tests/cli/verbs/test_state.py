"""Transcripts of `state get|set|delete|increment|list|history`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from cli.fake_state import AT, LATER, change_object, entry_object
from stackshift_jobs.errors import LockHeld


def test_get_prints_the_value_as_json(shell: Shell, daemon: FakeDaemon) -> None:
    """Text is printed in quotes, without them with `--raw`; `--json` prints the entry."""
    daemon.put("n", 7)
    daemon.put("text", 'a "b"\n\x1b')
    daemon.put("null", None)
    daemon.put("object", {"b": [1.5, True], "a": "é"})
    assert shell("state", "get", "n") == ("7\n", "", 0)
    assert shell("state", "get", "text") == ('"a \\"b\\"\\n\\u001b"\n', "", 0)
    assert shell("state", "get", "text", "--raw").stdout == 'a "b"\n\x1b\n'
    assert shell("state", "get", "null").stdout == "null\n"
    assert shell("state", "get", "object", "--raw").stdout == '{"b":[1.5,true],"a":"\\u00e9"}\n'
    assert json.loads(shell("state", "get", "n", "--json").stdout) == entry_object("n", 7)


@pytest.mark.usefixtures("daemon")
def test_get_of_nothing_is_exit_4(shell: Shell) -> None:
    """Nothing is on stdout."""
    told = shell("state", "get", "gone")
    assert (told.stdout, told.code) == ("", 4)
    assert told.stderr == (
        "error[not_found]: there is no entry 'gone'\nhint: stackshift state list\n"
    )


def test_get_of_nothing_names_similar_keys(shell: Shell, daemon: FakeDaemon) -> None:
    """A key that was mistyped, at its beginning too, is found among those that exist."""
    for key in ("reports:2026", "reports:2025", "other"):
        daemon.put(key, 1)
    hint = "hint: did you mean reports:2026 or reports:2025?\n"
    for typed in ("report:2026", "Reports:2026"):
        told = shell("state", "get", typed)
        assert told == ("", f"error[not_found]: there is no entry '{typed}'\n{hint}", 4)


@pytest.mark.parametrize(
    ("default", "printed"),
    [("0", "0\n"), ("none", '"none"\n'), ('"none"', '"none"\n'), ("", '""\n'), ("[]", "[]\n")],
)
def test_default_is_printed_as_a_value(
    shell: Shell, daemon: FakeDaemon, default: str, printed: str
) -> None:
    """It is read like the value of `state set`, and only used if there is no entry."""
    assert shell("state", "get", "gone", "--default", default) == (printed, "", 0)
    daemon.put("there", 1)
    assert shell("state", "get", "there", "--default", default).stdout == "1\n"


@pytest.mark.usefixtures("daemon")
def test_default_in_json_is_an_entry_with_version_0(shell: Shell) -> None:
    """That is what `--if-version` takes if there is no entry; `--raw` text is printed as it is."""
    told = shell("state", "get", "gone", "--default", "x", "--json")
    nothing = dict.fromkeys(("expires_at", "updated_at", "updated_by"))
    assert json.loads(told.stdout) == {"key": "gone", "value": "x", "version": 0, **nothing}
    assert shell("state", "get", "gone", "--default", "x", "--raw").stdout == "x\n"


def test_get_with_wait_prints_the_value_once_there_is_one(shell: Shell, daemon: FakeDaemon) -> None:
    """All that `get` prints otherwise, by one request that waits."""
    daemon.put("text", "a")
    assert shell("state", "get", "text", "--wait", "1m") == ('"a"\n', "", 0)
    assert shell("state", "get", "text", "--wait", "1m", "--raw") == ("a\n", "", 0)
    asked = daemon.params("state.wait")
    assert asked["key"] == "text"
    assert 0 < asked["wait_ms"] <= 60_000
    assert daemon.asked("state.get") == 0


@pytest.mark.usefixtures("daemon")
def test_get_whose_wait_is_over_is_exit_124(shell: Shell) -> None:
    """With a default, that is printed."""
    told = shell("state", "get", "gone", "--wait", "100ms")
    assert told == ("", "error[timeout]: there is no entry 'gone' after 100ms\n", 124)
    told = shell("state", "get", "gone", "--wait", "100ms", "--json")
    assert (told.stdout, told.code) == ("", 124)
    assert json.loads(told.stderr.splitlines()[-1])["error"]["code"] == "timeout"
    assert shell("state", "get", "gone", "--wait", "0s", "--default", "7") == ("7\n", "", 0)


def test_get_with_wait_goes_on_while_the_daemon_restarts(shell: Shell, daemon: FakeDaemon) -> None:
    """With the time that is left."""
    asked: list[int] = []

    def broken_at_first(params: dict[str, Any]) -> Any:
        asked.append(params["wait_ms"])
        if len(asked) == 1:
            daemon.break_connections()
            return None
        return daemon.entries["k"]

    daemon.put("k", 1)
    daemon.answers["state.wait"] = broken_at_first
    told = shell("state", "get", "k", "--wait", "1m")
    assert told == ("1\n", "the daemon is gone; waiting for it to come back\n", 0)
    assert 60_000 >= asked[0] > asked[1] > 0


def test_wait_of_no_duration_is_exit_2(shell: Shell, daemon: FakeDaemon) -> None:
    """No request is sent to the daemon."""
    told = shell("state", "get", "k", "--wait", "soon")
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: --wait: 'soon' is not a duration\n")
    assert daemon.requests == []


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("5", 5),
        ("1.5", 1.5),
        ("true", True),
        ("null", None),
        ('"5"', "5"),
        ('{"a": [1]}', {"a": [1]}),
        ("hello world", "hello world"),
        ("{half", "{half"),
        ("NaN of them", "NaN of them"),
        ("nan", "nan"),
        ("", ""),
        ("9007199254740993000001", 9007199254740993000001),
        ('"@file"', "@file"),
        ("@handle", "@handle"),
        ("@", "@"),
        ("-5", -5),
        ("-0.5e3", -500.0),
    ],
)
def test_set_takes_json_else_text(shell: Shell, daemon: FakeDaemon, given: str, value: Any) -> None:
    """JSON is the value; any other text is stored as text."""
    note = "the value is not valid JSON and is stored as text\n" if given == "{half" else ""
    assert shell("state", "set", "k", given) == ("1\n", note, 0)
    assert daemon.params("state.set") == {"key": "k", "value": value}


@pytest.mark.parametrize("given", ["NaN", "Infinity", "-Infinity", " NaN "])
@pytest.mark.parametrize("before", [(), ("--",)], ids=["plain", "after --"])
def test_set_takes_no_number_that_json_lacks(
    shell: Shell, daemon: FakeDaemon, given: str, before: tuple[str, ...]
) -> None:
    """By its name it is a number, which JSON does not have: neither text nor an option. In quotes
    it is text."""
    told = shell("state", "set", "k", *before, given)
    assert told.code == 6
    assert f"{given.strip()} is not a JSON number" in told.stderr
    assert f"to store it as text: '\"{given.strip()}\"'" in told.stderr
    assert daemon.requests == []
    assert shell("state", "set", "k", f'"{given.strip()}"').code == 0
    assert daemon.requests[0][1]["value"] == given.strip()


@pytest.mark.parametrize(
    ("stdin", "value"),
    [
        ("[2]\n", [2]),
        ("not json\n", "not json"),
        ("two\nlines\n\n", "two\nlines\n"),
        ("-5", -5),
        ("@file", "@file"),
        ("[half", "[half"),
        (b" \xc3\xa9", " é"),
    ],
)
def test_set_reads_standard_input_as_it_reads_its_argument(
    shell: Shell, daemon: FakeDaemon, stdin: str | bytes, value: Any
) -> None:
    """JSON, else text without the end of its last line."""
    told = shell("state", "set", "k", "-", stdin=stdin)
    assert (told.stdout, told.code) == ("1\n", 0)
    assert ("stored as text" in told.stderr) is (stdin == "[half")
    assert daemon.params("state.set")["value"] == value


def test_what_cannot_be_a_value_is_refused(shell: Shell, daemon: FakeDaemon) -> None:
    """JSON that we refuse is not stored as text, and an empty input is not an empty text."""
    for told in (
        shell("state", "set", "k", "-"),
        shell("state", "set", "k", "-", stdin=b"\xff"),
        shell("state", "set", "k", '{"a": 1, "a": 2}'),
        shell("state", "set", "k", "[" * 100 + "]" * 100),
    ):
        assert (told.stdout, told.code) == ("", 6)
        assert told.stderr.startswith("error[payload_refused]: ")
    assert daemon.requests == []


@pytest.mark.parametrize("typer", [[], ["-qv"]])
def test_negative_number_is_a_value(shell: Shell, daemon: FakeDaemon, typer: list[str]) -> None:
    """For both parsers; other text that begins with `-` is passed after `--`."""
    assert shell("state", "set", "k", "-5", *typer).stdout == "1\n"
    assert daemon.params("state.set")["value"] == -5
    assert shell("state", "set", "k", *typer, "--", "-5").stdout == "2\n"
    assert shell("state", "increment", "k", "--by", "-2", *typer).stdout == "-7\n"
    assert shell("state", "increment", "k", "--by=-2", *typer).stdout == "-9\n"
    told = shell("state", "set", "k", "-x", *typer)
    assert (told.stdout, told.code) == ("", 2)
    assert shell("state", "set", "k", *typer, "--", "-x").code == 0
    assert daemon.params("state.set")["value"] == "-x"
    # Not an option, but no number of JSON either.
    told = shell("state", "set", "k", "-Infinity", *typer, "-q")
    assert (told.code, "-Infinity is not a JSON number" in told.stderr) == (6, True)


@pytest.mark.usefixtures("daemon")
def test_negative_number_in_a_mistake_is_shown_as_it_is(shell: Shell) -> None:
    """Error messages, and commands under a lock, get the number without the mark."""
    assert shell("-5").stderr.startswith("error[usage]: unknown command '-5'")
    assert "argument: -6\n" in shell("state", "set", "k", "-5", "-6").stderr
    assert shell("state", "lock", "k", "--", "echo", "-5").stdout == "-5\n"


def test_set_sends_its_conditions(shell: Shell, daemon: FakeDaemon) -> None:
    """The version is printed (`--json`: the entry); a version that does not match is exit 5."""
    assert shell("state", "set", "k", "1", "--ttl", "90s", "--if-absent").stdout == "1\n"
    asked = daemon.params("state.set")
    assert asked == {"key": "k", "value": 1, "ttl_ms": 90_000, "if_absent": True}
    told = shell("state", "set", "k", "2", "--if-version", "1", "--json")
    assert json.loads(told.stdout) == entry_object("k", 2, version=2)
    assert daemon.params("state.set") == {"key": "k", "value": 2, "if_version": 1}
    for options in (["--if-version", "1"], ["--if-absent"]):
        told = shell("state", "set", "k", "3", *options)
        assert (told.stdout, told.code) == ("", 5)
        assert told.stderr.startswith("error[conflict]: state 'k' has version 2")


@pytest.mark.parametrize(
    "argv",
    [
        ["set", "k"],
        ["set", "k", "1", "--if-version", "1", "--if-absent"],
        ["set", "k", "1", "--if-version", "-1"],
        ["set", "k", "1", "--if-version", "x"],
        ["set", "k", "1", "--ttl", "soon"],
        ["set", "k", "1", "--ttl", "0"],
        ["increment", "k", "--ttl", "0s"],
        ["increment", "k", "--by", "x"],
        ["increment", "k", "--by", "1e999"],
        ["increment", "k", "--by", "true"],
        ["list", "--limit", "0"],
        ["delete", "k", "--if-version", "1.5"],
        ["get"],
    ],
)
def test_mistakes_are_usage(shell: Shell, daemon: FakeDaemon, argv: list[str]) -> None:
    """Exit 2, and no request is sent."""
    told = shell("state", *argv)
    assert (told.stdout, told.code) == ("", 2)
    assert told.stderr.startswith("error[usage]: ")
    assert daemon.requests == []


def test_increment_prints_the_new_number(shell: Shell, daemon: FakeDaemon) -> None:
    """The number is exact, whatever its size; text is a conflict."""
    assert shell("state", "increment", "k") == ("1\n", "", 0)
    assert daemon.params("state.increment") == {"key": "k"}
    big = 10**30
    assert shell("state", "increment", "k", "--by", str(big)).stdout == f"{big + 1}\n"
    assert shell("state", "increment", "n", "--by=0.5", "--ttl", "1h").stdout == "0.5\n"
    assert daemon.params("state.increment") == {"key": "n", "by": 0.5, "ttl_ms": 3_600_000}
    assert json.loads(shell("state", "increment", "n", "--json").stdout)["value"] == 1.5
    daemon.put("text", "x")
    told = shell("state", "increment", "text")
    assert (told.stdout, told.code) == ("", 5)


def test_delete_of_nothing_is_exit_4(shell: Shell, daemon: FakeDaemon) -> None:
    """A message confirms what was deleted; JSON has the version."""
    daemon.put("k\x1b", 1)
    assert shell("state", "delete", "k\x1b") == ("", "k\\x1b deleted\n", 0)
    assert shell("state", "delete", "k\x1b").code == 4
    daemon.put("k", 1)
    told = shell("state", "delete", "k", "--if-version", "1", "--json")
    assert json.loads(told.stdout) == {"key": "k", "deleted": True, "version": 2}
    assert daemon.params("state.delete") == {"key": "k", "if_version": 1}
    refusal = "error[not_found]: there is no entry 'k'\nhint: stackshift state list\n"
    assert shell("-q", "state", "delete", "k") == ("", refusal, 4)


def test_list_is_a_line_an_entry(shell: Shell, daemon: FakeDaemon) -> None:
    """`key version value updated_at expires_at`, by key; the value as JSON; no header."""
    daemon.put("c:2", "7\t", expires_at=LATER)
    daemon.put("c:1", {"a": 1})
    daemon.put("other", 1)
    told = shell("state", "list", "c:")
    assert told == (f'c:1\t1\t{{"a":1}}\t{AT}\t\nc:2\t1\t"7\\t"\t{AT}\t{LATER}\n', "", 0)
    assert len(shell("states", "list").stdout.splitlines()) == 3
    assert shell("state", "list", "--limit", "1").stdout.startswith("c:1\t")
    listed = json.loads(shell("state", "list", "--json").stdout)
    assert [each["key"] for each in listed] == ["c:1", "c:2", "other"]
    assert shell("state", "list", "none") == ("", "", 0)
    assert shell("state", "list", "none", "--json").stdout == "[]\n"


def test_list_goes_on_over_pages(shell: Shell, daemon: FakeDaemon) -> None:
    """All entries are listed if no limit is given."""
    for number in range(2345):
        daemon.put(f"k:{number:04d}", number)
    printed = shell("state", "list").stdout.splitlines()
    assert [line.split("\t")[0] for line in printed] == [f"k:{n:04d}" for n in range(2345)]
    assert daemon.asked("state.list") == 3
    assert len(shell("state", "list", "--limit", "1500").stdout.splitlines()) == 1500


def test_history_is_a_line_a_change(shell: Shell, daemon: FakeDaemon) -> None:
    """`seq at kind version value expires_at by`, newest first; without a history: exit 4."""
    daemon.history = [
        change_object(9, "deleted", 3, None, by="run_1"),
        change_object(4, "set", 2, "x", expires_at=LATER),
    ]
    told = shell("state", "history", "k")
    assert told.stdout == (
        f'9\t{AT}\tdeleted\t3\tnull\t\trun_1\n4\t{AT}\tset\t2\t"x"\t{LATER}\tclient\n'
    )
    assert daemon.params("state.history") == {"key": "k", "limit": 50}
    told = shell("state", "history", "k", "--limit", "1")
    assert told.stdout.count("\n") == 1
    assert told.stderr == "showing the newest 1; use --limit N to see more\n"
    assert shell("state", "history", "k", "--limit", "2").stderr == ""
    assert json.loads(shell("state", "history", "k", "--json").stdout) == daemon.history
    daemon.history = []
    assert shell("state", "history", "k").code == 4


def test_history_goes_on_over_pages(shell: Shell, daemon: FakeDaemon) -> None:
    """There is no gap or repetition even if two changes have the same version."""
    daemon.history = [
        change_object(seq, "set" if seq % 2 else "expired", (seq + 1) // 2, seq)
        for seq in range(2500, 0, -1)
    ]
    printed = shell("state", "history", "k", "--limit", "2400").stdout.splitlines()
    assert [int(line.split("\t")[0]) for line in printed] == [*range(2500, 100, -1)]


def test_errors_of_the_daemon_keep_their_status(shell: Shell, daemon: FakeDaemon) -> None:
    """With `--json` they are also printed as an object with all their fields."""

    def refuse(_: dict[str, Any]) -> Any:
        raise LockHeld("held", owner="run_1", expires_at=AT)

    daemon.answers["state.set"] = refuse
    told = shell("state", "set", "k", "1", "--json")
    assert (told.stdout, told.code) == ("", 5)
    assert json.loads(told.stderr.splitlines()[-1])["error"]["owner"] == "run_1"


def test_without_a_daemon_is_exit_3(shell: Shell) -> None:
    """No daemon, and none may be started."""
    for argv in (["get", "k"], ["set", "k", "1"], ["list"], ["lock", "k", "--ttl", "1s"]):
        assert shell("--no-start", "state", *argv).code == 3
