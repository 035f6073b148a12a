"""What keys and answers change about the screen, without a terminal."""

from __future__ import annotations

from typing import Any

import pytest

from cli.fake_daemon import run_id
from cli.top.scenes import ACTIVITY, DEAD, RUNS, STATUS
from stackshift_cli.top.model import (
    Ask,
    Mode,
    Model,
    answered,
    press,
    question,
    refresh,
    refused,
    unreachable,
)


def opened() -> Model:
    """The screen after the first answers."""
    model, _ = answered(Model(), "status", STATUS)
    model, asks = answered(model, "activity", ACTIVITY)
    assert asks == []
    return model


def after(model: Model, *pressed: str) -> tuple[Model, list[Ask]]:
    """The model after the keys, and what the last one asks for."""
    asks: list[Ask] = []
    for key in pressed:
        model, asks = press(model, key)
    return model, asks


@pytest.mark.parametrize(
    ("pressed", "index"),
    [
        ([], 0),
        (["down", "j"], 2),
        (["up"], 0),
        (["end", "k"], 5),
        (["page down"], 6),
        (["end", "page up"], 0),
        (["G", "g"], 0),
    ],
)
def test_keys_move_the_selection(pressed: list[str], index: int) -> None:
    """It stays within the list."""
    assert after(opened(), *pressed)[0].index == index


def test_selection_follows_its_run() -> None:
    """Not its line; if the run has gone, what is on its line is selected."""
    model, _ = after(opened(), "j", "j")
    assert model.selected == run_id(3)
    model, _ = answered(model, "activity", ACTIVITY | {"runs": RUNS[1:]})
    assert (model.selected, model.index) == (run_id(3), 1)
    model, _ = answered(model, "activity", ACTIVITY | {"runs": [RUNS[1], *RUNS[3:]]})
    assert (model.selected, model.index) == (run_id(4), 1)
    model, _ = answered(model, "activity", ACTIVITY | {"runs": []})
    assert (model.selected, model.current) == ("", None)
    assert after(model, "enter", "c", "r", "j")[1] == []


@pytest.mark.parametrize(
    ("key", "at", "method", "asked"),
    [
        ("c", 0, "run.cancel", "cancel resizeAvatar 000001? [y/N]"),
        ("c", 4, "run.cancel", "cancel index\\x1b[2J 000005? [y/N]"),
    ],
)
def test_nothing_is_changed_without_a_yes(key: str, at: int, method: str, asked: str) -> None:
    """Only `y` does it, once; any other key does nothing."""
    model, asks = after(opened(), *["j"] * at, key)
    assert (model.mode, question(model), asks) == (Mode.CONFIRM, asked, [])
    for other in ("n", "enter", "escape", "q"):
        refused_, asks = after(model, other)
        assert (refused_.mode, refused_.message, asks) == (Mode.LIST, "nothing was changed", [])
        assert not refused_.is_over
    model, asks = after(model, "y")
    assert asks == [Ask(method, method, {"run": run_id(at + 1)})]
    assert after(model, "y")[1] == []
    model, asks = answered(model, method, {"id": run_id(at + 1), "changed": True})
    assert model.message == f"00000{at + 1} cancelled"
    assert asks == refresh(model)


def test_only_what_has_failed_is_retried() -> None:
    """In the dead letter `r` retries; elsewhere it says why not. What has ended is not
    cancelled."""
    model, asks = after(opened(), "r")
    assert (model.message, asks) == ("only failed and cancelled runs can be retried", [])
    model, [ask] = after(model, "d")
    assert (ask.params["dead"], ask.params["filter"]) == (True, "")
    model, _ = answered(model, "activity", ACTIVITY | {"runs": DEAD, "matches": 1})
    assert after(model, "c")[0].message == "000008 has ended already"
    assert after(model, "r", "y")[1] == [Ask("run.retry", "run.retry", {"run": run_id(8)})]


def test_filter_is_asked_for_letter_by_letter() -> None:
    """Keys are letters of it until enter or escape; escape in the list clears it."""
    model, asks = after(opened(), "/", "q", "c", "backspace", "x", "page up")
    assert (model.mode, model.filter, asks) == (Mode.FILTER, "qx", [])
    assert after(model, "ä")[1][0].params["filter"] == "qxä"
    kept, asks = after(model, "enter")
    assert (kept.mode, kept.filter, asks) == (Mode.LIST, "qx", [])
    for pressed in ((kept, "escape"), (model, "escape")):
        cleared, [ask] = after(*pressed)
        assert (cleared.filter, cleared.mode, ask.params["filter"]) == ("", Mode.LIST, "")


def test_run_is_opened_scrolled_and_closed() -> None:
    """While it is open, it is asked for instead of the list, until it has ended."""
    model, [ask] = after(opened(), "enter")
    assert ask == Ask("run", "run.get", {"run": run_id(1), "detail": True})
    detail: dict[str, Any] = {"id": run_id(1), "job": "a", "status": "running", "timeline": []}
    model, _ = answered(model, "run", detail)
    assert [each.method for each in refresh(model)] == ["leader.status", "run.get"]
    assert after(model, "j", "page down", "up")[0].scroll == 10
    assert question(after(model, "c")[0]) == "cancel a 000001? [y/N]"
    assert after(model, "c", "n")[0].mode is Mode.RUN
    ended, _ = answered(model, "run", detail | {"status": "completed"})
    assert [each.method for each in refresh(ended)] == ["leader.status"]
    closed, [ask] = after(model, "escape")
    assert (closed.run, ask.method) == ({}, "daemon.activity")
    assert answered(closed, "run", detail)[0].run == {}


def test_run_that_is_gone_closes_and_says_so() -> None:
    """It was removed between the list and the key."""
    model, _ = after(opened(), "enter")
    model = refused(model, "there is no run")
    assert (model.run, model.mode, model.message) == ({}, Mode.LIST, "there is no run")


def test_what_was_known_stays_while_the_daemon_is_gone() -> None:
    """The next answer takes the notice away."""
    model = unreachable(opened(), "the daemon is gone")
    assert (model.gone, model.runs) == ("the daemon is gone", RUNS)
    assert answered(model, "status", STATUS)[0].gone == ""
    assert after(model, "q")[0].is_over
