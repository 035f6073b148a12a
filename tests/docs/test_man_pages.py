"""The man pages of the command line, the settings, the journal and the jobs: complete and true."""

from __future__ import annotations

import re
import subprocess
import tomllib
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

import stackshift_jobs
from helpers.project import REPOSITORY
from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.examples import EXAMPLES
from stackshift_cli.commands.help_page import ONE_PAGE
from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option
from stackshift_jobs.project.config import KEYS
from stackshift_jobs.registry import JobOptions
from stackshiftd.core.records import BY_KIND

FOLDER = REPOSITORY / "man"
PAGES = sorted(FOLDER.glob("*.[1-8]"))
OF_OTHERS = {
    *("systemd.unit 5", "crontab 5", "crontab 1", "cron 8"),
    *("jq 1", "ssh 1", "sudo 8", "top 1"),
}


def text(name: str) -> str:
    """The page `name` with the marks of its source taken out of words."""
    page = (FOLDER / name).read_text("ascii")
    return page.replace("\\-", "-").replace("\\&", "").replace("\\(dq", '"').replace("\\e", "\\")


def page_of(command: Command) -> str:
    """The text of the page that explains `command`."""
    noun = command.path[0]
    return text("stackshift.1" if noun in ONE_PAGE else f"stackshift-{noun}.1")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """`.ci/man_pages`, which makes what tables say."""
    path = REPOSITORY / ".ci" / "man_pages"
    loader = SourceFileLoader("man_pages", str(path))
    spec = spec_from_loader("man_pages", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.path))
def test_page_of_the_noun_has_the_command_and_all_it_takes(command: Command) -> None:
    """Each command is explained in its page, with each spelling of its options."""
    page = page_of(command)
    if command.path[0] not in ONE_PAGE:
        page = page.partition(".Sh COMMANDS\n")[2]
    explained = page.partition(".Sh EXAMPLES")[0]
    assert f".It Cm {' '.join(command.path)}" in explained
    for parameter in command.parameters:
        if isinstance(parameter, Option):
            for flag in parameter.flags:
                assert re.search(rf"(Fl|,) {re.escape(flag[1:])}\b", explained), flag


def test_first_page_has_the_global_options_and_the_other_pages() -> None:
    """`stackshift(1)` leads to all that there is."""
    page = text("stackshift.1")
    for option in (o for o in GLOBALS if isinstance(o, Option)):
        assert option.flags[-1][1:] in page
    see_also = page.partition(".Sh SEE ALSO")[2]
    for other in PAGES:
        if other.name != "stackshift.1":
            assert f".Xr {other.stem} {other.suffix[1:]}" in see_also
    assert [topic for topic in TOPICS if topic not in page] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: " ".join(c.path))
def test_page_has_the_examples_of_its_commands(command: Command) -> None:
    """What `--help` shows is in the page too."""
    if command.path[0] not in ONE_PAGE:
        page = page_of(command)
        assert [e.line for e in EXAMPLES[command.path] if f".Dl {e.line}\n" not in page] == []
        words = [p for p in command.parameters if isinstance(p, Argument)]
        synopsis = page.partition(".Sh SYNOPSIS\n")[2].partition(".Sh ")[0]
        assert f".Nm stackshift {' '.join(command.path)}\n" in synopsis
        assert all(word.metavar.strip("[].").lower() in synopsis for word in words)


def test_pages_are_what_the_tables_say(maker: ModuleType) -> None:
    """`.ci/man_pages` was run after the last change of a table."""
    stale = [name for name, made in maker.pages().items() if (FOLDER / name).read_text() != made]
    assert stale == [], "run .venv/bin/python .ci/man_pages"


def test_settings_records_and_names_stand_in_their_pages() -> None:
    """Each setting with its default, each kind of record, each public name and option of a job."""
    settings, records, jobs = map(
        text, ("stackshift.toml.5", "stackshift-journal.5", "stackshift-jobs.7")
    )
    for key in KEYS:
        assert f".It Ic {key.name}\n" in settings
    assert [kind for kind in BY_KIND if f".It Ic {kind}\n" not in records] == []
    words = set(re.findall(r"[\w.]+", jobs))
    assert [name for name in stackshift_jobs.__all__ if name not in words] == []
    options = JobOptions.__annotations__.keys()
    assert options
    assert [option for option in options if option not in words] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_is_installed_and_refers_to_pages_that_exist(page: Path) -> None:
    """The wheel has it where `man` looks, and `SEE ALSO` leads nowhere else."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    data = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    section = page.suffix[1:]
    assert data[f"man/{page.name}"] == f"share/man/man{section}/{page.name}"
    names = {f"{other.stem} {other.suffix[1:]}" for other in PAGES}
    found = set(re.findall(r"^\.(?:It )?Xr (\S+ \d)", page.read_text(), re.MULTILINE))
    assert found - names - OF_OTHERS == set()


def test_pages_have_no_mistakes() -> None:
    """Whatever reads man pages here has nothing to say about them; status 3: nothing does."""
    done = subprocess.run(
        ["sh", ".ci/man", *map(str, PAGES)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 3), done.stdout + done.stderr
