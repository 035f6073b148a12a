"""`billing`: money moves once, although every step may be tried more than once.

Try it, also with a card that is refused (`-F card=4000000000000002`):

    stackshift start billing -F customer=cus_42 -F amount_cents:=4900 --follow

An order of 1,000.00 and more waits until a person has looked at it:

    stackshift start billing -F customer=cus_9 -F amount_cents:=250000
    stackshift event send payment.approved --correlation-key customer:cus_9
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import stackshift_jobs as stackshift
from stackshift_jobs import JobContext, NonRetryable, Retry, Undo

from jobs import _payments, _shop

LARGE_CENTS = 100_000
"""An order of so much is looked at by a person."""
PATIENT = Retry(max_attempts=5, backoff="500ms", max_backoff="1m")
"""Of a step: it alone is tried again, and the run stays in its first attempt."""


@dataclass
class Order:
    """The payload."""

    customer: str
    amount_cents: int
    plan: str = "pro"
    card: str = "4242424242424242"


# One at a time for each customer: two payments at once would race for one plan.
stackshift.queue("billing", key_concurrency=1)


@stackshift.job("billing", queue="billing", concurrency_key="customer:{customer}")
def billing(ctx: JobContext[Order]) -> dict[str, Any]:
    """Charge the card, then provision the plan that was paid for."""
    order = ctx.payload
    about = f"customer:{order.customer}"

    if order.amount_cents >= LARGE_CENTS:
        # Whatever comes first. If nobody looks at it for two days, the run is cancelled.
        decision = ctx.step.wait_for_any(
            [("payment.approved", about), ("payment.rejected", about)],
            name="review",
            timeout="2d",
            on_timeout="cancel",
        )
        if decision.name == "payment.rejected":
            return {"customer": order.customer, "plan": None, "charge": None}

    # `key` names this step of this run for good. A crash after the charge and before its record
    # would repeat the step; the gateway then sees the key again and takes no second payment.
    key = ctx.step.key("charge-card")
    # If the plan cannot be provided after all, or the run is cancelled gently, the money goes back;
    # also if all that is known of the charge is that its answer was lost.
    refund = Undo(lambda _charge: _payments.refund(idempotency_key=key), if_failed=True)
    charge = ctx.step.run("charge-card", charge_card, order, key, retry=PATIENT, undo=refund)

    # Tried again without touching the charge above: its result is on record.
    ctx.step.run("provision-plan", provision, order, charge["id"], retry=PATIENT)

    # Both happen exactly once for this run: they are one record each with the fact that it did so.
    ctx.state.increment("revenue:cents", by=order.amount_cents)
    ctx.events.send("payment.captured", {"charge": charge["id"]}, correlation_key=about)
    return {"customer": order.customer, "plan": order.plan, "charge": charge["id"]}


def charge_card(order: Order, key: str) -> dict[str, Any]:
    """Take the money. A lost answer is worth another try, a refused card is not."""
    try:
        return _payments.charge(order.amount_cents, order.card, idempotency_key=key)
    except _payments.CardRefused as refused:
        raise NonRetryable(str(refused)) from refused


def provision(order: Order, charge: str) -> dict[str, Any]:
    """Give the customer what was paid for."""
    return _shop.upsert("plans", order.customer, plan=order.plan, charge=charge)
