"""Changing one value in a TOML file of settings, which a person has written and will read again.

Everything else is left as it is: comments, order, blank lines, the ends of lines. A new value
stands where a person would write it: below the line that shows its default in a comment.

    [workers]
    # slots = 16  # Runs at once in one process.
    slots = 4
    # grace = "10s"  # …

    # [queues.NAME]
    # concurrency = …

What is written always means what was there before, and the value: a place that is found by looking
at lines is given up if it does not.
"""

from __future__ import annotations

import fcntl
import os
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.project.config import NAMED
from stackshift_jobs.project.toml import parse_toml, read_config_text

_HEADER: Final = re.compile(r"\s*\[")
_COMMENTED_HEADER: Final = re.compile(r"""\s*#\s*\[{1,2}[\w."' -]+\]{1,2}\s*(#.*)?$""")
_COMMENT: Final = re.compile(r"\s*#")


def edit(file: Path, section: tuple[str, ...], name: str, value: Any) -> None:
    """Set one value in a TOML file, atomically. Raises `BadConfiguration` if the file is not valid,
    and `OSError`."""
    with _alone(file):
        text = read_config_text(file) if file.exists() else ""
        parse_toml(text, file)
        _write(file, edited(text, section, name, value))


def remove(file: Path, section: tuple[str, ...], name: str) -> bool:
    """Remove one value from a TOML file, atomically; false if it was not there. Raises as `edit`
    does."""
    import tomlkit

    with _alone(file):
        if not file.exists():
            return False
        text = read_config_text(file)
        parse_toml(text, file)
        document = tomlkit.parse(text)
        table: Any = document
        for part in section:
            table = table.get(part, {})
        if name not in table:
            return False
        del table[name]
        _write(file, tomlkit.dumps(document))
        return True


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other commands from changing the file between our reading and our writing. Its directory
    is locked, because the file itself is replaced."""
    folder = os.open(file.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # Not every file system knows locks.
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(file: Path, text: str) -> None:
    target = file.resolve()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8", newline="") as written:
        written.write(text)
    owner = target.parent.stat()
    if target.exists():
        owner = target.stat()
        temporary.chmod(owner.st_mode & 0o777)
    if os.geteuid() == 0 and owner.st_uid != 0:
        # Root changes what is somebody else's, who must be able to go on with it.
        os.chown(temporary, owner.st_uid, owner.st_gid)
    temporary.replace(target)


def edited(text: str, section: tuple[str, ...], name: str, value: Any) -> str:
    """`text`, which is valid TOML, with one value set."""
    import tomlkit

    document = tomlkit.parse(text)
    table: Any = document
    for part in section:
        if part not in table:
            table[part] = tomlkit.table(is_super_table=part in NAMED)
        table = table[part]
    is_new = name not in table
    table[name] = value
    rewritten = tomlkit.dumps(document)
    if is_new:
        line = f"{name} = {tomlkit.item(value).as_string()}"
        placed = _placed(text, section, name, line)
        if placed is not None and _means(placed) == _means(rewritten):
            return placed
    return rewritten


def _placed(text: str, section: tuple[str, ...], name: str, line: str) -> str | None:
    """`text` with `line` in the section; None if the section has no header."""
    lines = text.splitlines(keepends=True)
    start = _behind_header(lines, section)
    if start is None:
        return None
    end = next((at for at in range(start, len(lines)) if _begins_another(lines[at])), len(lines))
    default = re.compile(rf"\s*#\s*{re.escape(name)}\s*=")
    shown = [at + 1 for at in range(start, end) if default.match(lines[at])]
    at = shown[-1] if shown else _behind_last(lines, start, end)
    newline = "\r\n" if lines and lines[0].endswith("\r\n") else "\n"
    before = "".join(lines[:at])
    if before and not before.endswith("\n"):
        before += newline
    return f"{before}{line}{newline}{''.join(lines[at:])}"


def _behind_header(lines: list[str], section: tuple[str, ...]) -> int | None:
    if not section:
        return 0
    wanted: dict[str, Any] = {}
    for part in reversed(section):
        wanted = {part: wanted}
    headers = (
        at for at, line in enumerate(lines) if _HEADER.match(line) and _means(line) == wanted
    )
    return next((at + 1 for at in headers), None)


def _begins_another(line: str) -> bool:
    return bool(_HEADER.match(line) or _COMMENTED_HEADER.match(line))


def _behind_last(lines: list[str], start: int, end: int) -> int:
    """Behind the last line of a section; what is written above the next header belongs to that."""
    at = end
    if end < len(lines):
        while at > start and _COMMENT.match(lines[at - 1]):
            at -= 1
        if at == start or lines[at - 1].strip():
            at = end  # No blank line sets these comments apart.
    while at > start and not lines[at - 1].strip():
        at -= 1
    return at


def _means(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError:
        return None
