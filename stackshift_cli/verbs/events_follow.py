"""`event tail`: being there while events come and go."""

from __future__ import annotations

from stackshift_cli.given import Given
from stackshift_cli.session import Session
from stackshift_cli.verbs.runs_follow import opening_given, tail_records


def tail(session: Session, given: Given) -> int:
    """`event tail`: their records as they become durable: received, and expired."""
    opening = {"kinds": ["event."], **opening_given(session, given)}
    return tail_records(session, opening, given.flag("no_follow"), "Detached")
