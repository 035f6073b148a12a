"""`runs cancel|retry|fork|rm`: acting on runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import NO_PAYLOAD, payload_given
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values import strict_json

_ALREADY: Final = {
    "completed": "had completed",
    "failed": "had failed",
    "cancelled": "was cancelled",
}


def cancel(session: Session, given: Given) -> int:
    """`runs cancel RUN...`: each on its own; the first that could not be decides the status."""
    done: list[dict[str, Any]] = []
    status = 0
    for run in given.texts("runs"):
        try:
            reply = session.call("run.cancel", {"run": run})
        except StackshiftError as bad:
            status = status or messages.error(bad, session.json)
            if bad.code == "daemon_unavailable":
                break
            continue
        done.append(reply)
        if not reply["changed"]:
            was = _ALREADY.get(reply["status"], f"is {reply['status']}")
            session.say(f"{reply['id']} {was} already")
        if not session.json:
            messages.data(reply["id"])
    if session.json:
        messages.data(messages.compact(done))
    return status


def retry(session: Session, given: Given) -> int:
    """`runs retry RUN`: send a finished run on again."""
    params: dict[str, Any] = {"run": given.word("run"), **_from_step(given)}
    if given.texts("set"):
        params["set"] = dict(_replacement(text) for text in given.texts("set"))
        _warn_of_unrecorded(session, params["run"], params["set"])
    if given.flag("dry_run"):
        params["dry_run"] = True
    return _told(session, session.call("run.retry", params))


def fork(session: Session, given: Given) -> int:
    """`runs fork RUN`: the same as a new run."""
    params: dict[str, Any] = {"run": given.word("run"), **_from_step(given)}
    if (payload := payload_given(given)) is not NO_PAYLOAD:
        params["payload"] = payload
    if given.flag("dry_run"):
        params["dry_run"] = True
    return _told(session, session.call("run.fork", params))


def rm(session: Session, given: Given) -> int:
    """`runs rm RUN`: take a finished run out of lists and dead letter."""
    run = session.call("run.get", {"run": given.word("run")})
    if not confirmed(f"remove {run['id']} ({run['job']}, {run['status']})", given.flag("yes")):
        return 0
    reply = session.call("run.remove", {"run": run["id"]})
    messages.data(messages.compact(reply) if session.json else reply["id"])
    return 0


def _from_step(given: Given) -> dict[str, Any]:
    step = given.text("from")
    return {} if step is None else {"from_step": step}


def _replacement(text: str) -> tuple[str, Any]:
    step, equals, value = text.partition("=")
    if not step or not equals:
        raise Usage(f"--set takes STEP=JSON, not {text!r}")
    try:
        return step, strict_json.loads(value)
    except PayloadRefused as bad:
        raise PayloadRefused(
            f"--set {step}: {bad.message}",
            hint="it must be JSON; quote it for the shell",
            **bad.fields,
        ) from bad


def _warn_of_unrecorded(session: Session, run: str, replaced: Iterable[str]) -> None:
    """Say which of the steps `replaced` the run has not recorded: most likely misspelt."""
    detail = session.call("run.get", {"run": run, "detail": True})
    recorded = [str(step["name"]) for step in detail.get("steps") or ()]
    for name in replaced:
        if name not in recorded:
            known = safe(", ".join(recorded)) or "none"
            session.say(
                f"warning: {detail['id']} has not recorded a step {safe(repr(name))}"
                f" (its steps: {known}); the result is for one that is yet to come"
            )


def _told(session: Session, reply: dict[str, Any]) -> int:
    """Print the id; say which steps are reused and which happen again (`--dry-run`: as a list)."""
    if session.json:
        messages.data(messages.compact(reply))
        return 0
    reused, again = len(reply["reused_steps"]), len(reply["repeated_steps"])
    steps = "step" if reused == 1 else "steps"
    counts = (
        f"{reused} recorded {steps} reused, {again} {'happens' if again == 1 else 'happen'} again"
    )
    if not reply["dry_run"]:
        messages.data(reply["id"])
        session.say(counts)
    elif draws(session.options):
        from stackshift_cli.render.lists import print_plan

        print_plan(session.options, reply["steps"])
        session.say(f"dry run: {counts}")
    else:
        for step in reply["steps"]:
            messages.data(tsv.columns(step, tsv.PLAN_COLUMNS))
    return 0
