"""Every command on the pages that teach is run, in order, as a reader would type it."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from docs.likeness import missing
from docs.pages import Command, File, blocks, steps
from docs.terminal import Terminal
from helpers import via
from helpers.deadline import wait_until
from helpers.postgres import Postgres
from helpers.postgres_server import database as database
from helpers.project import REPOSITORY
from helpers.sshd import IS_THERE, MISSING, PRIVILEGES

DOCS = REPOSITORY / "docs"
TAUGHT = (
    "queues",
    "schedules",
    "dead-letter",
    "alerts",
    "state",
    "events",
    "idempotency",
    "testing",
    "security",
    "tour",
    "shell",
)
HOSTS = DOCS / "hosts.md"
CLUSTER = DOCS / "cluster.md"
GUIDES = [*DOCS.glob("guide-*.md"), *(DOCS / f"{name}.md" for name in TAUGHT)]
PAGES = [REPOSITORY / "README.md", *sorted(GUIDES)]
EXAMPLE = REPOSITORY / "jobs.example"
DATABASE = "postgresql://db-1/shop"


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A shell in an empty home directory."""
    opened = Terminal(tmp_path)
    yield opened
    opened.close()


def shown(terminal: Terminal, step: Command) -> bool:
    """Does the command print now what the page shows?"""
    printed, _ = terminal.run(step.text)
    return missing(via.expected(step.output), via.of_one_machine(printed).splitlines()) is None


def follow(page: Path, terminal: Terminal, url: str = "") -> int:
    """Do what `page` says, with a database of which `url` is the URL; the number of commands. Each
    must succeed, unless the page asks for its status next, and print what the page shows; one that
    only says how far a run is, in the end."""
    todo = [with_database(step, url) for step in steps(page)]
    done = 0
    for step, after in zip(todo, [*todo[1:], None], strict=True):
        if isinstance(step, File):
            terminal.write(step.path, step.text)
            continue
        printed, status = terminal.run(step.text)
        where = f"{page.name}:{step.line}: $ {step.text}\n{printed}"
        if not (isinstance(after, Command) and after.asks_for_status):
            assert status == 0, f"exit {status} at {where}"
        lost = missing(via.expected(step.output), via.of_one_machine(printed).splitlines())
        if lost is not None and step.text.startswith("stackshift runs why"):
            wait_until(partial(shown, terminal, step), where)
            continue
        assert lost is None, f"not printed: {lost!r}\nat {where}"
        done += 1
    return done


def with_marks(page: Path) -> Any:
    """The page as a parameter of a test that runs its commands."""
    if page.name != "guide-from-cron.md":
        return page
    why = "@reboot is refused where machines share the journal"
    return pytest.param(page, marks=pytest.mark.not_via(why=why))


@pytest.mark.parametrize("page", [with_marks(page) for page in PAGES], ids=lambda page: page.name)
def test_commands_of_a_page_do_what_it_shows(page: Path, terminal: Terminal) -> None:
    """A page's sessions succeed and print the lines that it shows."""
    assert follow(page, terminal) > 0


def test_commands_of_the_example_do_what_its_page_shows(terminal: Terminal) -> None:
    """So do those of the example project's page, in a copy of it."""
    copy_example(terminal)
    terminal.run("cd jobs.example")
    assert follow(EXAMPLE / "README.md", terminal) > 0


def copy_example(terminal: Terminal) -> None:
    """Put the example project into the reader's home, without what it has made."""
    unwanted = shutil.ignore_patterns(".stackshift", "out", "__pycache__")
    shutil.copytree(EXAMPLE, terminal.home / EXAMPLE.name, ignore=unwanted)


@pytest.mark.skipif(not IS_THERE, reason=MISSING)
def test_commands_of_the_page_on_hosts_do_what_it_shows(terminal: Terminal) -> None:
    """With an sshd that the page starts."""
    copy_example(terminal)
    if os.geteuid() == 0:
        PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
    try:
        assert follow(HOSTS, terminal) > 10
    finally:
        pid = terminal.home / "shop" / "sshd" / "pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


def with_database(step: Command | File, url: str) -> Command | File:
    """The step, with the URL of a database in the place of the page's."""
    if not url or isinstance(step, File):
        return step
    output = tuple(line.replace(DATABASE, url) for line in step.output)
    return replace(step, text=step.text.replace(DATABASE, url), output=output)


@pytest.mark.not_via(why="it says itself where its journal is")
def test_commands_of_the_page_on_clusters_do_what_it_shows(
    terminal: Terminal, database: Postgres
) -> None:
    """With a PostgreSQL server."""
    assert follow(CLUSTER, terminal, database.url) > 10


@pytest.mark.parametrize(
    "page",
    [*PAGES, CLUSTER, HOSTS, EXAMPLE / "README.md"],
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_python_on_a_page_is_python(page: Path) -> None:
    """Code that is only read can at least be parsed."""
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.text, f"{page.name}:{block.line}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """A relative link names a file of the project."""
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
