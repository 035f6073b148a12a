"""`import`: a file in chunks, a child run a chunk, a step a row; one import of a file at a time.

Try it, and look at the child runs, and at what they counted:

    stackshift start import --follow
    stackshift runs list --job importChunk
    stackshift state list import:
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import stackshift_jobs as stackshift
from stackshift_jobs import AsyncJobContext, JobContext, Retry

from jobs import _feed, _shop


@dataclass
class Import:
    """The payload of `import`. All of it has defaults, so a start needs none."""

    file: str = "data/customers.csv"
    chunk_rows: int = 8


@dataclass
class Chunk:
    """The payload of `importChunk`."""

    file: str
    first: int
    count: int


@stackshift.job("import", queue="imports")
async def import_customers(ctx: AsyncJobContext[Import]) -> dict[str, Any]:
    """Import a CSV file of customers, a child run a chunk."""
    file = ctx.payload.file

    # One import of a file at a time, first come first served: the others wait without a slot. It is
    # held over all that this run waits for, and given back when it ends, in whatever way.
    async with ctx.state.lock(f"import:{file}"):
        report = await in_chunks(ctx, file, ctx.payload.chunk_rows)
        await ctx.state.set(f"import:{file}:last", report)
    return report


async def in_chunks(ctx: AsyncJobContext[Import], file: str, size: int) -> dict[str, Any]:
    """Start a child run for each chunk; what all of them report."""
    rows = await ctx.step.run("count-rows", _feed.count_rows, file)

    # Each call starts a run of its own exactly once and waits for its result. They run at the same
    # time; while they do, this run is set aside and uses nothing. A name a chunk, so that each call
    # is known by what it is about.
    reports = await asyncio.gather(
        *(
            ctx.step.call("importChunk", Chunk(file, first, size), name=f"rows-{first}")
            for first in range(0, rows, size)
        )
    )
    return {
        "rows": rows,
        "imported": sum(report["imported"] for report in reports),
        "rejected": [row for report in reports for row in report["rejected"]],
    }


@stackshift.job("importChunk", queue="imports")
def import_chunk(ctx: JobContext[Chunk]) -> dict[str, Any]:
    """Import some rows: parse them, then save each."""
    chunk = ctx.payload

    # The line is bad: four tries, each of which goes on where the one before was. One that hears
    # nothing for half a minute is given up. None of the rows is saved before all were read.
    rows = ctx.step.run(
        "parse",
        read,
        chunk.file,
        chunk.first,
        chunk.count,
        request=ctx.step.key("parse"),
        retry=Retry(max_attempts=4, backoff="200ms"),
        heartbeat="30s",
    )
    saved = ctx.step.map("save", save, rows, concurrency=4)
    rejected = [row["id"] for row, good in zip(rows, saved, strict=True) if not good]

    # Chunks count together, each exactly once: this is what a person looks at meanwhile.
    ctx.state.increment(f"import:{chunk.file}:rows", by=len(rows))
    return {"imported": len(rows) - len(rejected), "rejected": rejected}


def read(file: str, first: int, count: int, *, request: str) -> list[dict[str, str]]:
    """Read `count` rows from number `first` on; those that an earlier try has read are not read
    again."""
    rows: list[dict[str, str]] = stackshift.step.last or []
    start = first + len(rows)
    for row in _feed.read_rows(file, start, count - len(rows), request=request):
        rows.append(row)
        stackshift.step.checkpoint(rows)
    return rows


def save(row: dict[str, str]) -> bool:
    """Save a customer; false for a row that is no good. A bad row is a result, not a failure: an
    exception would hold up the others."""
    if "@" not in row["email"]:
        return False
    _shop.upsert("customers", row["id"], email=row["email"], plan=row["plan"])
    return True
