"""docs/protocol.md says what the daemon does: its methods, params, error codes and kinds."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.project import REPOSITORY
from stackshift_jobs.calls.methods import METHODS
from stackshift_jobs.errors import BY_CODE
from stackshift_jobs.project.config import load_config
from stackshiftd.core.why import WAITS_FOR
from stackshiftd.daemon import Daemon
from stackshiftd.journal.memory import MemoryJournal
from stackshiftd.shell.views.steps import KINDS

PAGE = (REPOSITORY / "docs" / "protocol.md").read_text(encoding="utf-8")
SAME = {
    "dead.discard": "dead.retry",
    "queue.resume": "queue.pause",
}
"""Methods whose row says that they are like another."""
NOT_ON_THE_SOCKET = {"daemon_unavailable", "lock_lost", "cancelling", "journal_diverged"}
"""Codes that the client itself makes, that only a handler is given, or that a daemon ends with."""


def rows() -> dict[str, str]:
    """What the page's tables say of the params of each method."""
    found: dict[str, str] = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        names = re.findall(r"`([a-z]+\.[a-z_]+)`", cells[0]) if line.startswith("| `") else []
        found |= dict.fromkeys(names, cells[1] if len(cells) > 2 else "")
    return found


def served(folder: Path) -> dict[str, type[msgspec.Struct]]:
    """The methods of a daemon, with what reads their params."""

    async def tables() -> dict[str, type[msgspec.Struct]]:
        (folder / "stackshift.toml").write_text("")
        daemon = Daemon(load_config(folder, {}), MemoryJournal(), in_memory=True)
        return dict(daemon.router.params)

    return asyncio.run(tables())


def test_daemon_serves_the_methods_of_the_table_and_no_others(tmp_path: Path) -> None:
    """What clients know of a method (may it be repeated?) is never missing."""
    assert set(served(tmp_path)) == set(METHODS)


def test_page_names_every_method() -> None:
    """In its tables, or in the text for following."""
    in_text = {"feed.open", "feed.close"}
    assert set(rows()) | in_text == set(METHODS)
    assert all(f"`{name} {{" in PAGE for name in in_text)


@pytest.mark.parametrize("method", [name for name in METHODS if not name.startswith("feed.")])
def test_params_on_the_page_are_those_that_are_taken(method: str, tmp_path: Path) -> None:
    """No param is missing, and none that is named is refused."""
    told = rows()[SAME.get(method, method)]
    params: Any = served(tmp_path)[method]
    named = set(re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", told)))
    assert named == {field.name for field in msgspec.structs.fields(params)}


def test_error_codes_on_the_page_are_those_of_the_wire() -> None:
    """Each with its meaning."""
    section = PAGE.partition("## Errors")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `([a-z_]+)` \|", section, re.MULTILINE))
    assert told == set(BY_CODE) - NOT_ON_THE_SOCKET


def test_kinds_of_steps_and_waits_are_on_the_page() -> None:
    """`steps[].kind` and `waiting_for.kind` are for programs to branch on."""
    assert f"`kind`: `{' '.join(KINDS)}`" in PAGE
    assert f"kinds `{' '.join(WAITS_FOR)}`" in " ".join(PAGE.split())
