"""The time zone that cron has on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_LOCALTIME: Final = Path("/etc/localtime")
_TIMEZONE: Final = Path("/etc/timezone")
_FOLDER: Final = "/zoneinfo/"


def local_zone() -> str:
    """Its IANA name, as the system's files tell it; empty if they do not. `TZ` in the environment
    is not asked: it is the shell's, and not cron's."""
    try:
        _, found, name = str(_LOCALTIME.resolve(strict=True)).partition(_FOLDER)
    except OSError:
        found, name = "", ""
    if found:
        return _plain(name)
    try:
        return _plain(_TIMEZONE.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return ""


def _plain(name: str) -> str:
    name = name.removeprefix("posix/").removeprefix("right/")
    return "UTC" if name in ("Etc/UTC", "Etc/UCT", "UCT", "Etc/Universal", "Etc/Zulu") else name
