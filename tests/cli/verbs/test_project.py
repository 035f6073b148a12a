"""Transcripts of `init` and `config`."""

from __future__ import annotations

import json
import os
import py_compile
import tomllib
from pathlib import Path

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon


def test_init_makes_a_project_that_is_in_order(shell: Shell, tmp_path: Path) -> None:
    """The settings load and set nothing, the job compiles, and `.gitignore` has a line."""
    shell.directory = tmp_path
    told = shell("init", "new/shop")
    root = tmp_path / "new/shop"
    assert (told.stdout, told.code) == (f"{root}\n", 0)
    hint = "hint: cd new/shop && stackshift start hello -F name=World --wait"
    assert told.stderr.splitlines()[-1] == hint
    written = tomllib.loads((root / "stackshift.toml").read_text())
    assert all(section == {} for section in written.values())
    py_compile.compile(str(root / "jobs/hello.py"), cfile=str(tmp_path / "x.pyc"), doraise=True)
    assert (root / ".gitignore").read_text() == ".stackshift/\n"
    shell.directory = root
    assert shell("config", "get", "workers.slots") == ("16\n", "", 0)


def test_init_here_keeps_what_is_there(shell: Shell, tmp_path: Path) -> None:
    """`.gitignore` gets one more line, once."""
    shell.directory = tmp_path / "here"
    shell.directory.mkdir()
    (shell.directory / ".gitignore").write_text("*.pyc")
    assert json.loads(shell("init", "--json").stdout)["project"] == str(shell.directory)
    assert (shell.directory / ".gitignore").read_text() == "*.pyc\n.stackshift/\n"


def test_init_refuses_a_path_that_is_not_utf8(shell: Shell, tmp_path: Path) -> None:
    """No daemon could serve it."""
    shell.directory = tmp_path
    told = shell("init", os.fsdecode(b"caf\xe9"))
    assert (told.stdout, told.code) == ("", 78)
    assert "is not UTF-8 text" in told.stderr
    assert not (tmp_path / os.fsdecode(b"caf\xe9")).exists()


def test_hint_of_init_works_when_it_is_pasted(shell: Shell, tmp_path: Path) -> None:
    """It changes to the new project, whose name is quoted, but not to where the shell is."""
    shell.directory = tmp_path
    assert "hint: cd 'my shop' && stackshift start hello " in shell("init", "my shop").stderr
    shell.directory = tmp_path / "here"
    shell.directory.mkdir()
    assert "hint: stackshift start hello " in shell("init").stderr
    assert "hint: cd ../c && stackshift start hello " in shell("init", "../c").stderr


@pytest.mark.parametrize("there", ["stackshift.toml", "jobs/hello.py"])
def test_init_overwrites_nothing(shell: Shell, tmp_path: Path, there: str) -> None:
    """Existing files stay as they are, and none is added: exit 5."""
    shell.directory = tmp_path / "here"
    file = shell.directory / there
    file.parent.mkdir(parents=True)
    file.write_text("# mine\n")
    told = shell("init")
    assert (told.stdout, told.code) == ("", 5)
    assert file.read_text() == "# mine\n"
    assert not (shell.directory / ".gitignore").exists()


NEEDED_OF_SCHEDULES = 'cron = "0 2 * * *"\njob = "hello"'


def test_every_setting_of_the_commented_file_is_one(tmp_path: Path) -> None:
    """Without the comment signs, each line with a default is a valid setting; tables that need
    one without a default have it."""
    from stackshift_cli.verbs.project import commented_settings
    from stackshift_jobs.project.config import KEYS, load_config

    text = commented_settings()
    lines = [
        line.removeprefix("# ")
        if (" = " in line and " = …" not in line) or line.startswith("# [")
        else line
        for line in text.splitlines()
    ]
    needed = {"[notify.NAME]": 'command = "true"', "[schedules.NAME]": NEEDED_OF_SCHEDULES}
    lines = [f"{line}\n{needed[line]}" if line in needed else line for line in lines]
    (tmp_path / "stackshift.toml").write_text("\n".join(lines))
    assert load_config(tmp_path).workers.slots == 16
    assert load_config(tmp_path).queues["NAME"].rate_burst == 1
    (tmp_path / "stackshift.toml").write_text(text)
    assert not load_config(tmp_path).queues
    assert all(f"# {key.name} = " in text for key in KEYS)


