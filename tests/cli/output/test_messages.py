"""Errors and notes for the person: what others wrote in them stays as it is."""

from __future__ import annotations

import json
import time

import pytest

from stackshift_cli.output import messages, terminal
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import Conflict, LockHeld

UNTIL = "2026-05-06T22:31:00.250000Z"


@pytest.fixture
def in_tokyo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error is a terminal in Japan."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    monkeypatch.setattr(terminal, "is_terminal", lambda _stream: True)


@pytest.mark.usefixtures("in_tokyo")
def test_times_of_others_are_never_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """A key, a payload or the text of an exception may look like a time; a hint may teach one."""
    key = "tick:2026-11-29T02:40:13Z"
    messages.error(Conflict(f"key {key!r} is another's", hint="write 2026-05-06T09:00:00Z"), False)
    messages.say(f"no data for {UNTIL}")
    assert capsys.readouterr().err.splitlines() == [
        f"error[conflict]: key {key!r} is another's",
        "hint: write 2026-05-06T09:00:00Z",
        f"no data for {UNTIL}",
    ]


@pytest.mark.usefixtures("in_tokyo")
@pytest.mark.parametrize("written", [UNTIL, "2026-05-06T22:31:00Z"])
def test_end_of_a_lock_is_a_time_of_the_screen(
    capsys: pytest.CaptureFixture[str], written: str
) -> None:
    """Its field says which time that is."""
    held = f"lock 'l:2026-05-06T22:31:00Z' is held by sync until {written}"
    messages.error(LockHeld(held, hint="", expires_at=UNTIL), False)
    told = capsys.readouterr().err
    assert told.startswith("error[lock_held]: lock 'l:2026-05-06T22:31:00Z' is held by sync until ")
    assert "07:31" in told.rpartition("until")[2]


@pytest.mark.parametrize("value", ["Grüße, 世界 🎉", {"ключ": ["\u202eevil\x7f\x9b", "a\nb", 1.5]}])
def test_json_for_a_person_is_in_their_script(
    monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """Only on a terminal that shows it; elsewhere it is ASCII. It is the same value, and nothing in
    it can control the terminal."""
    monkeypatch.setattr(terminal, "is_terminal", lambda _stream: False)
    plain = messages.compact(value)
    assert (plain.isascii(), "\x7f" in plain, json.loads(plain)) == (True, False, value)
    monkeypatch.setattr(terminal, "is_terminal", lambda _stream: True)
    monkeypatch.setattr(terminal, "shows_unicode", lambda: True)
    shown = messages.compact(value)
    assert (shown.isascii(), safe(shown), json.loads(shown)) == (False, shown, value)
    monkeypatch.setattr(terminal, "shows_unicode", lambda: False)
    assert messages.compact(value) == plain
