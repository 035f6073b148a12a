"""Decisions about the labels that a handler gives its own run."""

from __future__ import annotations

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.labels import check_count
from stackshiftd.core import commands as c
from stackshiftd.core import records as r
from stackshiftd.core.decide.replies import Asker
from stackshiftd.core.effects import Decision
from stackshiftd.core.state.state import State


def label(_state: State, who: Asker, command: c.LabelRun, _now_us: int) -> Decision:
    """Give the run its labels. Refused with `Usage` if it would have too many."""
    if who.run is None:
        raise Usage("only a run can be given labels, by its handler")
    try:
        check_count(len(who.run.labels | command.labels))
    except Usage as bad:
        return who.refuse(bad)
    labelled = r.RunLabelled(who.run.id, who.attempt, who.step, command.labels)
    return who.answer(b"null", (labelled,))