def test_init_is_in_the_project_that_is_named(shell: Shell, tmp_path: Path) -> None:
    """`-C DIR` replaces the working directory, with and without a directory after `init`."""
    assert shell("-C", str(tmp_path / "a"), "init").stdout == f"{tmp_path}/a\n"
    assert shell("-C", str(tmp_path / "b"), "init", "c").stdout == f"{tmp_path}/b/c\n"
    assert (tmp_path / "a/stackshift.toml").exists()
    assert (tmp_path / "b/c/stackshift.toml").exists()


def test_config_set_keeps_comments_and_order(shell: Shell) -> None:
    """A file that a person wrote is edited in place."""
    file = shell.directory / "stackshift.toml"
    file.write_text("# top\n[workers]  # mine\nslots = 3 # few\n\n[retry]\nbackoff = '2s'\n")
    assert shell("config", "set", "workers.slots", "9").code == 0
    assert shell("config", "set", "queues.media.rate", "100/m").code == 0
    assert shell("config", "set", "workers.inherit_env", '["PATH"]').code == 0
    assert file.read_text().startswith(
        '# top\n[workers]  # mine\nslots = 9 # few\ninherit_env = ["PATH"]\n'
    )
    assert tomllib.loads(file.read_text())["queues"] == {"media": {"rate": "100/m"}}
    assert shell("config", "get", "queues.media.rate").stdout == "100/m\n"
    assert shell("config", "get", "retry.backoff", "--json").stdout == '"2s"\n'


@pytest.mark.parametrize(
    ("key", "value"), [("workers.slot", "3"), ("workers.slots", "many"), ("color", "blue")]
)
def test_config_set_refuses_what_is_wrong_and_changes_nothing(
    shell: Shell, key: str, value: str
) -> None:
    """An unknown setting names the nearest; a wrong value says what is valid: exit 78."""
    told = shell("config", "set", key, value)
    assert (told.stdout, told.code) == ("", 78)
    assert "hint: " in told.stderr
    assert (shell.directory / "stackshift.toml").read_text() == ""


def test_config_of_a_table_lists_its_settings(shell: Shell) -> None:
    """`queues` is a table: to suggest it for itself would help nobody."""
    told = shell("config", "get", "queues.media")
    assert told.code == 78
    assert "queues.media is a table of settings" in told.stderr
    assert "queues.media.concurrency, queues.media.rate, " in told.stderr


def test_config_set_hints_at_a_value_that_is_valid(shell: Shell) -> None:
    """What the setting is for is no hint."""
    told = shell("config", "set", "workers.slots", "many")
    assert "hint: the default is 16; man stackshift.toml" in told.stderr
    told = shell("config", "set", "workers.processes", "many")
    assert "hint: without a value: one per CPU; man" in told.stderr


def test_config_unset_removes_one_value_and_keeps_the_rest(shell: Shell) -> None:
    """Its default holds again; unsetting it once more is no error."""
    file = shell.directory / "stackshift.toml"
    file.write_text("# top\n[workers]  # mine\nslots = 3 # few\ngrace = '1s' # short\n")
    told = shell("config", "unset", "workers.slots")
    assert told == ("", f"workers.slots is no longer set in {file}\n", 0)
    assert file.read_text() == "# top\n[workers]  # mine\ngrace = '1s' # short\n"
    assert shell("config", "get", "workers.slots").stdout == "16\n"
    told = shell("config", "unset", "workers.slots")
    assert told == ("", f"workers.slots is not set in {file}\n", 0)
    assert shell("config", "unset", "workers.slot").code == 78


def test_config_unset_of_a_queue_and_of_the_user(shell: Shell) -> None:
    """The table of the queue stays, and so do the user's other settings."""
    shell("config", "set", "queues.media.rate", "100/m")
    shell("config", "set", "color", "never")
    shell("config", "set", "output", "text")
    assert "no longer" in shell("config", "unset", "queues.media.rate").stderr
    assert "no longer" in shell("config", "unset", "color").stderr
    assert shell("config", "get", "queues.media.rate") == ("\n", "", 0)
    assert shell("config", "get", "color") == ("\n", "", 0)
    assert shell("config", "get", "output") == ("text\n", "", 0)
    assert shell("config", "unset", "trusted").code == 2


def test_config_unset_of_a_table_with_a_name_removes_it(shell: Shell) -> None:
    """One value after the other, a schedule would not be valid until the last was gone."""
    file = shell.directory / "stackshift.toml"
    file.write_text("[schedules.a]\ncron = '@daily'\njob = 'a'\n[queues.q]\nrate = '1/m'\n")
    told = shell("config", "unset", "schedules.a")
    assert told == ("", f"schedules.a is no longer set in {file}\n", 0)
    assert file.read_text() == "[queues.q]\nrate = '1/m'\n"
    assert shell("config", "unset", "queues.q").code == 0
    assert file.read_text() == ""
    assert "not set" in shell("config", "unset", "queues.q").stderr
    assert shell("config", "unset", "queues").code == 78


