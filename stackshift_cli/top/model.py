"""What `top` shows, and what keys and answers change about it.

Pure: `press` and `answered` return the next model and what is to be asked. Laws: a run is changed
only after a `y`; the selection follows its run, and not its line; what was known stays on the
screen while the daemon is gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, NamedTuple

from stackshift_cli.output.safe_text import safe
from stackshift_cli.timeline.describe import brief
from stackshift_jobs.values.limits import FINISHED

Json = dict[str, Any]
_NOTHING: Final[Json] = {}
"""No run is open; never changed."""
LIMIT: Final = 200
"""The most runs in the list; a filter finds the others."""
_MAX_FILTER: Final = 60
PAGE: Final = 10
"""Lines that page up and page down move by."""


class Mode(Enum):
    """What keys mean."""

    LIST = "list"
    FILTER = "filter"
    CONFIRM = "confirm"
    RUN = "run"
    HELP = "help"


class Ask(NamedTuple):
    """A request; its answer is shown as `what`: `status`, `activity`, `run` or `done`."""

    what: str
    method: str
    params: Json


@dataclass(frozen=True)
class Model:
    """All that a frame is made from, besides the clock and the size of the screen."""

    status: Json = field(default_factory=dict)
    activity: Json = field(default_factory=dict)
    selected: str = ""
    """The id of the selected run."""
    mode: Mode = Mode.LIST
    filter: str = ""
    dead: bool = False
    """Is the dead letter listed?"""
    run: Json = field(default_factory=dict)
    """The open run, with detail."""
    scroll: int = 0
    before: Mode = Mode.LIST
    """Where a confirmation, or the page of keys, leads back to."""
    pending: Ask | None = None
    """What a `y` will ask for."""
    message: str = ""
    gone: str = ""
    """Why the daemon cannot be reached; empty if it can."""
    is_over: bool = False

    @property
    def runs(self) -> Sequence[Json]:
        """The listed runs."""
        runs: Sequence[Json] = self.activity.get("runs", ())
        return runs

    @property
    def index(self) -> int:
        """The line of the selected run; 0 if it is not listed any more."""
        return next((n for n, run in enumerate(self.runs) if run["id"] == self.selected), 0)

    @property
    def current(self) -> Json | None:
        """The run that a key is about."""
        if self.run:
            return self.run
        return self.runs[self.index] if self.runs else None


Next = tuple[Model, list[Ask]]


def refresh(model: Model) -> list[Ask]:
    """What is asked every second: the status of the daemon, and the list or the open run."""
    asks = [Ask("status", "leader.status", {})]
    if model.run:
        if model.run.get("status") not in FINISHED:
            asks.append(_ask_run(model.run["id"]))
        return asks
    return [*asks, _ask_list(model)]


def answered(model: Model, what: str, body: Json) -> Next:
    """The model after the answer `body` to what was asked as `what`."""
    model = replace(model, gone="")
    if what == "status":
        return replace(model, status=body), []
    if what == "activity":
        return _listed(model, body), []
    if what == "run":
        # It may have been closed since.
        return (replace(model, run=body) if model.run.get("id") == body["id"] else model), []
    words = {"run.cancel": "cancelled", "run.retry": "retried"}[what]
    if body.get("changed") is False:
        words = f"is not changed: it is {body['status']}"
    model = replace(model, message=f"{brief(body['id'])} {words}")
    return model, refresh(model)


def refused(model: Model, message: str) -> Model:
    """The model after the daemon has refused a request."""
    lost = {"run": _NOTHING, "mode": Mode.LIST} if model.run and not model.run.get("job") else {}
    return replace(model, message=message, gone="", **lost)  # type: ignore[arg-type]


def unreachable(model: Model, why: str) -> Model:
    """The model while the daemon cannot be reached."""
    return replace(model, gone=why)


def press(model: Model, key: str) -> Next:
    """The model after a key, and what is to be asked now."""
    model = replace(model, message="")
    return _KEYS[model.mode](model, key)


def _listed(model: Model, activity: Json) -> Model:
    """The list is new. If the selected run has left it, the one on its line is selected."""
    runs = activity["runs"]
    if any(run["id"] == model.selected for run in runs):
        return replace(model, activity=activity)
    at = min(model.index, len(runs) - 1)
    return replace(model, activity=activity, selected=runs[at]["id"] if runs else "")


def _ask_list(model: Model) -> Ask:
    params = {"filter": model.filter, "limit": LIMIT, "dead": model.dead}
    return Ask("activity", "daemon.activity", params)


def _ask_run(run: str) -> Ask:
    return Ask("run", "run.get", {"run": run, "detail": True})


# --- Keys ----------------------------------------------------------------------------------


def _in_list(model: Model, key: str) -> Next:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE}
    steps |= {"home": -LIMIT, "g": -LIMIT, "end": LIMIT, "G": LIMIT}
    if key in steps and model.runs:
        at = max(0, min(len(model.runs) - 1, model.index + steps[key]))
        return replace(model, selected=model.runs[at]["id"]), []
    if key == "enter" and (run := model.current) is not None:
        opened = replace(model, mode=Mode.RUN, run={"id": run["id"]}, scroll=0)
        return opened, [_ask_run(run["id"])]
    if key == "/":
        return replace(model, mode=Mode.FILTER), []
    if key == "d":
        model = replace(model, dead=not model.dead, selected="")
        return model, [_ask_list(model)]
    if key == "escape" and model.filter:
        model = replace(model, filter="")
        return model, [_ask_list(model)]
    return _in_both(model, key)


def _in_run(model: Model, key: str) -> Next:
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE}
    if key in steps:
        return replace(model, scroll=max(0, model.scroll + steps[key])), []
    if key in ("home", "g"):
        return replace(model, scroll=0), []
    if key in ("escape", "enter", "backspace"):
        model = replace(model, mode=Mode.LIST, run=_NOTHING)
        return model, [_ask_list(model)]
    return _in_both(model, key)


def _in_both(model: Model, key: str) -> Next:
    if key == "q":
        return replace(model, is_over=True), []
    if key == "?":
        return replace(model, mode=Mode.HELP, before=model.mode), []
    run = model.current
    if run is None or key not in ("c", "r") or "status" not in run:
        return model, []
    if key == "c" and run["status"] in FINISHED:
        return replace(model, message=f"{brief(run['id'])} has ended already"), []
    if key == "r" and run["status"] not in ("failed", "cancelled"):
        return replace(model, message="only failed and cancelled runs can be retried"), []
    method = "run.cancel" if key == "c" else "run.retry"
    pending = Ask(method, method, {"run": run["id"]})
    return replace(model, mode=Mode.CONFIRM, before=model.mode, pending=pending), []


def _in_confirm(model: Model, key: str) -> Next:
    pending, model = model.pending, replace(model, mode=model.before, pending=None)
    if key in ("y", "Y") and pending is not None:
        return model, [pending]
    return replace(model, message="nothing was changed"), []


def _in_help(model: Model, key: str) -> Next:
    if key == "q":
        return replace(model, is_over=True), []
    return replace(model, mode=model.before), []


def _in_filter(model: Model, key: str) -> Next:
    if key == "enter":
        return replace(model, mode=Mode.LIST), []
    if key == "escape":
        model = replace(model, mode=Mode.LIST, filter="")
    elif key == "backspace":
        model = replace(model, filter=model.filter[:-1])
    elif len(key) == 1 and len(model.filter) < _MAX_FILTER:
        model = replace(model, filter=model.filter + key)
    else:
        return model, []
    return model, [_ask_list(model)]


_KEYS: Final = {
    Mode.LIST: _in_list,
    Mode.FILTER: _in_filter,
    Mode.CONFIRM: _in_confirm,
    Mode.RUN: _in_run,
    Mode.HELP: _in_help,
}


def question(model: Model) -> str:
    """What is asked before a run is changed: `cancel order 7k2m9q? [y/N]`."""
    run = model.current
    verb = model.pending.method.partition(".")[2] if model.pending is not None else ""
    return f"{verb} {safe(run['job'])} {brief(run['id'])}? [y/N]" if run is not None else ""
