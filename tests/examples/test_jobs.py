"""Each example job does what its page says, through a real daemon."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.project import Project, steps
from stackshift_jobs.errors import PayloadRefused

PAYLOAD = {"imageId": "img_123", "sizes": [64, 128, 256, 512]}


@pytest.fixture
def serving(shop: Project) -> Project:
    """The example project with its daemon running."""
    shop.start()
    return shop


def rows(project: Project, folder: str) -> list[dict[str, Any]]:
    """The JSON files of a folder below `out/`."""
    return [
        json.loads(file.read_text()) for file in sorted((project.root / "out" / folder).iterdir())
    ]


def leftovers(project: Project) -> list[Path]:
    """Temporary files that a job has left behind."""
    return list((project.root / "out").rglob("*.tmp"))


def tries(run: dict[str, Any], step: str) -> int:
    """How often a step of the run was tried."""
    return int(steps(run)[step]["attempts"])


def test_every_example_module_imports_and_says_what_it_does(serving: Project) -> None:
    """All modules load, each job has a docstring and, unless it is a script, a payload type."""
    told = serving.call("job.list")

    assert told["failed_modules"] == []
    assert [job["name"] for job in told["jobs"]] == [
        "billing",
        "import",
        "importChunk",
        "nightlyBackup",
        "preview",
        "resizeAvatar",
        "userOnboarding",
    ]
    for job in told["jobs"]:
        assert job["schema"] or job["module"].endswith(".sh"), job["name"]
        assert serving.call("job.get", job=job["name"])["doc"], job["name"]


def test_avatar_is_resized_to_every_size_and_published(serving: Project) -> None:
    """`payload.json` gives a PNG a size and a manifest that names them; nothing else is left."""
    payload = json.loads((serving.root / "payload.json").read_text())
    run = serving.finish(serving.begin("resizeAvatar", payload))

    assert payload == PAYLOAD
    assert run["status"] == "completed", run["error"]
    assert run["queue"] == "media"
    assert run["result"]["sizes"] == payload["sizes"]
    made = [serving.root / file for file in run["result"]["files"]]
    assert sorted(made) == sorted((serving.root / "out" / "img_123").iterdir())
    for size in payload["sizes"]:
        with Image.open(serving.root / "out" / "img_123" / f"{size}.png") as picture:
            assert picture.size == (size, size)
    manifest = json.loads((serving.root / "out" / "img_123" / "manifest.json").read_text())
    assert manifest["files"] == run["result"]["files"][:-1]
    assert manifest["source"]["width"] == 768


def test_avatar_has_sizes_of_its_own_where_none_are_given(serving: Project) -> None:
    """The payload's defaults are those of its type."""
    run = serving.finish(serving.begin("resizeAvatar", {"imageId": "img_123"}))

    assert run["result"]["sizes"] == PAYLOAD["sizes"]


@pytest.mark.parametrize(
    ("payload", "path"),
    [({}, "$"), ({"imageId": 7}, "$.imageId"), ({"imageId": "a", "sizes": "big"}, "$.sizes")],
)
def test_payload_that_does_not_fit_makes_no_run(
    serving: Project, payload: dict[str, Any], path: str
) -> None:
    """A start with a wrong payload is refused with the place, and nothing is kept."""
    with pytest.raises(PayloadRefused) as refused:
        serving.begin("resizeAvatar", payload)

    assert refused.value.path == path
    assert serving.call("run.list")["runs"] == []


@pytest.mark.parametrize("image", ["img_none", "../img_123", ""])
def test_picture_that_cannot_be_had_is_not_tried_again(serving: Project, image: str) -> None:
    """A picture that does not exist, or an id that would leave the folder, fails at once."""
    run = serving.finish(serving.begin("resizeAvatar", {"imageId": image}))

    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert run["error"]["type"] == "NonRetryable"
    assert list(steps(run)) == ["inspect"]


def verify(project: Project, run: str) -> dict[str, Any]:
    """Say that the address is theirs; what the sender is told."""
    awaited = project.until_status(run, "waiting")["waiting_for"]
    told: dict[str, Any] = project.call(
        "event.send", name=awaited["event"], correlation_key=awaited["correlation_key"]
    )
    return told


def test_onboarding_unlocks_the_account_once_the_address_is_confirmed(serving: Project) -> None:
    """A user, one mail, the wait for an event, then the account is open and counted."""
    run_id = serving.begin("userOnboarding", {"email": "ada@example.com"})
    assert verify(serving, run_id)["resumed"] == [run_id]
    run = serving.finish(run_id)

    assert run["status"] == "completed", run["error"]
    assert list(steps(run)) == [
        "create-user",
        "send-verification",
        "email.verified",
        "unlock-account",
        "[state.increment users:onboarded]",
    ]
    (user,) = rows(serving, "shop/users")
    assert user["unlocked"] is True
    assert user["id"] == run["result"]["user"]
    assert [mail["to"] for mail in rows(serving, "outbox")] == ["ada@example.com"]
    assert serving.call("state.get", key="users:onboarded")["value"] == 1


