"""The program of a step is on record while it may run, so that it can be ended from outside."""

from __future__ import annotations

from core.story import ONCE, STEADY, Story
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.snapshot import load, state_hash

ONE, TWO = r.Program(4711, "boot:17"), r.Program(4712, "boot:18")


def opens(story: Story, run: str, program: r.Program, tried: int = 1) -> None:
    """Step `dump` starts `program`."""
    story.do(c.OpenStep(run, story.token(run), "dump", tried, program))


def program(story: Story, run: str) -> r.Program | None:
    """What is on record of the program of step `dump`."""
    return story.run(run).calls["dump"].program


def begun() -> tuple[Story, str]:
    """A run that executes step `dump`, which has started a program."""
    story = Story()
    run = story.start(retry=STEADY)
    story.assign()
    opens(story, run, ONE)
    return story, run


def test_program_is_recorded_with_the_start_of_its_step() -> None:
    """Group and start of the leader, in the record and in the state."""
    story, run = begun()
    [started] = story.decision.records
    assert started == r.StepStarted(run, 1, "dump", 1, ONE)
    assert program(story, run) == ONE


def test_program_is_forgotten_with_the_outcome_of_its_step() -> None:
    """Whatever the outcome: it is recorded when nothing of the program is left."""
    story, run = begun()
    story.step_done(run, "dump", {"exit_code": 0})
    assert program(story, run) is None
    story, run = begun()
    story.step_fails(run, "dump", retry=STEADY)
    assert program(story, run) is None


def test_next_try_has_a_program_of_its_own() -> None:
    """It takes the place of the one before."""
    story, run = begun()
    story.step_fails(run, "dump", retry=STEADY)
    story.tick(to="5s")
    opens(story, run, TWO, tried=2)
    assert program(story, run) == TWO


def test_program_of_a_lost_execution_stays_on_record() -> None:
    """Also in a snapshot: a daemon that starts from one can end it."""
    story, run = begun()
    story.lose(run)
    assert program(story, run) == ONE
    loaded = load(story.snapshot(story.state.seq)).state
    assert loaded.runs[run].calls["dump"].program == ONE
    assert state_hash(loaded) == state_hash(story.state)


def test_program_of_a_cancelled_run_is_on_record_until_its_handler_has_stopped() -> None:
    """The run is over, its execution is not."""
    story, run = begun()
    story.cancel(run)
    assert program(story, run) == ONE
    story.do(c.ConfirmStop(run, story.token(run)))
    assert run not in story.state.runs


def test_program_of_an_earlier_execution_changes_nothing() -> None:
    """It is reported under a token that is no longer the run's."""
    story = Story()
    run = story.start(retry=ONCE)
    story.assign()
    token = story.token(run)
    story.lose(run)
    story.assign("w2")
    story.do(c.OpenStep(run, token, "dump", 1, ONE))
    assert story.decision.records == ()
    assert "dump" not in story.run(run).calls
