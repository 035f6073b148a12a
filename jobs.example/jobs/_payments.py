"""A payment gateway to try things with. It behaves like real ones where it matters:

It honours idempotency keys: the same key is the same charge. And it is unreliable in the worst
way: the first answer to each key is lost after the money was taken.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
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
    kept = _kept(idempotency_key)
    if kept.exists():
        made: dict[str, Any] = json.loads(kept.read_text())
        return made
    write_json(kept, {"id": f"ch_{kept.stem}", "amount_cents": amount_cents, "card": card[-4:]})
    raise AnswerLost("connection reset by peer")


def refund(*, idempotency_key: str) -> None:
    """Give back what was taken under a key; a second time, or if nothing was, changes nothing."""
    kept = _kept(idempotency_key)
    if kept.exists():
        write_json(kept, json.loads(kept.read_text()) | {"refunded": True})


def _kept(key: str) -> Path:
    return CHARGES / f"{sha256(key.encode()).hexdigest()[:16]}.json"
