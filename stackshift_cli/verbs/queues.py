"""`queues list|show|pause|resume|limit|drain|purge`: inspect and control queues."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.feed import Deadline, until_back
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import DaemonUnavailable, Usage
from stackshift_jobs.values.quantities import quantity

_MOST: Final = 1_000_000
_BY_PERSON: Final = "queues pause, resume"
"""Where the daemon says that a queue is paused from, if a person has said so last."""
_LIMITS: Final = ("concurrency", "key_concurrency", "rate", "rate_burst")


def list_(session: Session, _given: Given) -> int:
    """`queues list`: list all queues."""
    queues = session.whole("queue.list", "queues")["queues"]
    if session.json:
        messages.data(messages.compact(queues))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_queues

        print_queues(session.options, queues)
    else:
        for queue in queues:
            messages.data(tsv.columns({**queue, "status": _status(queue)}, tsv.QUEUE_COLUMNS))
    return 0


def show(session: Session, given: Given) -> int:
    """`queues show Q`: print its fields, one per line, and where each limit comes from."""
    queue = session.call("queue.show", {"queue": given.word("queue")})
    if session.json:
        messages.data(messages.compact(queue))
        return 0
    sources = queue.pop("sources")
    if draws(session.options):
        from stackshift_cli.render.objects import print_object

        if sources.get("paused") == _BY_PERSON:
            sources["paused"] = "queues pause" if queue["paused"] else "queues resume"
        print_object(session.options, queue, sources)
        return 0
    keys = queue.pop("busy_keys")
    for name, value in queue.items():
        if name in sources:
            shown = "none" if value is None else value
            messages.data(tsv.tabbed((name, shown, f"({sources[name]})")))
        elif value is not None:
            messages.data(tsv.tabbed((name, value)))
    for key in keys:
        messages.data(tsv.tabbed(("key", key["key"], f"{key['running']} running")))
    return 0


def pause(session: Session, given: Given) -> int:
    """`queues pause Q`: start no more of its runs; those that are running continue."""
    queue = session.call("queue.pause", {"queue": given.word("queue")})
    outcome = "paused" if queue["changed"] else "is already paused"
    return _report(session, queue, f"{safe(queue['name'])} {outcome}")


def resume(session: Session, given: Given) -> int:
    """`queues resume Q`: start its runs again."""
    queue = session.call("queue.resume", {"queue": given.word("queue")})
    outcome = "resumed" if queue["changed"] else "is not paused"
    return _report(session, queue, f"{safe(queue['name'])} {outcome}")


def limit(session: Session, given: Given) -> int:
    """`queues limit Q`: change its limits until they are changed again, also across restarts."""
    params: dict[str, Any] = {"queue": given.word("queue")}
    for name in ("concurrency", "key_concurrency", "rate_burst"):
        if given.text(name) == "none":
            params[name] = 0
        elif (number := given.whole(name, 1, _MOST)) is not None:
            params[name] = number
    if (rate := given.text("rate")) is not None:
        params["rate"] = rate
    if given.flag("reset"):
        params["reset"] = True
    if len(params) == 1:
        raise Usage(
            "no limit was given",
            hint="give --concurrency N, --rate 100/m, …, or --reset to remove all of them",
        )
    queue = session.call("queue.limit", params)
    bounds = [f"{name} {queue[name]}" for name in _LIMITS if _is_limited(queue, name)]
    return _report(session, queue, f"{safe(queue['name'])}: {', '.join(bounds) or 'no limits'}")


def drain(session: Session, given: Given) -> int:
    """`queues drain Q`: pause it, and return when none of its runs is running."""
    name = given.word("queue")
    deadline = Deadline(given.duration_ms("timeout"))
    running = session.call("queue.show", {"queue": name})["running"]
    if running:
        # Before it is paused: another may start in between, and is waited for like these.
        runs = "1 run" if running == 1 else f"{running} runs"
        session.say(f"waiting for {runs} in {safe(name)}")
    while True:
        try:
            queue = session.connection().call("queue.drain", {"queue": name}, deadline.left())
        except TimeoutError:
            session.say(f"{safe(name)} stays paused")
            raise deadline.passed(f"work in queue {safe(name)}") from None
        except KeyboardInterrupt:
            session.say(f"Detached; {safe(name)} stays paused")
            raise
        except DaemonUnavailable as bad:
            for _ in until_back(session, bad):
                deadline.check(f"work in queue {safe(name)}")
        else:
            depth = queue["depth"]
            return _report(session, queue, f"{safe(name)} drained and paused, {depth} queued")


def purge(session: Session, given: Given) -> int:
    """`queues purge Q`: cancel its runs that are queued, scheduled or waiting for a retry."""
    name = given.word("queue")
    count = session.call("queue.purge", {"queue": name, "dry_run": True})["cancelled"]
    runs = quantity(count, "queued, scheduled or retrying run")
    if not confirmed(f"cancel {runs} in {name}", given.flag("yes")):
        return 0
    reply = session.wait("queue.purge", {"queue": name})
    if session.json:
        messages.data(messages.compact({"queue": reply["queue"], "cancelled": reply["cancelled"]}))
    else:
        messages.data(str(reply["cancelled"]))
        session.say(f"{safe(name)}: {reply['cancelled']} cancelled")
    return 0


def _report(session: Session, queue: dict[str, Any], text: str) -> int:
    if session.json:
        messages.data(messages.compact(queue))
    else:
        session.say(text)
    return 0


def _status(queue: dict[str, Any]) -> str:
    return "paused" if queue["paused"] else "open"


def _is_limited(queue: dict[str, Any], name: str) -> bool:
    """Is the limit `name` set and effective? A burst has no effect without a rate."""
    if name == "rate_burst":
        return queue["rate"] is not None and queue[name] != 1
    return queue[name] is not None
