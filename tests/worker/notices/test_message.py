"""What messages say: what happened to what, and what to type."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from stackshift_cli.commands.catalogue import COMMANDS
from stackshiftd.worker.notices.message import Notice, Place, subject, text

PLACE = Place("shop", "/srv/my shop", "web-1")
ERROR = {
    "type": "ValueError",
    "message": "row 14 has no price",
    "traceback": 'Traceback (most recent call last):\n  File "a.py", line 3, in parse\n'
    "    raise x\nValueError: row 14 has no price\n",
}


def notice(alert: str, **fields: Any) -> Notice:
    """A notice about the run of a job."""
    return Notice("ops", alert, **{"job": "import", "run": "run_01", "error": None, **fields})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (notice("failed", error=ERROR), "import failed: ValueError: row 14 has no price"),
        (
            notice("failed", error=ERROR, count=14, detail={"since": "T"}),
            "14 runs of import failed, with the same error since T: ValueError: row 14 has",
        ),
        (
            notice("late", detail={"max_runtime_ms": 1_200_000}),
            "import is late: it has run for more than 20m",
        ),
        (
            notice("missing", run=None, detail={"expect": "daily by 03:00", "due_at": "T"}),
            "import is missing: a success was expected daily by 03:00, and was due at T",
        ),
        (
            notice("recovered", detail={"after": "missing", "since": "T", "held": 3}),
            "import has recovered: it was missing since T, and 3 more alerts",
        ),
        (
            notice("daemon_stopped", job="", detail={"reason": "asked"}),
            "the daemon of shop stops: it was asked to",
        ),
        (
            notice("daemon_stopped", job="", detail={"last_at": "A", "back_at": "B"}),
            "the daemon of shop was gone from A to B",
        ),
        (notice("", job="", run=None, count=7, detail={"named": {"failed a": 7}}), "7 more alerts"),
    ],
)
def test_first_line_says_what_happened(given: Notice, said: str) -> None:
    """It is the subject, too."""
    assert subject(given, PLACE).startswith(said)
    assert text(given, PLACE, "").startswith(said)


def test_message_has_place_frames_picture_and_commands() -> None:
    """Each as a part of its own; names with spaces are quoted."""
    written = text(notice("failed", error=ERROR, at="T", queue="q"), PLACE, "✓ a picture\n  of it")
    parts = written.rstrip("\n").split("\n\n")
    assert parts[1] == "run run_01 · queue q · shop on web-1 · T"
    assert parts[2] == '  File "a.py", line 3, in parse\n    raise x'
    assert parts[3] == "✓ a picture\n  of it"
    assert parts[4].splitlines() == [
        "what to type:",
        "  stackshift -C '/srv/my shop' runs show run_01",
        "  stackshift -C '/srv/my shop' runs retry run_01",
    ]


@pytest.mark.parametrize("alert", ["failed", "late", "missing", "recovered", "daemon_stopped", ""])
@pytest.mark.parametrize("run", ["run_01", None])
@pytest.mark.parametrize("count", [1, 3])
def test_commands_to_type_are_commands(alert: str, run: str | None, count: int) -> None:
    """Of the table that the command line has."""
    lines = text(notice(alert, run=run, count=count), PLACE, "").splitlines()
    typed = [shlex.split(line)[3:5] for line in lines if line.startswith("  stackshift")]
    paths = [command.path for command in COMMANDS]
    assert typed or alert == "recovered"
    assert all(tuple(words) in paths for words in typed), typed


def test_subject_is_one_line_whatever_the_error_says() -> None:
    """No line end of an error can add a header, and no control character reaches a screen."""
    given = notice("failed", error={**ERROR, "message": "a\r\nBcc: x@y\x1b[2J\n" * 50})
    line = subject(given, PLACE)
    assert line.isprintable()
    assert len(line) <= 200
