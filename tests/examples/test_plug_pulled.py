"""The example jobs, with the daemon killed in the middle of a run."""

from __future__ import annotations

import json
from collections import Counter

from helpers.deadline import wait_until
from helpers.project import Project, steps

WATCHED_MEDIA = """
from jobs import _scenery as scene

_inspect, _resize, _publish = inspect, resize, publish


def inspect(image):
    scene.note("inspect")
    return _inspect(image)


def resize(image, source, size):
    scene.note("resize", size)
    if size == 512:
        scene.gate("512")
    return _resize(image, source, size)


def publish(*args):
    scene.note("publish")
    return _publish(*args)
"""
"""Each execution of a step leaves a line, and the last size waits at a gate."""

WATCHED_PAYMENTS = """
from jobs import _scenery as scene

_charge = charge


def charge(*args, **kwargs):
    scene.note("charge", kwargs["idempotency_key"])
    try:
        return _charge(*args, **kwargs)
    finally:
        scene.gate("charged")
"""
"""The gateway has taken the money and does not answer until the gate is open."""

WATCHED_ONBOARDING = """
from jobs import _scenery as scene

_create_user, _send_verification = create_user, send_verification
COOLING_OFF = "1s"


def create_user(*args):
    scene.note("create-user")
    return _create_user(*args)


async def send_verification(*args):
    scene.note("send-verification")
    return await _send_verification(*args)
"""


def watch(project: Project, module: str, text: str) -> None:
    """Add `text` to a module of the copy."""
    with (project.root / "jobs" / f"{module}.py").open("a") as file:
        file.write(text)


def test_sizes_that_were_done_are_not_resized_again(shop: Project) -> None:
    """Killed while one size is in work, that size is done twice and all else once."""
    watch(shop, "media", WATCHED_MEDIA)
    shop.start()
    run = shop.begin("resizeAvatar", {"imageId": "img_123"}, idempotency_key="resize:img_123")
    shop.at("512")
    wait_until(
        lambda: [s["status"] for s in shop.get(run)["steps"]].count("completed") == 4,
        "inspect and three sizes to be on record",
    )

    shop.kill()
    assert not (shop.root / "out" / "img_123" / "512.png").exists()
    shop.open("512")
    shop.start()
    ended = shop.finish(run)

    assert ended["status"] == "completed", ended["error"]
    assert ended["attempt"] == 1, "a lost daemon uses up no attempt"
    executed = Counter(line for line in shop.witness() if not line.startswith("at "))
    assert executed == {
        "inspect": 1,
        "resize 64": 1,
        "resize 128": 1,
        "resize 256": 1,
        "resize 512": 2,
        "publish": 1,
    }
    made = sorted(file.name for file in (shop.root / "out" / "img_123").iterdir())
    assert made == ["128.png", "256.png", "512.png", "64.png", "manifest.json"]
    again = shop.begin("resizeAvatar", {"imageId": "img_123"}, idempotency_key="resize:img_123")
    assert again == run, "the key still means this run"
    shop.verify()


def test_card_is_charged_once_if_the_plug_is_pulled_after_the_charge(shop: Project) -> None:
    """Killed between the charge and its record, the step is repeated and the money taken once."""
    watch(shop, "_payments", WATCHED_PAYMENTS)
    shop.start()
    run = shop.begin("billing", {"customer": "cus_42", "amount_cents": 4900})
    shop.at("charged")

    shop.kill()
    shop.open("charged")
    shop.start()
    ended = shop.finish(run)

    assert ended["status"] == "completed", ended["error"]
    charged = [line for line in shop.witness() if line.startswith("charge ")]
    assert len(charged) == 2 and len(set(charged)) == 1, "tried twice, with one key"
    (charge,) = (shop.root / "out" / "payments").iterdir()
    assert json.loads(charge.read_text())["id"] == ended["result"]["charge"]


def test_wait_goes_on_where_it_was_after_the_plug_was_pulled(shop: Project) -> None:
    """Killed while it waits, it goes on in the next daemon; what was done is not done again."""
    watch(shop, "onboarding", WATCHED_ONBOARDING)
    shop.start()
    run = shop.begin("userOnboarding", {"email": "ada@example.com"})
    shop.until_status(run, "waiting")
    awaited = shop.get(run)["waiting_for"]

    shop.kill()
    shop.start()
    assert shop.get(run)["waiting_for"] == awaited
    shop.call("event.send", name=awaited["event"], correlation_key=awaited["correlation_key"])
    ended = shop.finish(run)

    assert ended["status"] == "completed", ended["error"]
    assert shop.witness() == ["create-user", "send-verification"]
    assert steps(ended)["email.verified"]["status"] == "completed"
    assert len(list((shop.root / "out" / "outbox").iterdir())) == 1
