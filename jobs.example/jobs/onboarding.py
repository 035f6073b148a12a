"""`userOnboarding`: an `async def` handler that waits without a process waiting with it.

Try it:

    stackshift start userOnboarding -F email=ada@example.com --follow
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import stackshift_jobs as stackshift
from stackshift_jobs import AsyncJobContext

from jobs import _shop
from jobs._files import OUT, write_json

COOLING_OFF = "3s"
"""Three days in a real shop. It costs the same: nothing is in memory meanwhile."""


@dataclass
class NewUser:
    """The payload."""

    email: str
    name: str = ""


@stackshift.job("userOnboarding")
async def onboarding(ctx: AsyncJobContext[NewUser]) -> dict[str, Any]:
    """Create a user, send the verification mail, and unlock the account after a while."""
    user = await ctx.step.run("create-user", create_user, ctx.payload.email, ctx.payload.name)

    # The key is the same whenever this step is tried for this run, so the mail goes out once.
    key = ctx.step.key("send-verification")
    await ctx.step.run("send-verification", send_verification, user["email"], key)

    # The run is set aside here and taken up when the time has come, also if the daemon or the
    # machine was restarted meanwhile. The handler then runs from the top, and the steps above
    # answer from the record.
    await ctx.step.sleep("cooling-off", COOLING_OFF)

    account = await ctx.step.run("unlock-account", unlock, user["id"])
    return {"user": user["id"], "unlocked": account["unlocked"]}


def create_user(email: str, name: str) -> dict[str, Any]:
    """One user an address, however often it is called."""
    id = f"user_{sha256(email.encode()).hexdigest()[:10]}"
    return _shop.upsert("users", id, email=email, name=name, unlocked=False)


async def send_verification(email: str, key: str) -> None:
    """Hand the mail to the outbox. Steps of an async handler may be `async def` or `def`."""
    mail = OUT / "outbox" / f"{sha256(key.encode()).hexdigest()[:16]}.json"
    write_json(mail, {"to": email, "subject": "Please confirm your address"})


def unlock(id: str) -> dict[str, Any]:
    """Let the user in."""
    return _shop.upsert("users", id, unlocked=True)
