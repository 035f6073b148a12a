"""One start: its request, and what is printed of the answer."""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import start_params
from stackshift_cli.output import messages
from stackshift_jobs.errors import Usage

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any, Final

_HAS_UNIQUE: Final = "which has this unique key"


def start_one(session: Session, given: Given) -> int:
    """Start one run and print its id (`--json`: the run object with `reused`); exit status 0."""
    reply = ask(session, given, full=session.json)
    if session.json:
        messages.data(messages.compact(run_with_reused(reply)))
    elif reply["id"]:
        messages.data(str(reply["id"]))
    return 0


def ask(session: Session, given: Given, full: bool) -> dict[str, Any]:
    """Send `run.start` and return the reply, with the run object if `full`. Says on stderr if a run
    was reused or its time is past, or with `--dry-run` what would be started. Raises `Usage`,
    `PayloadRefused` and the daemon's errors."""
    _check(given)
    params, notes = start_params(given)
    dry = given.flag("dry_run")
    if dry:
        params["dry_run"] = True
    for note in notes:
        session.say(note)
    reply = reply_to(session, params, full=full or dry)
    if not dry and "scheduled_at" in params and reply["status"] != "scheduled":
        session.say(f"{given.text('at')} is past: the run starts now")
    return reply


def reply_to(session: Session, params: dict[str, Any], full: bool) -> dict[str, Any]:
    """Send `run.start` with `params` and return the reply, with the run object if `full`. Says on
    stderr what a person should know of it: that a run was reused, or what would be started."""
    if full:
        params = {**params, "full": True}
    reply: dict[str, Any] = session.call("run.start", params)
    session.note(reply)
    dry = params.get("dry_run")
    for run in reply.get("replaced", ()):
        session.say(f"{'dry run: would cancel' if dry else 'cancelled'} {run}, {_HAS_UNIQUE}")
    if dry:
        session.say(_would(reply, params["job"]))
    elif reply["reused"]:
        _say_reused(session, reply)
    if near := reply.pop("near_queues", None):
        from stackshift_cli.output.safe_text import safe

        names = safe(" or ".join(near))
        session.say(f"queue {safe(params['queue'])} is new; did you mean {names}?")
    return reply


def run_with_reused(reply: dict[str, Any]) -> dict[str, Any]:
    """What `start --json` prints: the run object of `reply`, and `reused`."""
    return {**reply["run"], "reused": reply["reused"]}


def _check(given: Given) -> None:
    waits = given.flag("wait") or given.flag("follow")
    if given.flag("wait") and given.flag("follow"):
        raise Usage("--wait and --follow cannot be used together")
    if given.text("timeout") is not None and not waits:
        raise Usage("--timeout requires --wait or --follow", hint="add --wait")
    if given.flag("dry_run") and waits:
        raise Usage("--dry-run cannot be used with --wait or --follow")


def _would(reply: dict[str, Any], job: str) -> str:
    if reply["reused"]:
        verb = "attach to" if reply.get("attached") else "reuse"
        verb = "retry" if reply.get("retried") else verb
        return f"dry run: would {verb} {reply['run']['id']} ({_status(reply)})"
    from stackshift_cli.output.safe_text import safe

    queue = safe(str(reply["run"]["queue"]))
    return f"dry run: would start {safe(job)} in queue {queue} ({reply['status']})"


def _say_reused(session: Session, reply: dict[str, Any]) -> None:
    if reply.get("attached"):
        session.say(f"attached to {reply['id']} ({_status(reply)}), {_HAS_UNIQUE}")
        return
    if reply.get("retried"):
        session.say(f"retried {reply['id']}, which has this idempotency key and had failed")
        return
    if (kept := reply.get("kept_scheduled_at")) is not None:
        session.say(f"{reply['id']} keeps its time, {kept}; stackshift runs move changes it")
    note = f"reused {reply['id']} ({_status(reply)}), which has this idempotency key"
    if reply["status"] in ("failed", "cancelled"):
        # Even with --quiet: no run was started, and the one from before did not succeed.
        messages.say(note)
        messages.say(f"hint: stackshift runs retry {reply['id']}")
    else:
        session.say(note)


def _status(reply: dict[str, Any]) -> str:
    """The status of the run; it is not known if the run is older than the journal's retention."""
    return str(reply["status"] or "no longer in the journal")
