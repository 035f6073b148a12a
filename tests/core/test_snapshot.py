"""Snapshots: lines that load to the state they were made of."""

from __future__ import annotations

import json

from core.story import ONCE, Story
from stackshiftd.core.snapshot import dump, load, state_hash
from stackshiftd.core.state.state import Spilled


def test_snapshot_of_nothing_is_the_empty_state() -> None:
    """Its first line is the point in the journal that it covers."""
    story = Story()
    lines = list(dump(story.state, ()))
    assert json.loads(lines[0])["line"] == "totals"
    assert state_hash(load(lines).state) == state_hash(story.state)


def test_snapshot_holds_what_is_unfinished_or_dead_and_nothing_else() -> None:
    """A completed run leaves no line; its key and its count do."""
    story = Story()
    done = story.start(key="k")
    dead = story.start(retry=ONCE)
    story.assign()
    story.assign()
    story.completes(done)
    story.fails(dead)
    waiting = story.start(delay="60d")
    lines = [json.loads(line) for line in story.snapshot(story.state.seq)]
    runs = {line["entry"]["run"] for line in lines if line["line"] == "entry"}
    assert runs == {dead, waiting}
    assert [line["key"] for line in lines if line["line"] == "key"] == ["k"]
    state = load(story.snapshot(story.state.seq)).state
    assert (state.finished, state.dead) == (2, 1)
    assert state_hash(state) == state_hash(story.state)


def test_snapshot_is_ascii_lines() -> None:
    """Whatever payloads contain, a line is a line."""
    story = Story()
    story.start("resize", {"name": "Zoë\n\u2028", "key": "ключ"}, key="ключ")
    for line in story.snapshot(story.state.seq):
        assert b"\n" not in line
        json.loads(line)


def test_places_of_entries_come_back_with_them() -> None:
    """So that timelines are read without a search after a restart."""
    story = Story()
    story.start()
    entries = [(100 + entry.seq, entry) for entry in story.entries]
    assert load(dump(story.state, entries)).entries == entries


def test_large_body_is_held_by_its_place() -> None:
    """Memory keeps where to read it, and so does the state that is loaded."""
    story = Story()
    run = story.start("resize", "x" * 5000)
    story.assign()
    story.step_done(run, "a", "y" * 5000)
    for state in (story.state, story.replayed(), story.via_snapshot(story.state.seq)):
        assert state.runs[run].payload == Spilled(1, 5002)
        assert state.runs[run].calls["a"].body == Spilled(3, 5002)


def test_state_hash_distinguishes_states() -> None:
    """One more step, another result, another time: another hash."""
    hashes = set()
    for value in (1, 2, None):
        story = Story()
        run = story.start(key="k")
        story.assign()
        if value is not None:
            story.step_done(run, "a", value)
        hashes.add(state_hash(story.state))
        story.wall_us += 1
        story.claim()
        hashes.add(state_hash(story.state))
    assert len(hashes) == 6
