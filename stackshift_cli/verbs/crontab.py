"""`crontab import [FILE|-]`: make schedules of a crontab's entries."""

from __future__ import annotations

from typing import Final

from stackshift_cli.arguments import Given
from stackshift_cli.crontab.source import read_source
from stackshift_cli.crontab.zone import local_zone
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.crontab_import import Imported, Terms, differences, import_crontab
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render import tsv
from stackshift_cli.verbs.jobs import say_boot_hint

_SOME_WRONG: Final = 6


def import_(session: Session, given: Given) -> int:
    """`crontab import [FILE|-] [--dry-run]`: print a line for each entry, `line state name schedule
    timezone next_at why command`. Exit 6 if cron would not run one either, or it cannot be a
    schedule; the others are imported all the same."""
    source = read_source(given.text("file"), given.text("format"))
    zone = given.text("timezone") or local_zone()
    if not zone:
        session.say("the time zone of this machine is not known by name: taken for UTC")
    terms = Terms(zone or "UTC", given.text("catch_up") or "skip", given.text("overlap") or "allow")
    is_dry = given.flag("dry_run")
    done, gone = import_crontab(session, source, terms, is_dry=is_dry)
    if session.json:
        messages.data(messages.compact([each._asdict() for each in done]))
    else:
        for each in done:
            messages.data(tsv.columns(each._asdict(), tsv.IMPORT_COLUMNS))
    for each in done:
        if each.state == "left out":
            session.say(f"line {each.line} is left out: {safe(each.why)}")
    for text in differences(source, done):
        session.say(f"note: {safe(text)}")
    if gone:
        names = " ".join(map(safe, gone))
        session.say(f"no longer in the crontab, and still schedules: {names}")
        session.say(f"hint: stackshift schedules rm {names}")
    session.say(_summary(done))
    if any(each.state in ("added", "changed") for each in done):
        session.say("hint: cron has these lines, too: take them out, so that nothing runs twice")
        say_boot_hint(session)
    return _SOME_WRONG if any(each.is_wrong for each in done) else 0


def _summary(done: list[Imported]) -> str:
    counts: dict[str, int] = {}
    for each in done:
        counts[each.state] = counts.get(each.state, 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items()) or "no entries"
