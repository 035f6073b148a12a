"""`start`: one run, waited for or followed if asked, or a batch of them."""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.feed import Deadline
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start import ask, run_with_reused, start_one
from stackshift_cli.flows.watch import exit_of, finish, show_until_end, wait_until_end
from stackshift_cli.output import messages
from stackshift_jobs.errors import Usage


def start(session: Session, given: Given) -> int:
    """Start what the command line asks for."""
    if given.text("batch") is not None:
        others = [name for name in given.given() if name != "batch"]
        if others:
            raise Usage(
                f"--batch takes everything from its lines; leave out {', '.join(others)}",
                hint='write {"job": ..., "payload": ..., "queue": ...} a line',
            )
        from stackshift_cli.flows.batch import start_batch

        return start_batch(session, given.text("batch") or "-")
    if given.flag("wait"):
        return _wait(session, given)
    if given.flag("follow"):
        return _follow(session, given)
    return start_one(session, given)


def _wait(session: Session, given: Given) -> int:
    """The id on stderr, the result as one line of JSON on stdout."""
    deadline = Deadline(given.duration_ms("timeout"))
    reply = ask(session, given, full=False)
    session.say(reply["id"])
    run = wait_until_end(session, reply["id"], deadline)
    if session.json:
        messages.data(messages.compact(run_with_reused({**reply, "run": run})))
    elif run["status"] == "completed":
        messages.data(messages.compact(run["result"]))
    return finish(run)


def _follow(session: Session, given: Given) -> int:
    """The id on stderr, the run's timeline on stdout, as `runs tail RUN` shows it."""
    deadline = Deadline(given.duration_ms("timeout"))
    reply = ask(session, given, full=False)
    session.say(reply["id"])
    run = show_until_end(session, reply["id"], {"run": reply["id"]}, deadline)
    if session.json:
        messages.data(messages.compact(run_with_reused({**reply, "run": run})))
    return exit_of(run)