def test_config_set_says_that_more_is_needed(shell: Shell) -> None:
    """A schedule is set in two commands; after the first one nothing could be started."""
    told = shell("config", "set", "schedules.a.cron", "@daily")
    assert told.code == 0
    assert "note: not valid yet: " in told.stderr
    assert "one of job and command is needed" in told.stderr
    assert "note" not in shell("config", "set", "schedules.a.job", "a").stderr


def test_config_get_says_that_the_daemon_has_an_older_value(
    shell: Shell, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note on stderr, as the daemon words it; notes about modules are not for this command."""
    settings = "stackshift.toml changed since the daemon started: stackshift daemon restart"
    notes = ["jobs/a.py changed since it was loaded: stackshift daemon reload", settings]
    monkeypatch.setattr(daemon, "on_job_list", lambda _: {"jobs": [], "notes": notes})
    assert shell("config", "get", "workers.slots") == ("16\n", f"note: {settings}\n", 0)
    assert shell("config", "get", "color").stderr == ""


def test_config_get_starts_no_daemon(shell: Shell) -> None:
    """The file is all there is to read."""
    assert shell("config", "get", "workers.slots") == ("16\n", "", 0)
    assert not (shell.directory / ".stackshift").exists()


def test_config_show_says_where_each_value_is_from(shell: Shell) -> None:
    """`key TAB value TAB origin`."""
    (shell.directory / "stackshift.toml").write_text("[workers]\nslots = 3\n")
    shell("config", "set", "color", "never")
    data_dir = str(shell.directory / "elsewhere")
    lines = shell("config", "show", "--origin", STACKSHIFT_DATA_DIR=data_dir).stdout.splitlines()
    told = {key: (value, origin) for key, value, origin in (line.split("\t") for line in lines)}
    assert told["workers.slots"] == ("3", "stackshift.toml")
    assert told["journal.durability"] == ("always", "default")
    assert told["project.data_dir"] == (data_dir, "STACKSHIFT_DATA_DIR")
    assert told["color"][0] == "never"
    assert told["color"][1].endswith("config.toml")
    plain = json.loads(shell("config", "show", "--json").stdout)
    assert plain["workers.slots"] == 3


def test_no_command_of_config_prints_a_secret(shell: Shell) -> None:
    """Neither a token nor the path of an address, for whoever knows that may write there; a
    reference to a secret says only where it is."""
    (shell.directory / "stackshift.toml").write_text("""
[notify.ops]
to = "slack://hooks.slack.com/services/s3cr3t"
token = "s3cr3t"
[notify.desk]
to = { "$env" = "DESK" }
[heartbeat]
url = "https://hc-ping.com/s3cr3t"
[schedules.nightly]
cron = "@daily"
job = "nightly"
heartbeat = "https://hc-ping.com/s3cr3t"
""")
    shown = shell("config", "show", "--origin", "--json")
    values = {name: each["value"] for name, each in json.loads(shown.stdout).items()}
    assert values["notify.ops.to"] == "slack://hooks.slack.com/…"
    assert values["notify.ops.token"] == "(not shown)"
    assert values["notify.desk.to"] == {"$env": "DESK"}
    assert values["heartbeat.url"] == values["schedules.nightly.heartbeat"]
    told = [
        shown,
        shell("config", "show"),
        shell("config", "get", "notify.ops.token"),
        shell("config", "get", "heartbeat.url"),
        shell("config", "set", "notify.ops.token", "s3cr3t"),
        shell("config", "set", "heartbeat.url", "https://hc-ping.com/s3cr3t"),
    ]
    assert [each.code for each in told] == [0] * 6
    assert "s3cr3t" not in "".join(each.stdout + each.stderr for each in told)


def test_config_path(shell: Shell) -> None:
    """The file alone, for `$EDITOR "$(stackshift config path)"`."""
    assert shell("config", "path").stdout == f"{shell.directory}/stackshift.toml\n"
    assert shell("config", "path", "--user").stdout.endswith("config.toml\n")


def test_wrong_user_settings_are_said(shell: Shell) -> None:
    """An unknown setting in the user's file: exit 78 and the file."""
    file = Path(shell("config", "path", "--user").stdout.strip())
    file.parent.mkdir(parents=True)
    file.write_text('colour = "never"\n')
    told = shell("config", "show")
    assert told.code == 78
    assert str(file) in told.stderr
