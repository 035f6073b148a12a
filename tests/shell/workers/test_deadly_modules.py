"""Which modules workers are told to leave out."""

from __future__ import annotations

from stackshiftd.shell.workers.deadly_modules import DeadlyModules


def test_second_death_in_a_row_is_the_modules() -> None:
    """The first may have come from elsewhere, and so may one after a worker that got through."""
    modules = DeadlyModules()
    assert not modules.died("jobs.a", " (signal 9)")
    modules.survived()
    assert not modules.died("jobs.a", " (signal 9)")
    assert not modules.died("jobs.b", " (signal 11)")
    assert modules.found == {}
    assert modules.died("jobs.b", " (signal 11)")
    assert modules.found == {"jobs.b": "the process died while it imported this module (signal 11)"}


def test_modules_that_are_loaded_anew_are_tried_again() -> None:
    """What was found stays until then, also if workers get through without it."""
    modules = DeadlyModules()
    modules.died("jobs.a", "")
    modules.died("jobs.a", "")
    modules.survived()
    assert list(modules.found) == ["jobs.a"]
    modules.forget()
    assert modules.found == {}
    assert not modules.died("jobs.a", "")
