"""`runs cancel|move|retry|fork|rm`: commands that change runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from stackshift_cli.arguments import Given, check_new, option
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.bulk import Outcome, change_all, check_selection
from stackshift_cli.flows.start_params import NO_PAYLOAD, field_notes, move_params, payload_given
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import PayloadRefused, StackshiftError, Usage
from stackshift_jobs.values import strict_json
from stackshift_jobs.values.quantities import quantity

_ALREADY: Final = {"completed": "has already completed", "failed": "has already failed"}
"""Why a run in this status is not cancelled; else it is already in its status."""

_MOST_NAMED: Final = 20
"""So many recorded steps a warning names."""


def cancel(session: Session, given: Given) -> int:
    """`runs cancel RUN...|--all`: cancel each; the first that could not be cancelled decides the
    exit status."""
    terms = _cancel_terms(given)
    if check_selection(given):
        done = "being cancelled" if given.flag("gently") else "cancelled"
        return change_all(session, given, "run.cancel_all", "cancel", done, terms)

    def note(reply: dict[str, Any]) -> None:
        cancelling = reply.get("cancelling")
        if cancelling is not None:
            again = "" if reply["changed"] else "already "
            session.say(
                f"{reply['id']} is {again}being cancelled, its grace ends at "
                f"{cancelling['grace_ends_at']}"
            )
        elif not reply["changed"]:
            outcome = _ALREADY.get(reply["status"], f"is already {reply['status']}")
            if reply.get("continued_as"):
                outcome += f"; it continues as {reply['continued_as']}"
            session.say(f"{reply['id']} {outcome}")

    return _each(session, given, "run.cancel", terms, note)


def _cancel_terms(given: Given) -> dict[str, Any]:
    """The params of `run.cancel` beside the run. Raises `Usage` for a grace without `--gently`."""
    grace_ms = given.duration_ms("grace")
    if grace_ms is not None and not given.flag("gently"):
        raise Usage("--grace requires --gently", hint="what is cancelled at once has no grace")
    terms: dict[str, Any] = {} if grace_ms is None else {"grace_ms": grace_ms}
    return terms | {name: True for name in ("gently", "children") if given.flag(name)}


def move(session: Session, given: Given) -> int:
    """`runs move RUN...`: move each to another time, priority or queue; the first that could not be
    moved decides the exit status."""
    params, notes = move_params(given)
    for text in notes:
        session.say(text)

    def note(reply: dict[str, Any]) -> None:
        waits = reply["scheduled_at"] and reply["status"] in ("scheduled", "retrying")
        due = f", due {reply['scheduled_at']}" if waits else ""
        verb = "is now" if reply["changed"] else "is already"
        session.say(f"{reply['id']} {verb} {reply['status']}{due}")

    return _each(session, given, "run.move", params, note)


def _each(
    session: Session,
    given: Given,
    method: str,
    params: dict[str, Any],
    note: Callable[[dict[str, Any]], None],
) -> int:
    """Request `method` for each of the runs, print its id, and pass the reply to `note`; the first
    that was refused decides the exit status."""
    done: list[dict[str, Any]] = []
    status = 0
    for run in given.texts("runs"):
        try:
            reply = session.call(method, {"run": run, **params})
        except StackshiftError as bad:
            status = status or messages.error(bad, session.json)
            if bad.code == "daemon_unavailable":
                break
            continue
        done.append(reply)
        note(reply)
        if not session.json:
            messages.data(reply["id"])
    if session.json:
        messages.data(messages.compact(done))
    return status


def retry(session: Session, given: Given) -> int:
    """`runs retry RUN...|--all`: continue failed or cancelled runs from their recorded steps."""
    if check_selection(given):
        alone = [name for name in ("from", "set", "dry_run") if name in given.given()]
        if alone:
            raise Usage(f"{option(alone[0])} cannot be used with --all")
        return change_all(session, given, "run.retry_all", "retry", "retried")
    replies: list[dict[str, Any]] = []
    status = 0
    for run in given.texts("runs"):
        try:
            replies.append(_retry(session, given, run))
        except StackshiftError as bad:
            if len(given.texts("runs")) == 1:
                raise
            status = status or messages.error(bad, session.json)
            if bad.code == "daemon_unavailable":
                break
            continue
        if not session.json:
            _report(session, replies[-1])
    if session.json:
        one = len(given.texts("runs")) == 1
        messages.data(messages.compact(replies[0] if one else replies))
    return status


def _retry(session: Session, given: Given, run: str) -> dict[str, Any]:
    params: dict[str, Any] = {"run": run, **_from_step(given)}
    if given.texts("set"):
        params["set"] = _replacements(given)
        _warn_of_unrecorded(session, params["run"], params["set"])
    if given.flag("dry_run"):
        params["dry_run"] = True
    reply: dict[str, Any] = session.call("run.retry", params)
    return reply


def fork(session: Session, given: Given) -> int:
    """`runs fork RUN`: start a new run that reuses the recorded steps of this one."""
    params: dict[str, Any] = {"run": given.word("run"), **_from_step(given)}
    if (payload := payload_given(given)) is not NO_PAYLOAD:
        params["payload"] = payload
    for note in field_notes(given):
        session.say(note)
    if (queue := given.text("queue")) is not None:
        params["queue"] = queue
    if given.flag("dry_run"):
        params["dry_run"] = True
    return _report(session, session.call("run.fork", params))


def rm(session: Session, given: Given) -> int:
    """`runs rm RUN...|--all`: remove finished runs from lists and the dead letter, after
    confirmation."""
    if check_selection(given):
        return change_all(session, given, "run.remove_all", "remove", "removed")
    runs = [session.call("run.get", {"run": run}) for run in given.texts("runs")]
    named = ", ".join(f"{run['id']} ({run['job']}, {run['status']})" for run in runs[:_MOST_NAMED])
    more = f" and {len(runs) - _MOST_NAMED} more" if len(runs) > _MOST_NAMED else ""
    if not confirmed(f"remove {named}{more}", given.flag("yes")):
        return 0
    outcome = Outcome(session)
    outcome.take_all([_removed(session, run["id"])] for run in runs)
    return outcome.status


def _removed(session: Session, run: str) -> dict[str, Any]:
    """The result of removing a run, as a page of many has it."""
    try:
        reply: dict[str, Any] = session.call("run.remove", {"run": run})
        return reply
    except StackshiftError as bad:
        return {"run": run, "error": bad.as_json()}


def _from_step(given: Given) -> dict[str, Any]:
    step = given.text("from")
    return {} if step is None else {"from_step": step}


def _replacements(given: Given) -> dict[str, Any]:
    replaced: dict[str, Any] = {}
    for step, value in map(_replacement, given.texts("set")):
        check_new(replaced, step, "--set")
        replaced[step] = value
    return replaced


def _replacement(text: str) -> tuple[str, Any]:
    step, equals, value = text.partition("=")
    if not step or not equals:
        raise Usage(f"--set takes STEP=JSON, not {text!r}")
    try:
        return step, strict_json.loads(value)
    except PayloadRefused as bad:
        raise PayloadRefused(
            f"--set {step}: {bad.message}",
            hint="pass JSON, quoted for the shell",
            **bad.fields,
        ) from bad


def _warn_of_unrecorded(session: Session, run: str, replaced: Iterable[str]) -> None:
    """Warn of steps in `replaced` that the run has not recorded; they are probably misspelled."""
    import difflib

    detail = session.detail(run)
    recorded = [str(step["name"]) for step in detail.get("steps") or ()]
    for name in replaced:
        if name not in recorded:
            known = safe(", ".join(recorded[:_MOST_NAMED])) or "none"
            more = ", …" if len(recorded) > _MOST_NAMED else ""
            session.say(
                f"warning: {detail['id']} has not recorded a step {safe(repr(name))}"
                f" (recorded: {known}{more}); the result is kept in case it reaches that step"
            )
            if near := difflib.get_close_matches(name, recorded, 3):
                session.say(f"hint: did you mean {safe(' or '.join(near))}?")


def _report(session: Session, reply: dict[str, Any]) -> int:
    """Print the id of the run, and on stderr how many steps are reused and repeated; with
    `--dry-run` print the list of steps instead."""
    if session.json:
        messages.data(messages.compact(reply))
        return 0
    reused, again = len(reply["reused_steps"]), len(reply["repeated_steps"])
    counts = f"{quantity(reused, 'recorded step')} reused, {again} repeated"
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
