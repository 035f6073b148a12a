"""Running `stackshift` on a pseudo-terminal of 100 by 30 cells, and reading what it shows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pexpect
import pytest

from cli.conftest import Shell

Terminal = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture(autouse=True)
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The local zone of pictures that are drawn in this process."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def terminal(shell: Shell) -> Iterator[Terminal]:
    """Runs `stackshift ARGS` on a terminal."""
    opened: list[pexpect.spawn[str]] = []

    def spawn(*args: str, cells: int = 100, lines: int = 30, **env: str) -> pexpect.spawn[str]:
        program, *rest = shell.command(*args)
        child = pexpect.spawn(
            program,
            rest,
            cwd=str(shell.directory),
            dimensions=(lines, cells),
            encoding="utf-8",
            env={**shell.env, "TERM": "xterm-256color", **env},
            timeout=60,
        )
        opened.append(child)
        return child

    yield spawn
    for child in opened:
        child.close(force=True)


def ended(child: pexpect.spawn[str]) -> tuple[str, int]:
    """Everything that is printed until the command ends, and its exit status."""
    child.expect(pexpect.EOF)
    child.close()
    assert child.before is not None
    return child.before.replace("\r\n", "\n"), child.exitstatus or 0


def plain(text: str) -> str:
    """`text` without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
