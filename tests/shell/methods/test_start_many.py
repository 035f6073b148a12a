"""Batches of starts: each is by itself, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from helpers.batches import Batches
from stackshiftd.core.records import kind_of
from stackshiftd.shell.methods.start import SLICE

Scene = Callable[[Batches], Awaitable[None]]
MORE = 9 * SLICE + 3


def play(root: Path, scene: Scene) -> None:
    """Play a scene."""

    async def main() -> None:
        await scene(await Batches(root).open())

    asyncio.run(main())


def keyed(number: int) -> bytes:
    """A start with an idempotency key."""
    return b'{"job":"work","payload":{"n":%d},"idempotency_key":"k%d"}' % (number, number)


def brief(results: list[dict[str, Any]]) -> list[str]:
    """The code of each refusal, else whether the run is new."""
    return [
        result["error"]["code"] if "error" in result else "old" if result["reused"] else "new"
        for result in results
    ]


def test_each_start_is_refused_or_found_by_itself(tmp_path: Path) -> None:
    """Bad ones, conflicts and reused runs stand at their places, between new ones."""

    async def scene(batches: Batches) -> None:
        batches.journal.hold()
        runs = [keyed(n) for n in range(MORE)]
        first = await batches.start(runs)
        assert brief(first) == ["new"] * MORE
        assert len({result["id"] for result in first}) == MORE
        runs[1] = b'{"job":"absent"}'
        runs[2] = b'{"job":7}'
        runs[3] = b'{"job":"work","payload":{"n":0},"idempotency_key":"k3"}'
        runs[4] = b'{"job":"work"}'
        second = await batches.start(runs)
        assert brief(second) == [
            *["old", "not_found", "usage", "conflict", "new"],
            *["old"] * (MORE - 5),
        ]
        assert second[3]["error"]["difference"]
        assert [r["id"] for r in second[5:]] == [r["id"] for r in first[5:]]
        assert {r["status"] for r in (*first, *second[4:])} == {"queued"}

    play(tmp_path, scene)


def test_same_key_twice_in_a_batch_is_one_run(tmp_path: Path) -> None:
    """The second finds what the first of the same batch has started."""

    async def scene(batches: Batches) -> None:
        results = await batches.start([keyed(1), keyed(1), keyed(2)])
        assert brief(results) == ["new", "old", "new"]
        assert results[0]["id"] == results[1]["id"]

    play(tmp_path, scene)


def test_each_start_of_a_batch_is_an_append_of_its_own(tmp_path: Path) -> None:
    """Records are one group only if they belong together, as those of a replaced run do."""

    async def scene(batches: Batches) -> None:
        alone = b'{"job":"alone","payload":{"k":"a"},"on_duplicate":"replace"}'
        results = await batches.start([keyed(1), alone, alone, keyed(2)])
        assert results[2]["replaced"] == [results[1]["id"]]
        groups = [group for append in batches.journal.appends for group in append]
        assert [[kind_of(entry.record) for entry in group] for group in groups] == [
            ["run.created"],
            ["run.created"],
            ["run.cancelled", "run.created"],
            ["run.created"],
        ]

    play(tmp_path, scene)


def test_full_disk_refuses_all_of_what_it_did_not_take(tmp_path: Path) -> None:
    """Nothing of it remains, and each start is told so: those of parts that were decided before
    the disk had refused the first, and those after that."""

    async def scene(batches: Batches) -> None:
        batches.journal.is_full = True
        refused = await batches.start([keyed(n) for n in range(MORE)])
        assert brief(refused) == ["disk_full"] * MORE
        assert batches.engine.state.runs == {}
        refused = await batches.start([keyed(0)])
        assert brief(refused) == ["disk_full"]

    play(tmp_path, scene)


def test_batch_goes_on_where_a_run_could_not_be_looked_up_yet(tmp_path: Path) -> None:
    """Starts without a key before it are not made twice, and none is refused."""

    async def scene(batches: Batches) -> None:
        runs = [b'{"job":"work"}'] * MORE
        first = await batches.start(runs[:1])
        batches.lookup.late = 2
        runs[-1] = b'{"job":"work","after":["%s"]}' % first[0]["id"].encode()
        results = await batches.start(runs)
        assert brief(results) == ["new"] * MORE
        assert len(batches.engine.state.runs) == 1 + MORE
        assert batches.lookup.late == 0

    play(tmp_path, scene)
