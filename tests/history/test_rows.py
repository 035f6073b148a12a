"""Rows of finished runs, made from their records alone, are those of the runs themselves."""

from __future__ import annotations

from array import array

from core.story import Story
from stackshiftd.core import records as r
from stackshiftd.core.fold.fold import fold
from stackshiftd.core.state.state import State
from stackshiftd.history.rows import RowBuilder, RunRow, row_of


def rows_of(entries: list[r.Entry]) -> dict[str, RunRow]:
    """The last row of each run that the builder makes of `entries`."""
    builder = RowBuilder()
    found: dict[str, RunRow] = {}
    for entry in entries:
        row = builder.add(entry.seq, entry)
        if row is not None:
            found[row.id] = row
        if isinstance(entry.record, r.RunRemoved):
            found.pop(entry.record.run, None)
    return found


def live_rows(entries: list[r.Entry]) -> dict[str, RunRow]:
    """The last row of each run as a daemon makes it when the run finishes."""
    state = State()
    found: dict[str, RunRow] = {}
    for entry in entries:
        run = state.runs.get(getattr(entry.record, "run", None) or "")
        fold(state, entry)
        if isinstance(entry.record, r.RunCompleted | r.RunFailed | r.RunCancelled):
            assert run is not None
            found[run.id] = row_of(run, entry.seq, array("q", (entry.seq,)))
        if isinstance(entry.record, r.RunRemoved):
            found.pop(entry.record.run, None)
    return found


def facts(row: RunRow) -> dict[str, object]:
    """A row without the places of its records, which depend on what is kept."""
    return {
        name: getattr(row, name) for name in row.__struct_fields__ if name not in ("places", "end")
    }


def retried_after_leaving_memory(story: Story) -> tuple[str, list[r.Entry]]:
    """A run that completed, was retried from a step, and completed again; and all entries."""
    run = story.start()
    story.assign("w1")
    story.step_done(run, "a", 1)
    story.completes(run)
    story.retry(run, from_step="a")
    story.assign("w1")
    story.step_done(run, "a", 2)
    story.completes(run)
    return run, story.entries


def test_retried_run_whose_first_segment_was_trimmed_is_in_a_rebuilt_index() -> None:
    """Its retry brought its records along; it vanished from all lists when the index was made
    again, though `runs show` knew it."""
    run, entries = retried_after_leaving_memory(Story())
    [first] = [e.seq for e in entries if isinstance(e.record, r.RunRetried)]
    kept = [entry for entry in entries if entry.seq >= first]
    row = rows_of(kept)[run]
    assert facts(row) == facts(live_rows(entries)[run])
    assert list(row.places) == [
        entry.seq for entry in kept if getattr(entry.record, "run", None) == run
    ]
    assert row.places[row.end] == row.finished_seq


def test_run_that_is_retried_has_no_row_until_it_finishes_again() -> None:
    """The stop of its former handler does not enter it as it was."""
    story = Story()
    run = story.start(timeout="1s")
    story.assign("w1")
    story.tick(to="2s")
    builder = RowBuilder()
    for entry in story.entries:
        builder.add(entry.seq, entry)
    story.cancel(run)
    story.retry(run)
    before = len(story.entries)
    story.stops(run)
    assert story.kinds(run)[-1] == "attempt.stopped"
    for entry in story.entries[: before + 1]:
        row = builder.add(entry.seq, entry)
    assert row is None


def test_row_that_was_made_does_not_change_when_the_run_goes_on() -> None:
    """Rows are written in batches, after more records were read."""
    run, entries = retried_after_leaving_memory(Story())
    builder = RowBuilder()
    made = [row for entry in entries if (row := builder.add(entry.seq, entry)) is not None]
    assert [(row.id, row.status) for row in made] == [(run, "completed")] * 2
    assert made[0].finished_seq < made[1].finished_seq
    assert len(made[0].places) < len(made[1].places)
