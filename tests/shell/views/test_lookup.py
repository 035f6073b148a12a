"""Finding a run at every moment of its life."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from stackshiftd.core.state.state import State, Status
from stackshiftd.history.index import History
from stackshiftd.shell.views.lookup import Lookup, RunFilters


def run(number: int, status: Status = Status.QUEUED) -> Any:
    """A run that was created as number `number`."""
    id = f"run_{number:026d}"
    facts: dict[str, Any] = {"job": "hello", "queue": "default", "labels": {}}
    facts |= dict.fromkeys(("parent", "forked_from"))
    facts |= {"status": status, "shown_status": status}
    return SimpleNamespace(id=id, created_seq=number, created_us=number, **facts)


def listed(lookup: Lookup) -> list[int]:
    """The numbers of all runs, as a list goes through them."""
    return [each.created_seq for each in lookup.newest_first(RunFilters()) if each is not None]


def test_run_whose_end_is_not_durable_yet_is_found() -> None:
    """It has left the state, and the history does not have it: by the end of its id, as `@last` and
    `@failed`, and in its place in lists, it is there all the same."""
    live, ending = [run(1), run(2), run(4)], [run(3, Status.FAILED), run(5, Status.FAILED)]
    state = State()
    state.seq = 9
    for each in live:
        state.enter(each)
    departures = SimpleNamespace(finishing={each.id: each for each in ending})
    engine = SimpleNamespace(state=state, departures=departures)
    history = History(None, "jrn_1", 0)
    history.begin(until_seq=0)
    lookup = Lookup(cast(Any, engine), history)
    assert listed(lookup) == [5, 4, 3, 2, 1]
    assert lookup.resolve("0005") == lookup.resolve("@last") == lookup.resolve("@failed")
    assert lookup.resolve("run_…000003") == ending[0].id
    departures.finishing = {}
    assert listed(lookup) == [4, 2, 1]
    assert lookup.resolve("@last") == live[-1].id
    history.close()
