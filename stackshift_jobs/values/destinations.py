"""URLs to which something is sent: messages about alerts, and heartbeats."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from stackshift_jobs.errors import Usage

MAX_URL: Final = 2048
SCHEMES: Final = ("ntfy", "slack", "mailto", "https", "http")


def problem_of(url: str) -> str:
    """Why `url` is not a destination; empty if it is one."""
    if len(url) > MAX_URL or not url.isprintable() or " " in url:
        return "it is not a URL"
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError as bad:
        return str(bad)
    if parts.scheme not in SCHEMES:
        return f"its scheme is none of {', '.join(SCHEMES)}"
    if parts.scheme == "mailto":
        names = parts.path.split(",")
        is_mail = all(0 < name.find("@") < len(name) - 1 and name[0] != "-" for name in names)
        return "" if is_mail else "it has no mail address"
    if not has_host:
        return "it has no host"
    if parts.scheme == "ntfy" and not parts.path.strip("/"):
        return "it has no topic"
    return ""


def web_address(value: object) -> str:
    """`value`, if it is a URL of http or https. Raises `ValueError`."""
    is_web = isinstance(value, str) and value.startswith(("https://", "http://"))
    if not isinstance(value, str) or not is_web or problem_of(value):
        raise ValueError('a URL, such as "https://hc-ping.com/UUID"')
    return value


def check_heartbeat(url: str | None) -> str:
    """The URL of a heartbeat; empty without one. Raises `Usage`."""
    if url is None:
        return ""
    try:
        return web_address(url)
    except ValueError as bad:
        raise Usage(f"heartbeat: {url!r} is not {bad}") from None
