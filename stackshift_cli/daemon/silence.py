"""What a command says of a daemon that is there and does not answer.

A request that waits for nothing is answered in milliseconds. If it is not, the process was stopped
(`kill -STOP`, a debugger), its loop is blocked, or the machine is very busy; only the first can be
seen from outside.
"""

from __future__ import annotations

from stackshift_jobs.calls import methods
from stackshift_jobs.errors import DaemonUnavailable
from stackshift_jobs.wire.unavailable import LOGS, NO_ANSWER, unavailable


def notice(pid: int, method: str, seconds: float) -> list[str]:
    """The lines for a person who has waited for `seconds`; none if `method` may take as long as
    what it waits for, and its daemon is not stopped. `pid` is 0 where we see no processes."""
    if _is_stopped(pid):
        return [f"the daemon (pid {pid}) is stopped and cannot answer; waiting", _continue(pid)]
    if methods.method(method).is_unbounded:
        return []
    return [
        f"{_name(pid)} has not answered for {seconds:g} s; waiting",
        f"hint: {LOGS} shows what it does; Ctrl-C ends the wait",
    ]


def given_up(pid: int, method: str, seconds: float) -> DaemonUnavailable:
    """The error for a request of `method` that is no longer waited for."""
    caution = "" if methods.method(method).reads else "; the request may still take effect"
    if _is_stopped(pid):
        hint = _continue(pid).removeprefix("hint: ")
    elif pid:
        hint = f"{LOGS}; if it hangs, kill -9 {pid} ends it, and the next command starts another"
    else:
        hint = LOGS
    return unavailable(
        f"{_name(pid)} did not answer within {seconds:g} s{caution}", NO_ANSWER, hint
    )


def _name(pid: int) -> str:
    return f"the daemon (pid {pid})" if pid else "the daemon"


def _continue(pid: int) -> str:
    return f"hint: kill -CONT {pid} continues it"


def _is_stopped(pid: int) -> bool:
    from stackshift_jobs.programs.processes import is_stopped

    try:
        return bool(pid) and is_stopped(pid)
    except OSError:
        return False
