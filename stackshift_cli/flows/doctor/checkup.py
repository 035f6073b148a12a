"""What `doctor` looks at on this machine, one function a subject. Nothing is changed or repaired.

A finding is about one thing: it is good, worth knowing, or a problem, and then its hint is what to
type. What the daemon knows is in `checkup_daemon`.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import BadConfiguration, StackshiftError
from stackshift_jobs.project.config import load_config
from stackshift_jobs.project.locate import Project
from stackshift_jobs.values.quantities import quantity
from stackshift_jobs.version import __version__

GOOD, NOTE, PROBLEM = "ok", "note", "problem"
_LITTLE_BYTES: Final = 64 << 20
_FEW_BYTES: Final = 1 << 30
_FEW_FILES: Final = 256
_AHEAD_SECONDS: Final = 5.0
_OURS: Final = ("stackshift_jobs", "stackshift_cli", "stackshiftd")
_INOTIFY: Final = Path("/proc/sys/fs/inotify")
_MAX_FOLDERS: Final = 100_000


class Finding(NamedTuple):
    """What was found on a subject: `ok`, `note` or `problem`, in words, and what to type."""

    subject: str
    status: str
    message: str
    hint: str = ""
    exit_status: int = 1
    """That of `doctor`, if this is a problem."""


def about_versions() -> Iterator[Finding]:
    """This command, its Python, and which `stackshift` a shell finds first."""
    python = sys.version.split()[0]
    what = f"stackshift {__version__}, Python {python} ({sys.executable})"
    yield Finding("version", GOOD, what)
    own = Path(sys.executable).with_name("stackshift")
    first = shutil.which("stackshift")
    if first is None:
        where = f": {own}" if own.exists() else ""
        yield Finding(
            "path",
            NOTE,
            f"PATH has no stackshift{where}",
            f'export PATH="{own.parent}:$PATH"',
        )
    elif own.exists() and not os.path.samefile(first, own):  # noqa: PTH121
        yield Finding(
            "path",
            PROBLEM,
            f"PATH leads to another stackshift: {first}, not {own}",
            f'export PATH="{own.parent}:$PATH"',
        )
    else:
        yield Finding("path", GOOD, f"PATH leads to {first}")


def about_project(project: Project) -> Iterator[Finding]:
    """Its settings, and files in it that hide modules of Python or of ours."""
    root = project.root
    try:
        config = load_config(root)
    except BadConfiguration as bad:
        yield Finding("project", PROBLEM, bad.message, bad.hint, bad.exit_status)
    else:
        yield Finding("project", GOOD, f"{config.project.name} in {root}")
    hidden = [
        entry.name
        for entry in sorted(root.iterdir())
        if (name := entry.name.removesuffix(".py")) in sys.stdlib_module_names or name in _OURS
        if entry.name.endswith(".py") or (entry / "__init__.py").exists() or name in _OURS
    ]
    # A checkout of ours is a place where these names are right.
    if hidden and not (root / "stackshift_jobs" / "version.py").exists():
        names = ", ".join(hidden)
        yield Finding(
            "imports",
            PROBLEM,
            f"in job modules, {names} in {root} is imported instead of the module of that name",
            f"mv {hidden[0]} my_{hidden[0]}",
            BadConfiguration.exit_status,
        )


def about_trust(project: Project) -> Iterator[Finding]:
    """Whether somebody else could change the code that runs as you."""
    from stackshift_jobs.project.code import check_code

    try:
        check_code(load_config(project.root))
    except BadConfiguration as bad:
        if "path" in bad.fields:
            yield refusal(bad)
        return  # Else the settings are wrong, which `about_project` says.
    yield Finding("ownership", GOOD, "nobody else can change the project or see its data")


def refusal(bad: BadConfiguration) -> Finding:
    """The project, or its data directory, is refused because of what others could do to it."""
    return Finding("ownership", PROBLEM, bad.message, bad.hint, bad.exit_status)


def about_disk(project: Project) -> Iterator[Finding]:
    """Room for the journal, in bytes and in files, and whether it can be written at all."""
    place = project.data_dir if project.data_dir.exists() else project.root
    found = os.statvfs(place)
    free, total = found.f_bavail * found.f_frsize, max(1, found.f_blocks * found.f_frsize)
    text = f"{_size(free)} free of {_size(total)} at {place}"
    if found.f_flag & os.ST_RDONLY or not os.access(place, os.W_OK):
        yield Finding("disk", PROBLEM, f"{place} cannot be written", f"ls -ld {place}")
    elif free < _LITTLE_BYTES:
        yield Finding("disk", PROBLEM, f"only {text}", f"df -h {place}")
    elif found.f_files and found.f_favail < _FEW_FILES:
        left = f"only {quantity(found.f_favail, 'more file')} can be made at {place}"
        yield Finding("disk", PROBLEM, left, f"df -i {place}")
    elif free < _FEW_BYTES:
        yield Finding("disk", NOTE, text, f"df -h {place}")
    else:
        yield Finding("disk", GOOD, text)


def about_clock(project: Project) -> Iterator[Finding]:
    """Whether the clock has gone back behind the journal, and whether the time zone is known."""
    now = time.time()
    newest = max(
        (file.stat().st_mtime for file in (project.data_dir / "journal").glob("*.jsonl")),
        default=0.0,
    )
    shown = datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if newest > now + _AHEAD_SECONDS:
        behind = f"it is {shown}, {newest - now:.0f} s before the journal was last written"
        yield Finding("clock", PROBLEM, behind, "timedatectl")
    else:
        yield Finding("clock", GOOD, f"{shown}, here {time.strftime('%H:%M %Z')}")
    if zone := os.environ.get("TZ", "").lstrip(":"):
        import zoneinfo

        if not zone.startswith("/") and zone not in zoneinfo.available_timezones():
            problem = f"TZ={zone} is not the name of a time zone; local times are in UTC"
            yield Finding("clock", NOTE, problem, "ls /usr/share/zoneinfo")


def about_limits(project: Project) -> Iterator[Finding]:
    """Open files, and (on Linux) the folders that can be watched."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        yield Finding(
            "limits",
            PROBLEM,
            f"only {quantity(soft, 'file')} can be open at once",
            "ulimit -n 4096",
        )
    else:
        yield Finding("limits", GOOD, f"{soft} files can be open at once")
    try:
        allowed = int((_INOTIFY / "max_user_watches").read_text())
        instances = int((_INOTIFY / "max_user_instances").read_text())
    except (OSError, ValueError):
        return
    needed = _folders(project)
    folders = quantity(needed, "folder")
    if needed > allowed // 2 or instances < 16:
        yield Finding(
            "watch",
            NOTE,
            f"{folders} to watch for [project] watch = true; the system allows {allowed}"
            f" for all programs, and {quantity(instances, 'watcher')}",
            "sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512",
        )
    else:
        yield Finding("watch", GOOD, f"{folders} to watch; the system allows {allowed}")


def _folders(project: Project) -> int:
    try:
        entries = load_config(project.root).project.jobs
    except StackshiftError:
        return 0
    count = 0
    for entry in entries:
        for _ in os.walk(project.root / entry):
            count += 1
            if count >= _MAX_FOLDERS:
                return count
    return count


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
