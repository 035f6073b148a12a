"""`billing`: money moves once, whatever goes wrong around it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stackshift_jobs.testing import Stackshift

ORDER = {"customer": "cus_42", "amount_cents": 4900}
LARGE = {"customer": "cus_9", "amount_cents": 250_000}


@pytest.mark.parametrize("when", ["before_record", "after_record"])
@pytest.mark.parametrize(
    "step", ["charge-card", "provision-plan", "[state.increment revenue:cents]"]
)
def test_money_moves_once_though_the_worker_dies(
    stackshift: Stackshift, out: Path, step: str, when: str
) -> None:
    """One charge, one entry in the revenue, one event, wherever it happens."""
    with stackshift.crashing(step, when):
        run = stackshift.start("billing", ORDER).finish()
    assert run.status == "completed"
    (charge,) = (out / "payments").iterdir()
    assert json.loads(charge.read_text())["id"] == run.result["charge"]
    assert stackshift.state.get("revenue:cents") == 4900
    (event,) = stackshift.call("event.list")["events"]
    assert event["payload"] == {"charge": run.result["charge"]}


def test_refused_card_is_not_tried_again(stackshift: Stackshift, out: Path) -> None:
    """The bank would say it again."""
    run = stackshift.start("billing", ORDER | {"card": "4000000000000002"})
    assert (run.status, run.attempt) == ("failed", 1)
    assert run.error is not None
    assert run.error["message"] == "card ending in 0002 was refused"
    assert not out.exists()


@pytest.mark.parametrize(
    ("decision", "charged"), [("payment.approved", True), ("payment.rejected", False)]
)
def test_large_order_waits_for_a_person(
    stackshift: Stackshift, out: Path, decision: str, charged: bool
) -> None:
    """Nothing is charged before, and only if they approve."""
    run = stackshift.start("billing", LARGE)
    stackshift.advance("1d")
    assert (run.status, out.exists()) == ("waiting", False)
    stackshift.events.send(decision, correlation_key="customer:cus_9")
    run.finish()
    assert (run.result["charge"] is not None, out.exists()) == (charged, charged)


def test_large_order_that_nobody_looks_at_is_cancelled(stackshift: Stackshift, out: Path) -> None:
    """After two days."""
    run = stackshift.start("billing", LARGE)
    stackshift.advance("2d")
    assert (run.status, out.exists()) == ("cancelled", False)


def test_one_key_makes_one_payment(stackshift: Stackshift) -> None:
    """The second start finds the run of the first."""
    first = stackshift.start("billing", ORDER, idempotency_key="order:1")
    second = stackshift.start("billing", ORDER, idempotency_key="order:1")
    assert (second, second.reused) == (first, True)
    first.finish()
    assert stackshift.state.get("revenue:cents") == 4900


def test_money_goes_back_if_the_plan_cannot_be_provided(
    stackshift: Stackshift, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, and before the run has failed."""

    def down(*_arguments: object, **_fields: object) -> None:
        raise ConnectionError("the shop is down")

    monkeypatch.setattr("jobs._shop.upsert", down)
    with stackshift.crashing("undo charge-card", "before_record"):
        run = stackshift.start("billing", ORDER).finish()
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["message"] == "the shop is down"
    (charge,) = (out / "payments").iterdir()
    assert json.loads(charge.read_text())["refunded"] is True
    assert stackshift.state.get("revenue:cents") is None


def test_money_goes_back_if_its_answer_was_lost(stackshift: Stackshift, out: Path) -> None:
    """The run is cancelled before the gateway is asked again: nobody knows of the charge, and it is
    found by its key."""
    run = stackshift.start("billing", ORDER)
    assert run.status == "retrying"
    run.cancel(gently=True)
    assert run.finish().status == "cancelled"
    (charge,) = (out / "payments").iterdir()
    assert json.loads(charge.read_text())["refunded"] is True
