"""`state list|history`: many entries, or what became of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import NotFound

_PAGE: Final = 1000
_MOST: Final = 10_000_000
_CHANGES: Final = 50


def list_(session: Session, given: Given) -> int:
    """`state list [PREFIX]`: all of them, a page at a time, so that none is held up."""
    found = _entries(session, given.text("prefix") or "", given.whole("limit", 1, _MOST))
    if session.json:
        messages.data(messages.compact(list(found)))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_entries

        if entries := list(found):
            print_entries(session.options, entries)
        else:
            session.say("no entries")
    else:
        for entry in found:
            messages.data(tsv.valued(entry, tsv.STATE_COLUMNS))
    return 0


def _entries(session: Session, prefix: str, limit: int | None) -> Iterator[dict[str, Any]]:
    params: dict[str, Any] = {"prefix": prefix}
    left = _MOST if limit is None else limit
    while left > 0:
        page = session.call("state.list", {**params, "limit": min(left, _PAGE)})
        yield from page["entries"]
        left = left - len(page["entries"]) if limit is not None else left
        if page["next"] is None:
            return
        params["after"] = page["next"]


def history(session: Session, given: Given) -> int:
    """`state history KEY`: its changes, as far back as the journal goes."""
    key = given.word("key")
    limit = given.whole("limit", 1, _MOST) or _CHANGES
    changes, is_cut = _changes(session, key, limit)
    if not changes:
        raise NotFound(
            f"nothing is known of an entry {key!r}", hint="stackshift state list", key=key
        )
    if session.json:
        messages.data(messages.compact(changes))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_changes

        print_changes(session.options, changes)
    else:
        for change in changes:
            messages.data(tsv.valued(change, tsv.CHANGE_COLUMNS))
    if is_cut:
        session.say(f"these are the newest {limit}; --limit N shows more")
    return 0


def _changes(session: Session, key: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """At most `limit` of them, page by page; are there more?"""
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {"key": key}
    while True:
        asked = {**params, "limit": min(_PAGE, limit - len(found))}
        page = session.call("state.history", asked)
        found += page["history"]
        if page["next"] is None or len(found) >= limit:
            return found, page["next"] is not None
        params["before_seq"] = page["next"]
