"""The note for a filter that no run passes because nothing has the name it gives.

An empty list is not an error, and a job may have been removed or not written yet. But whoever has
misspelled a name must not take the list for an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_cli.daemon.session import Session
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import BadConfiguration, NotFound, StackshiftError

_ASKED: Final = {"job": "job.get", "queue": "queue.show"}
"""By the name of a filter: the method that does not find what does not exist."""


def say_unknown(session: Session, filters: Mapping[str, Any]) -> None:
    """Say on stderr which job and which queue in `filters` do not exist, and what is like them."""
    for name, method in _ASKED.items():
        if name not in filters:
            continue
        try:
            session.call(method, {name: filters[name]})
        except (NotFound, BadConfiguration) as bad:
            session.say(f"note: {safe(bad.message)}")
            if bad.hint:
                session.say(f"hint: {safe(bad.hint)}")
        except StackshiftError:
            continue  # The list was answered; that is what was asked for.
