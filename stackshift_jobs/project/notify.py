"""`[notify.NAME]` and `[heartbeat]`: how what they say is read.

A destination and its token may be secrets, so they can be references, `{"$env" = "NAME"}` or
`{"$file" = "path"}`, which a worker resolves when it sends. Nothing of them is ever recorded.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from stackshift_jobs.errors import Usage
from stackshift_jobs.project.settings import Kind
from stackshift_jobs.values.destinations import problem_of, web_address
from stackshift_jobs.values.expectations import check_expectation
from stackshift_jobs.values.secrets import Reference, reference_of

ALERTS: Final = ("failed", "late", "missing", "recovered", "daemon_stopped")
"""What there is to be told."""


def _destination(value: object) -> str | Reference:
    reference = reference_of(value)
    if reference is not None:
        return reference
    if not isinstance(value, str) or problem_of(value):
        raise ValueError(
            'a destination: "ntfy://ntfy.sh/TOPIC", "slack://hooks.slack.com/services/…", '
            '"mailto:NAME@HOST", "https://…", or { "$env" = "NAME" }'
        )
    return value


def _secret_text(value: object) -> str | Reference:
    reference = reference_of(value)
    if reference is not None:
        return reference
    if not isinstance(value, str) or not value or not value.isprintable():
        raise ValueError('text, or { "$env" = "NAME" } or { "$file" = "path" }')
    return value


def _web_address(value: object) -> str | Reference:
    reference = reference_of(value)
    if reference is not None:
        return reference
    return web_address(value)


def _smtp(value: object) -> str:
    if isinstance(value, str) and value.isprintable():
        try:
            parts = urlsplit(value)
            if parts.scheme in ("smtp", "smtps") and parts.hostname and parts.password is None:
                return value if parts.port != 0 else ""
        except ValueError:
            pass
    raise ValueError('a mail server, such as "smtp://USER@mail.example.com:587"')


def _alerts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(each in ALERTS for each in value):
        raise ValueError(f"a list of {', '.join(ALERTS)}")
    return tuple(dict.fromkeys(value))


def _patterns(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(
        isinstance(each, str) and each and each.isprintable() for each in value
    ):
        raise ValueError('a list of names or patterns, such as ["import", "shop.*"]')
    return tuple(value)


def _expectation(value: object) -> str:
    try:
        return check_expectation(value)
    except Usage:
        raise ValueError('an expectation, such as "daily by 03:00" or "every 6h"') from None


DESTINATION: Final = Kind("destination", _destination)
SECRET_TEXT: Final = Kind("text or secret", _secret_text)
WEB_ADDRESS: Final = Kind("URL", _web_address)
SMTP: Final = Kind("mail server", _smtp)
ALERT_NAMES: Final = Kind("list of alerts", _alerts)
EXPECTATION: Final = Kind("expectation", _expectation)
PATTERNS: Final = Kind("list of patterns", _patterns)


def masked(to: Any) -> str:
    """A destination as it may be shown: without what only those who send there should know."""
    if isinstance(to, Reference):
        return f'{{ "{to.kind}" = "{to.name}" }}'
    parts = urlsplit(str(to))
    if parts.scheme == "mailto":
        return str(to)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…"
