"""Where a new value is written in a file of settings."""

from __future__ import annotations

import fcntl
import os
import tomllib
from pathlib import Path

import pytest

from stackshift_cli import settings_file
from stackshift_cli.settings_file import edit, edited, remove
from stackshift_cli.verbs.project import commented_settings
from stackshift_jobs.project.config import KEYS, NAMED

FILE = """\
# Ours.
[project]
name = "shop"

[workers]
# processes = …  # Worker processes.
# slots = 16  # Runs at once.
# grace = "10s"

# [queues.NAME]
# concurrency = …

# How often.
[retry]
backoff = "2s"  # not less

# That of mail.
[queues.mail]
rate = "1/s"
"""


@pytest.mark.parametrize(
    ("section", "name", "above"),
    [
        ("workers", "slots", "# slots = 16  # Runs at once."),
        ("workers", "nice", '# grace = "10s"'),
        ("retry", "factor", 'backoff = "2s"  # not less'),
        ("project", "watch", 'name = "shop"'),
        ("queues.mail", "paused", 'rate = "1/s"'),
    ],
    ids=str,
)
def test_new_value_stands_at_its_commented_default_or_ends_the_section(
    section: str, name: str, above: str
) -> None:
    """Not behind a commented header, nor behind the comments of the next section."""
    after = edited(FILE, tuple(section.split(".")), name, 4).splitlines()
    at = after.index(f"{name} = 4")
    assert after[at - 1] == above
    assert [*after[:at], *after[at + 1 :]] == FILE.splitlines()


def test_each_setting_of_a_new_project_is_set_below_its_default() -> None:
    """Uncommenting the header of a section later gives that section no foreign setting."""
    text = commented_settings()
    for key in KEYS:
        if key.section in NAMED.values():
            continue
        lines = edited(text, (key.section,), key.name, "x").splitlines()
        at = lines.index(f'{key.name} = "x"')
        assert lines[at - 1].startswith(f"# {key.name} = ")
        header = max(n for n in range(at) if lines[n].startswith(("[", "# [")))
        assert lines[header] == f"[{key.section}]"


@pytest.mark.parametrize(
    ("text", "section"),
    [
        ("", ("workers",)),
        ("[workers]", ("workers",)),
        ("workers.grace = '1s'\n", ("workers",)),
        ("workers = { grace = '1s' }\n", ("workers",)),
        ("[workers]\npath = [\n  'a',\n]\n[retry]\n", ("workers",)),
        ("[workers]\npath = [\n['a'],\n]\n[retry]\n", ("workers",)),
        ("[project]\nname = '''\n[workers]\n'''\n", ("workers",)),
        ("color = 'never'\n[a]\nb = 1\n", ()),
        ("[queues.'a b']\nrate = 1\n", ("queues", "a b")),
        ("[queues.b]\nrate = 1\n", ("queues", "a b")),
        ("[workers]\r\n# slots = 16\r\ngrace = '1s'\r\n", ("workers",)),
    ],
    ids=repr,
)
def test_everything_else_means_what_it_meant(text: str, section: tuple[str, ...]) -> None:
    """Whatever the file looks like: no header, arrays and texts that look like one, other ends."""
    wanted = table = tomllib.loads(text.replace("\r\n", "\n"))
    for part in section:
        table = table.setdefault(part, {})
    table["slots"] = 4
    after = edited(text, section, "slots", 4)
    assert tomllib.loads(after.replace("\r\n", "\n")) == wanted
    assert after.count("\r\n") in (0, after.count("\n"))


def test_value_that_is_there_is_changed_in_its_place(tmp_path: Path) -> None:
    """Its comment stays beside it, and the file its mode."""
    file = tmp_path / "stackshift.toml"
    file.write_text(FILE)
    file.chmod(0o640)
    edit(file, ("retry",), "backoff", "3s")
    assert file.read_text() == FILE.replace('"2s"', '"3s"')
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("how", ["edit", "remove"])
def test_file_is_changed_by_one_command_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """What another command writes between our reading and our writing would be lost."""
    file = tmp_path / "stackshift.toml"
    file.write_text("[workers]\nslots = 2\n")
    others: list[bool] = []

    def read(path: Path) -> str:
        folder = os.open(tmp_path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            others.append(True)
        except BlockingIOError:
            others.append(False)
        finally:
            os.close(folder)
        return path.read_text()

    monkeypatch.setattr(settings_file, "read_config_text", read)
    if how == "edit":
        edit(file, ("workers",), "nice", 4)
    else:
        assert remove(file, ("workers",), "slots")
    assert others == [False]
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


def test_root_leaves_a_file_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo stackshift config set` in a user's project; a new file belongs to whom its directory
    does."""
    given: list[tuple[str, int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "chown", lambda path, uid, gid: given.append((path.name, uid, gid)))
    stat = tmp_path.stat()
    owner = (4711, 4712)

    class Theirs:
        st_mode, (st_uid, st_gid) = stat.st_mode, owner

    monkeypatch.setattr(Path, "stat", lambda _self, **_: Theirs())
    settings_file._write(tmp_path / "stackshift.toml", "")
    assert given == [(f".stackshift.toml.{os.getpid()}.tmp", *owner)]
