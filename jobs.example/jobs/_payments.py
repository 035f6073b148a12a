"""A payment gateway to try things with. It behaves like real ones where it matters:

It honours idempotency keys: the same key is the same charge. And it is unreliable in the worst
way: the first answer to each key is lost after the money was taken.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from jobs._files import OUT, write_json

CHARGES = OUT / "payments"
REFUSED_CARD = "4000000000000002"


class CardRefused(Exception):
    """The bank said no, and would say it again."""


class AnswerLost(Exception):
    """The connection broke: the charge may or may not have been made."""


def charge(amount_cents: int, card: str, *, idempotency_key: str) -> dict[str, Any]:
    """Take money once for each key; the charge."""
    if card == REFUSED_CARD:
        raise CardRefused(f"card ending in {card[-4:]} was refused")
    digest = sha256(idempotency_key.encode()).hexdigest()[:16]
    kept = CHARGES / f"{digest}.json"
    if kept.exists():
        made: dict[str, Any] = json.loads(kept.read_text())
        return made
    write_json(kept, {"id": f"ch_{digest}", "amount_cents": amount_cents, "card": card[-4:]})
    raise AnswerLost("connection reset by peer")


def refund(charge: str) -> None:
    """Give the money of a charge back; a second time changes nothing."""
    kept = CHARGES / f"{charge.removeprefix('ch_')}.json"
    write_json(kept, json.loads(kept.read_text()) | {"refunded": True})
