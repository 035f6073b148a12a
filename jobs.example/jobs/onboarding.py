"""`userOnboarding`: a handler that waits for a person, without a process that waits with it.

Try it: the run waits until somebody says that the address is theirs, for a day at most.

    stackshift start userOnboarding -F email=ada@example.com
    stackshift runs why @last
    stackshift event send email.verified --correlation-key user:b5fc85e557
    stackshift runs wait @last
    stackshift state get users:onboarded
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import stackshift_jobs as stackshift
from stackshift_jobs import AsyncJobContext

from jobs import _shop
from jobs._files import OUT, write_json

PATIENCE = "24h"
"""How long somebody has to confirm an address. It costs nothing: nothing is in memory meanwhile."""


@dataclass
class NewUser:
    """The payload."""

    email: str
    name: str = ""


@stackshift.job("userOnboarding")
async def onboarding(ctx: AsyncJobContext[NewUser]) -> dict[str, Any]:
    """Create a user, send the verification mail, and unlock the account once it was confirmed."""
    user = await ctx.step.run("create-user", create_user, ctx.payload.email, ctx.payload.name)

    # The key is the same whenever this step is tried for this run, so the mail goes out once.
    key = ctx.step.key("send-verification")
    await ctx.step.run("send-verification", send_verification, user["email"], key)

    # The run is set aside here and taken up when the event comes, or has come already; also if the
    # daemon or the machine was restarted meanwhile. The handler then runs from the top, and the
    # steps above answer from the record. Without the event the run fails when the time has passed.
    verified = await ctx.step.wait_for_event(
        "email.verified",
        correlation_key=f"user:{user['id']}",
        timeout=PATIENCE,
        on_timeout="fail",
    )

    account = await ctx.step.run("unlock-account", unlock, user["id"])

    # A write by the handler happens exactly once for this run, however often it is replayed.
    count = await ctx.state.increment("users:onboarded")
    return {
        "user": user["id"],
        "unlocked": account["unlocked"],
        "verified_at": verified.received_at,
        "number": count,
    }


def create_user(email: str, name: str) -> dict[str, Any]:
    """One user an address, however often it is called."""
    id = sha256(email.encode()).hexdigest()[:10]
    return _shop.upsert("users", id, email=email, name=name, unlocked=False)


async def send_verification(email: str, key: str) -> None:
    """Hand the mail to the outbox. Steps of an async handler may be `async def` or `def`."""
    mail = OUT / "outbox" / f"{sha256(key.encode()).hexdigest()[:16]}.json"
    write_json(mail, {"to": email, "subject": "Please confirm your address"})


def unlock(id: str) -> dict[str, Any]:
    """Let the user in."""
    return _shop.upsert("users", id, unlocked=True)
