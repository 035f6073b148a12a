"""`state list|history`: many entries, or the changes of one."""

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
    """`state list [PREFIX]`: list entries, sorted by key. They are requested in pages, so that the
    daemon can serve others in between."""
    entries = _entries(session, given.text("prefix") or "", given.whole("limit", 1, _MOST))
    if session.json:
        messages.data(messages.compact(list(entries)))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_entries

        if drawn := list(entries):
            print_entries(session.options, drawn)
        else:
            session.say("no entries")
    else:
        for entry in entries:
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
    """`state history KEY`: list its changes, newest first, as far back as the journal goes; raises
    `NotFound` if there is none."""
    key = given.word("key")
    limit = given.whole("limit", 1, _MOST) or _CHANGES
    changes, is_cut = _changes(session, key, limit)
    if not changes:
        raise NotFound(f"there is no history of {key!r}", hint="stackshift state list", key=key)
    if session.json:
        messages.data(messages.compact(changes))
    elif draws(session.options):
        from stackshift_cli.render.kept import print_changes

        print_changes(session.options, changes)
    else:
        for change in changes:
            messages.data(tsv.valued(change, tsv.CHANGE_COLUMNS))
    if is_cut:
        session.say(f"showing the newest {limit}; use --limit N to see more")
    return 0


def _changes(session: Session, key: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """At most `limit` changes of `key`, and whether there are more."""
    changes: list[dict[str, Any]] = []
    params: dict[str, Any] = {"key": key}
    while True:
        params["limit"] = min(_PAGE, limit - len(changes))
        page = session.call("state.history", params)
        changes += page["history"]
        if page["next"] is None or len(changes) >= limit:
            return changes, page["next"] is not None
        params["before_seq"] = page["next"]
