"""`start`: start one run, and wait for it or follow it if asked; or start a batch of runs."""

from __future__ import annotations

from stackshift_cli.arguments import Given, option
from stackshift_cli.daemon.feed import Deadline
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import WatchedRunFailed
from stackshift_cli.flows.start import ask, run_with_reused, start_one
from stackshift_cli.flows.start_params import start_params
from stackshift_cli.flows.watch import exit_of, finish, show_until_end, wait_until_end
from stackshift_cli.output import messages
from stackshift_cli.output.terminal import draws
from stackshift_cli.script.client import answer_to
from stackshift_jobs.errors import RunCancelled, Usage


def start(session: Session, given: Given) -> int:
    """`start JOB`, or `start --batch FILE`: print the ids of the runs. With `--wait` or `--follow`
    the end of the run decides the exit status."""
    if given.text("batch") is not None:
        others = [_spelled(name) for name in given.given() if name != "batch"]
        if others:
            raise Usage(
                f"--batch cannot be used with {', '.join(others)}",
                hint='each line is {"job": ..., "payload": ..., "queue": ..., ...}',
            )
        from stackshift_cli.flows.batches.batch import start_batch

        return start_batch(session, given.text("batch") or "-")
    if given.flag("wait"):
        return _wait(session, given)
    if given.flag("follow"):
        return _follow(session, given)
    return start_one(session, given)


def _spelled(name: str) -> str:
    """How the parameter `name` is spelled on the command line."""
    return "JOB" if name == "job" else option(name)


def _wait(session: Session, given: Given) -> int:
    """Start a run and wait for it; its id on stderr, its result as one line of JSON on stdout."""
    deadline = Deadline(given.duration_ms("timeout"))
    if session.is_scripts:
        return _call(session, given)
    reply = ask(session, given, full=False)
    session.say(reply["id"])
    run = wait_until_end(session, reply["id"], deadline)
    if session.json:
        messages.data(messages.compact(run_with_reused({**reply, "run": run})))
    elif run["status"] == "completed":
        messages.data(messages.compact(run["result"]))
    return finish(session, run)


def _call(session: Session, given: Given) -> int:
    """`start --wait` of the script of a shell job: a durable wait for the run that it starts."""
    if given.text("timeout") is not None:
        raise Usage("start --wait of a shell job takes no --timeout", hint="give the job one")
    params, notes = start_params(given)
    for note in notes:
        session.say(note)
    answer = answer_to({"call": "call", "params": params})
    if "child" not in answer:
        messages.data(messages.compact(answer["result"]))
        return 0
    error = answer["error"] or {}
    if answer["status"] == "cancelled":
        raise RunCancelled(answer["child"])
    raise WatchedRunFailed(answer["child"], error, [])


def _follow(session: Session, given: Given) -> int:
    """Start a run and show it as `runs tail RUN` does; its id on stderr, its timeline on stdout."""
    deadline = Deadline(given.duration_ms("timeout"))
    reply = ask(session, given, full=False)
    session.say(reply["id"])
    run = show_until_end(session, reply["id"], {"run": reply["id"]}, deadline)
    if session.json:
        messages.data(messages.compact(run_with_reused({**reply, "run": run})))
    elif not draws(session.options):
        return finish(session, run)
    return exit_of(run)
