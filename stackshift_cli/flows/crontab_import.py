"""Moving a crontab's entries into schedules, so that doing it twice changes nothing.

An entry becomes a schedule of the job `exec`, whose payload is what cron would do: the shell, the
home directory, the variables, what it reads. It is found again by that payload, so an entry that
got another time changes its schedule, and one that moved to another line keeps it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final, NamedTuple

from stackshift_cli.crontab.lines import CronEntry, LeftOut, parse
from stackshift_cli.crontab.names import name_for
from stackshift_cli.crontab.source import Source
from stackshift_cli.daemon.session import Session
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.environment import Account, account
from stackshift_jobs.values.names import EXEC_JOB, NAME_LABEL
from stackshift_jobs.values.strict_json import canonical

ORIGIN_LABEL: Final = "crontab"
"""The label of runs that has the crontab which their schedule comes from."""
CRON_PATH: Final = "/usr/bin:/bin"
MAX_NOTE: Final = 8192
_MINUTE_MS: Final = 60_000


class Terms(NamedTuple):
    """What is said of all entries: their zone, and what a schedule knows and cron does not."""

    timezone: str
    catch_up: str = "skip"
    overlap: str = "allow"


class Imported(NamedTuple):
    """What becomes of a line. `state` is `added`, `changed`, `unchanged` or `left out`; in a dry
    run `would be added` and so on. `is_wrong`: cron would not run it either, or the daemon cannot.
    """

    line: int
    state: str
    name: str = ""
    schedule: str = ""
    timezone: str = ""
    command: str = ""
    next_at: str | None = None
    why: str = ""
    is_wrong: bool = False


def import_crontab(
    session: Session, source: Source, terms: Terms, *, is_dry: bool
) -> tuple[list[Imported], list[str]]:
    """Import every entry of `source` that is this user's; returns what became of each line, and
    the names of schedules that came from there and are not in it any more."""
    known = session.whole("schedule.list", "schedules")["schedules"]
    taken = {each["name"] for each in known}
    ours = {each["name"]: each for each in known if each["source"] == "crontab"}
    wanted: list[tuple[CronEntry, dict[str, Any]]] = []
    done: list[Imported] = []
    me = account()
    for entry in parse(source.text, names_users=source.names_users):
        if isinstance(entry, LeftOut):
            done.append(_left_out(entry.line, entry.text, entry.why, is_wrong=True))
        elif entry.user not in ("", me.name):
            why = f"it runs as {entry.user}: import it as that user"
            done.append(_left_out(entry.line, entry.command, why))
        else:
            wanted.append((entry, _params(entry, me, source.origin, terms)))
    left = dict(ours)
    for (entry, params), name in zip(wanted, _names(wanted, left, taken), strict=True):
        done.append(_add(session, entry, {"name": name, **params}, ours.get(name), is_dry=is_dry))
    gone = [name for name, each in left.items() if _origin(each) == source.origin]
    return sorted(done, key=lambda each: each.line), gone


def _names(
    wanted: list[tuple[CronEntry, dict[str, Any]]],
    left: dict[str, dict[str, Any]],
    taken: set[str],
) -> list[str]:
    """The name of each entry's schedule: that of an imported one that does the same, best at the
    same time, or a new one. Those found are taken out of `left`."""
    names: dict[int, str] = {}
    for same_time in (True, False):
        for number, (_entry, params) in enumerate(wanted):
            if number in names:
                continue
            for name, each in left.items():
                does = (each["payload_digest"], _origin(each)) == (_digest(params), _origin(params))
                if does and (not same_time or each["schedule"] == params["schedule"]):
                    names[number] = name
                    del left[name]
                    break
    for number, (entry, _params) in enumerate(wanted):
        if number not in names:
            names[number] = name_for(entry.command, taken)
            taken.add(names[number])
    return [names[number] for number in range(len(wanted))]


def _digest(params: Mapping[str, Any]) -> str:
    """What tells one payload from another, also where the list shows it redacted."""
    return sha256(canonical(params["payload"])).hexdigest()


def _origin(schedule: Mapping[str, Any]) -> str:
    return str((schedule["options"].get("labels") or {}).get(ORIGIN_LABEL, ""))


def _params(entry: CronEntry, user: Account, origin: str, terms: Terms) -> dict[str, Any]:
    """The params of `schedule.add`, apart from the name."""
    variables = {
        "SHELL": "/bin/sh",
        "PATH": CRON_PATH,
        "HOME": user.home,
        **entry.variables,
        "LOGNAME": user.name,
        "USER": user.name,
    }
    timezone = variables.pop("CRON_TZ", "") or terms.timezone
    delay = variables.pop("RANDOM_DELAY", "")
    payload: dict[str, Any] = {
        "command": [variables["SHELL"], "-c", entry.command],
        "cwd": variables["HOME"],
        "env": variables,
    }
    if entry.stdin is not None:
        payload["stdin"] = entry.stdin
    label = name_for(entry.command, ())
    return {
        "job": EXEC_JOB,
        "schedule": entry.schedule,
        "timezone": timezone,
        "catch_up": terms.catch_up,
        "overlap": terms.overlap,
        "jitter_ms": int(delay) * _MINUTE_MS if delay.isascii() and delay.isdigit() else 0,
        "payload": payload,
        "options": {"labels": {NAME_LABEL: label, ORIGIN_LABEL: origin}},
        "note": entry.note[:MAX_NOTE],
        "source": "crontab",
        "replace": True,
    }


def _add(
    session: Session,
    entry: CronEntry,
    params: dict[str, Any],
    known: dict[str, Any] | None,
    *,
    is_dry: bool,
) -> Imported:
    expression, timezone = params["schedule"], params["timezone"]
    about = {"name": params["name"], "schedule": expression, "timezone": timezone}
    try:
        if is_dry:
            asked = {"schedule": expression, "timezone": timezone, "count": 1}
            ticks = session.call("schedule.next", asked)["ticks"]
            next_at = ticks[0]["at"] if ticks else None
            changed = (
                known is None
                or known["payload_digest"] != _digest(params)
                or any((known[key] or "") != (params[key] or "") for key in _COMPARED)
            )
        else:
            reply = session.call("schedule.add", params)
            next_at, changed = reply["next_at"], reply["changed"]
    except StackshiftError as refused:
        if refused.code in ("daemon_unavailable", "disk_full"):
            raise
        return _left_out(entry.line, entry.command, refused.message, is_wrong=True)
    state = "unchanged"
    if changed:
        state = ("would be " if is_dry else "") + ("added" if known is None else "changed")
    return Imported(entry.line, state, command=entry.command, next_at=next_at, **about)


_COMPARED: Final = (
    *("schedule", "timezone", "catch_up", "overlap", "jitter_ms", "options", "note"),
)


def _left_out(line: int, text: str, why: str, *, is_wrong: bool = False) -> Imported:
    return Imported(line, "left out", command=text, why=why, is_wrong=is_wrong)


def differences(source: Source, done: list[Imported]) -> Iterator[str]:
    """What is not as in cron, in sentences: of the crontab as a whole."""
    entries = [
        entry
        for entry in parse(source.text, names_users=source.names_users)
        if isinstance(entry, CronEntry)
    ]
    mails = sorted({entry.variables.get("MAILTO", "") for entry in entries} - {""})
    if mails:
        yield (
            f"output is not mailed to {', '.join(mails)}: it is in the log of each run "
            "(stackshift runs logs); [notify.NAME] in stackshift.toml mails what fails"
        )
    if any(each.schedule == "@reboot" and each.state != "left out" for each in done):
        yield "@reboot ticks once the daemon runs: stackshift daemon install starts it at boot"
    if any("CRON_TZ" in entry.variables for entry in entries):
        yield "CRON_TZ is taken for the time zone of the entries below it, as cronie does"
    if any("RANDOM_DELAY" in entry.variables for entry in entries):
        yield "RANDOM_DELAY is taken for a jitter, which is another for each tick"
