"""`init [DIR]`: a project with one job, ready to start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import Conflict, StackshiftError
from stackshift_jobs.project.locate import CONFIG_FILE, DEFAULT_DATA_DIR

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
    """Make the project; refuses to touch one that is there."""
    # As for every command that takes -C: it says where one stands.
    here = Path(session.options.project or ".")
    root = (here / (given.text("directory") or ".")).absolute()
    config, job = root / CONFIG_FILE, root / "jobs" / "hello.py"
    for file in (config, job):
        if os.path.lexists(file):
            raise Conflict(f"{file} is there already", hint="choose another directory")
    try:
        job.parent.mkdir(parents=True, exist_ok=True)
        _write_new(job, HELLO)
        _ignore(root / ".gitignore")
        # Last: with it the directory is a project.
        _write_new(config, commented_settings())
    except OSError as bad:
        raise StackshiftError(f"cannot write {bad.filename}: {bad.strerror}") from bad
    made = [str(path.relative_to(root)) for path in (config, job)]
    if session.json:
        messages.data(messages.compact({"project": str(root), "files": made}))
    else:
        messages.data(safe(str(root)))
        session.say(f"wrote {', '.join(made)}")
        session.say("hint: stackshift start hello -F name=World --wait")
    return 0


def commented_settings() -> str:
    """A `stackshift.toml` that sets nothing and shows every setting that has an effect."""
    from stackshift_jobs.project.config import IDLE, KEYS, QUEUES

    offered = [key for key in KEYS if key.path not in IDLE]
    written = ["# All settings, at their defaults. Remove the # of a line to change it.", ""]
    for section in dict.fromkeys(key.section for key in offered):
        # A table of that name would be a queue of that name.
        written.append("# [queues.NAME]" if section == QUEUES else f"[{section}]")
        for key in offered:
            if key.section == section:
                written.append(f"# {key.name} = {_shown_default(key)}")
        written.append("")
    return "\n".join(written)


def _shown_default(key: Key) -> str:
    if key.default is None:
        return f"…  # {key.help} Default: {key.unset}."
    return f"{key.default_text}  # {key.help}"


def _write_new(file: Path, text: str) -> None:
    with file.open("x", encoding="utf-8") as made:
        made.write(text)


def _ignore(file: Path) -> None:
    """Add the data directory to `.gitignore`, once."""
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    if _IGNORED in old.splitlines():
        return
    gap = "" if not old or old.endswith("\n") else "\n"
    with file.open("a", encoding="utf-8") as ignored:
        ignored.write(f"{gap}{_IGNORED}\n")
