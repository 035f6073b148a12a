"""`userOnboarding`: a wait of a day takes no time here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stackshift_jobs.testing import Run, Stackshift

ADA = {"email": "ada@example.org"}


def verify(stackshift: Stackshift, run: Run) -> list[str]:
    """Say that the address is theirs; the runs that were resumed."""
    assert run.waiting_for is not None
    key = run.waiting_for["correlation_key"]
    return stackshift.events.send("email.verified", correlation_key=key).resumed


def test_onboarding_fails_without_the_event(stackshift: Stackshift) -> None:
    """A day without the event, and the account stays locked."""
    run = stackshift.start("userOnboarding", ADA)
    assert run.status == "waiting"
    assert run.waiting_for is not None
    assert run.waiting_for["event"] == "email.verified"
    stackshift.advance("23h")
    assert run.status == "waiting"
    stackshift.advance("1h")
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == "TimeoutError"
    assert "unlock-account" not in run.steps


def test_onboarding_goes_on_with_the_event(stackshift: Stackshift) -> None:
    """It resumes the run that waits for it, at the time when it comes."""
    run = stackshift.start("userOnboarding", ADA)
    stackshift.advance("2h")
    assert verify(stackshift, run) == [run.id]
    assert run.status == "completed"
    assert run.result["verified_at"] == "2026-01-05T11:00:00+00:00"
    assert stackshift.state.get("users:onboarded") == 1


def test_waiting_survives_a_restart(stackshift: Stackshift) -> None:
    """The daemon was down for three hours, and nothing is lost."""
    run = stackshift.start("userOnboarding", ADA)
    stackshift.restart(down_for="3h")
    assert run.status == "waiting"
    verify(stackshift, run)
    assert run.result["unlocked"] is True


@pytest.mark.parametrize("when", ["before_record", "after_record"])
@pytest.mark.parametrize(
    "step",
    ["create-user", "send-verification", "unlock-account", "[state.increment users:onboarded]"],
)
def test_worker_may_die_anywhere(stackshift: Stackshift, out: Path, step: str, when: str) -> None:
    """One mail, one user, counted once: whatever was done twice makes no difference."""
    with stackshift.crashing(step, when):
        run = stackshift.start("userOnboarding", ADA)
        verify(stackshift, run)
    assert run.status == "completed"
    assert stackshift.state.get("users:onboarded") == 1
    assert len(list((out / "outbox").iterdir())) == 1
    (user,) = (out / "shop" / "users").iterdir()
    assert json.loads(user.read_text())["unlocked"] is True


def test_mail_that_cannot_be_sent_is_tried_again(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are plain functions: a test replaces what they call."""
    sent: list[str] = []

    async def unreachable(email: str, key: str) -> None:
        sent.append(email)
        raise ConnectionError("no route to the mail server")

    monkeypatch.setattr("jobs.onboarding.send_verification", unreachable)
    run = stackshift.start("userOnboarding", ADA)
    assert (run.status, run.attempt) == ("retrying", 1)
    run.finish()
    assert (run.status, run.attempt) == ("failed", 3)
    assert sent == [ADA["email"]] * 3
    assert run.steps["create-user"].attempts == 1
