"""What a retry or a fork would do, step by step: the answer to a dry run.

Pure: derived from the run's recorded steps, in journal order, and the plan made by the core.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from stackshiftd.core.decide.rerun import Plan
from stackshiftd.core.state.state import Call, CallKind, Run

_KINDS: Final = {CallKind.CHILD: "call"}
"""Kinds for which `runs show` uses another word."""


def planned_steps(run: Run, plan: Plan, replaced: Iterable[str] = ()) -> list[dict[str, Any]]:
    """One object per step: `name`, `action` (`reuse`, `repeat` or `set`), `kind`, `status`, and
    `run`, the run that it started or waited for. `kind` and `status` are null for a step that is
    not recorded: the step that ended the run, or one whose result is set before it was reached.
    """
    actions = dict.fromkeys(plan.reused, "reuse") | dict.fromkeys(plan.repeated, "repeat")
    actions |= dict.fromkeys(replaced, "set")
    in_order = sorted(run.calls, key=lambda name: run.calls[name].seq)
    names = [*in_order, *(name for name in actions if name not in run.calls)]
    return [_planned(name, actions[name], run.calls.get(name)) for name in names]


def _planned(name: str, action: str, step: Call | None) -> dict[str, Any]:
    if step is None:
        return {"name": name, "action": action, "kind": None, "status": None, "run": None}
    return {
        "name": name,
        "action": action,
        "kind": _KINDS.get(step.kind, step.kind.value),
        "status": step.child_status or step.phase.value,
        "run": step.child,
    }
