"""Daemons and workers that are killed while runs undo what they have done (guarantee: undone
steps)."""

from __future__ import annotations

from collections import Counter

from helpers.deadline import wait_until
from helpers.project import Project
from helpers.project_factory import Make, make_project  # noqa: F401

RUNS = 40
KILLS = 6

JOBS = """
@stackshift.job("books", retry=ONCE)
def books(ctx):
    number = ctx.payload["number"]
    for what in ("flight", "hotel", "car"):
        ctx.step.run(what, book, what, number, undo=cancel)
    if number % 3 == 0:
        raise NonRetryable("no money")
    if number % 3 == 1:
        ctx.step.sleep("wait", "1d")


@stackshift.job("booksAwaited", retry=ONCE)
async def books_awaited(ctx):
    number = ctx.payload["number"]
    for what in ("flight", "hotel", "car"):
        await ctx.step.run(what, book, what, number, undo=cancel)
    if number % 3 == 0:
        raise NonRetryable("no money")
    if number % 3 == 1:
        await ctx.step.sleep("wait", "1d")


def book(what, number):
    note("booked", f"{what}-{number}")
    return f"{what}-{number}"


def cancel(booking):
    note("cancelled", booking)
"""


def test_every_saga_ends_whole_or_undone_whatever_is_killed(make_project: Make) -> None:  # noqa: F811
    """A run that completed is not undone; of any other, each recorded step is, in reverse order and
    once on record."""
    project = make_project(JOBS)
    project.start()
    runs = [
        project.begin(("books", "booksAwaited")[number // 3 % 2], {"number": number})
        for number in range(RUNS)
    ]
    for kill in range(1, KILLS + 1):
        share = kill * RUNS * 4 // (KILLS + 1)
        wait_until(lambda share=share: len(project.witness()) >= share, "nothing works")  # type: ignore[misc]
        if kill == 2:
            for number in range(1, RUNS, 3):
                project.call("run.cancel", run=runs[number], gently=True, grace_ms=600_000)
        project.kill()
        project.start()
    for number, run in enumerate(runs):
        ended = project.finish(run)
        expected = ("failed", "cancelled", "completed")[number % 3]
        assert ended["status"] == expected, (number, ended["status"])
        completed = [each["step"] for each in ended["timeline"] if each["kind"] == "step.completed"]
        done = [step for step in completed if not step.startswith("undo ")]
        undone = [step for step in completed if step.startswith("undo ")]
        assert undone == ([] if number % 3 == 2 else [f"undo {step}" for step in done[::-1]])
        if number % 3 == 1:
            assert set(done) <= {"flight", "hotel", "car"}
        else:
            assert done == ["flight", "hotel", "car"]
    _audit(project)
    project.verify()


def _audit(project: Project) -> None:
    """Of a run that failed nothing stays booked, and of one that completed all of it does."""
    said = Counter(project.witness())
    for line in said:
        word, booking = line.split()
        ends = int(booking.split("-")[1]) % 3
        if word == "booked" and ends == 0:
            assert said[f"cancelled {booking}"], f"{booking} stays booked"
        if word == "cancelled":
            assert ends != 2, f"{booking} belongs to a run that completed"
