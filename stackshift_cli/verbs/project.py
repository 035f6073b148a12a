"""`init [DIR]`: create a project with one job that is ready to start."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import unwritten
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import Conflict
from stackshift_jobs.project.locate import CONFIG_FILE, DEFAULT_DATA_DIR, check_path_text

if TYPE_CHECKING:
    from stackshift_jobs.project.config import Key

HELLO: Final = '''\
"""A job to begin with: `stackshift start hello -F name=World --wait`."""

import stackshift_jobs as stackshift
from stackshift_jobs import JobContext


@stackshift.job("hello")
def hello(ctx: JobContext):
    """Greet somebody, in two steps: a step that is done is never done again."""
    name = ctx.step.run("choose-name", lambda: ctx.payload.get("name", "World"))
    greeting = ctx.step.run("greet", lambda: f"Hello, {name}!")
    return {"greeting": greeting}
'''
_IGNORED: Final = f"{DEFAULT_DATA_DIR}/"


def init(session: Session, given: Given) -> int:
    """`init [DIR]`: create the project and print its directory; raises `Conflict` if there is one
    already, and `BadConfiguration` for a path that is not UTF-8."""
    # As for every command, -C replaces the working directory.
    here = Path(session.options.project or ".")
    root = (here / (given.text("directory") or ".")).absolute()
    check_path_text(str(root))
    config, job = root / CONFIG_FILE, root / "jobs" / "hello.py"
    for file in (config, job):
        if os.path.lexists(file):
            raise Conflict(f"{file} already exists", hint="choose another directory")
    try:
        job.parent.mkdir(parents=True, exist_ok=True)
        _write_new(job, HELLO)
        _ignore(root / ".gitignore")
        # Last, since it makes the directory a project.
        _write_new(config, commented_settings())
    except OSError as bad:
        raise unwritten(f"cannot create a project in {root}", bad) from bad
    files = [str(path.relative_to(root)) for path in (config, job)]
    if session.json:
        messages.data(messages.compact({"project": str(root), "files": files}))
    else:
        messages.data(safe(str(root)))
        session.say(f"wrote {', '.join(files)}")
        session.say(f"hint: {_change_to(root)}stackshift start hello -F name=World --wait")
    return 0


def _change_to(root: Path) -> str:
    """What has to come before a command that is typed here and meant for the project in `root`."""
    here = Path.cwd()
    if root == here:
        return ""
    inside = root.relative_to(here) if root.is_relative_to(here) else root
    return f"cd {shlex.quote(str(inside))} && "


def commented_settings() -> str:
    """The text of a `stackshift.toml` that sets nothing and shows, as comments, every setting."""
    from stackshift_jobs.project.config import KEYS, NAMED

    lines = ["# All settings, at their defaults. Remove the # of a line to change it.", ""]
    for section in dict.fromkeys(key.section for key in KEYS):
        # Without the # there would be a queue or a host called NAME.
        lines.append(f"# [{section}]" if section in NAMED.values() else f"[{section}]")
        for key in KEYS:
            if key.section == section:
                lines.append(f"# {key.name} = {_shown_default(key)}")
        lines.append("")
    return "\n".join(lines)


def _shown_default(key: Key) -> str:
    if key.default is None:
        return f"…  # {key.help} Default: {key.unset}."
    return f"{key.default_text}  # {key.help}"


def _write_new(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as new:
        new.write(text)


def _ignore(file: Path) -> None:
    """Add the data directory to `.gitignore`, once."""
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if _IGNORED in old.splitlines():
        return
    gap = "" if not old or old.endswith("\n") else "\n"
    with file.open("a", encoding="utf-8") as ignored:
        ignored.write(f"{gap}{_IGNORED}\n")