def test_onboarding_finds_a_confirmation_that_came_before_it(serving: Project) -> None:
    """An event that came before the wait makes no difference."""
    told = serving.call("event.send", name="email.verified", correlation_key="user:b5fc85e557")
    run = serving.finish(serving.begin("userOnboarding", {"email": "ada@example.com"}))

    assert (told["resumed"], run["status"]) == ([], "completed")
    assert serving.call("event.list")["events"] == []


@pytest.mark.parametrize(
    ("decision", "charged"), [("payment.approved", True), ("payment.rejected", False)]
)
def test_large_order_waits_for_a_person(serving: Project, decision: str, charged: bool) -> None:
    """Nothing is charged before somebody has looked at it, and only if they approve."""
    run_id = serving.begin("billing", {"customer": "cus_9", "amount_cents": 250_000})
    serving.until_status(run_id, "waiting")
    assert not (serving.root / "out").exists()
    serving.call("event.send", name=decision, correlation_key="customer:cus_9")
    run = serving.finish(run_id)

    assert run["status"] == "completed", run["error"]
    assert (run["result"]["charge"] is not None) is charged
    revenue = serving.call("state.get", key="revenue:cents")
    assert (revenue and revenue["value"]) == (250_000 if charged else None)


def test_payment_is_told_of_once(serving: Project) -> None:
    """The event about a payment is kept for whoever is interested."""
    run = serving.finish(serving.begin("billing", {"customer": "cus_42", "amount_cents": 4900}))

    (event,) = serving.call("event.list")["events"]
    assert (event["name"], event["correlation_key"]) == ("payment.captured", "customer:cus_42")
    assert event["payload"] == {"charge": run["result"]["charge"]}


def test_imports_of_one_file_come_one_after_the_other(serving: Project) -> None:
    """Three at once: the lock lets one at a time do its work, in the order in which they came."""
    runs = [serving.begin("import") for _ in range(3)]
    ended = [serving.finish(run) for run in runs]

    assert [run["status"] for run in ended] == ["completed"] * 3
    taken = [
        (record["kind"], record["run"])
        for record in serving.journal()
        if record["kind"] in ("lock.acquired", "lock.released")
    ]
    holders = [run for kind, run in taken if kind == "lock.acquired"]
    assert sorted(holders) == sorted(runs)
    assert taken == [(kind, run) for run in holders for kind in ("lock.acquired", "lock.released")]
    assert serving.call("state.get", key="import:data/customers.csv:rows")["value"] == 72


def test_lost_answer_of_the_gateway_makes_one_charge(serving: Project) -> None:
    """The step is tried again with the same key: two tries, one payment, one attempt of the run."""
    run = serving.finish(serving.begin("billing", {"customer": "cus_42", "amount_cents": 4900}))

    assert (run["status"], run["attempt"]) == ("completed", 1), run["error"]
    assert tries(run, "charge-card") == 2
    assert tries(run, "provision-plan") == 1
    (charge,) = rows(serving, "payments")
    assert charge["id"] == run["result"]["charge"]
    assert charge["amount_cents"] == 4900
    (plan,) = rows(serving, "shop/plans")
    assert plan["charge"] == charge["id"]


def test_refused_card_goes_to_the_dead_letter_at_once(serving: Project) -> None:
    """One try, no payment, no plan, and a run that waits for a person."""
    order = {"customer": "cus_7", "amount_cents": 4900, "card": "4000000000000002"}
    run = serving.finish(serving.begin("billing", order))

    assert (run["status"], run["attempt"], run["dead"]) == ("failed", 1, True)
    assert run["error"]["message"] == "card ending in 0002 was refused"
    assert tries(run, "charge-card") == 1
    assert not (serving.root / "out").exists()


def test_import_reads_every_row_through_child_runs(serving: Project) -> None:
    """Three children, each of which had to ask twice; good rows saved once, bad ones reported."""
    run = serving.finish(serving.begin("import"))

    assert run["status"] == "completed", run["error"]
    assert run["result"] == {"rows": 24, "imported": 22, "rejected": ["cus_005", "cus_018"]}
    assert len(rows(serving, "shop/customers")) == 22
    chunks = serving.call("run.list", job="importChunk")["runs"]
    assert [chunk["parent"] for chunk in chunks] == [run["id"]] * 3
    for chunk in chunks:
        assert tries(serving.get(chunk["id"]), "parse") == 2
    assert leftovers(serving) == []


def test_import_in_other_chunks_gives_the_same_customers(serving: Project) -> None:
    """How the file is cut does not change what comes out, also where it does not divide evenly."""
    run = serving.finish(serving.begin("import", {"chunk_rows": 7}))

    assert run["result"] == {"rows": 24, "imported": 22, "rejected": ["cus_005", "cus_018"]}
    assert len(serving.call("run.list", job="importChunk")["runs"]) == 4
