"""`runs show --svg F | --html F`: the timeline as a file that loads nothing from elsewhere."""

from __future__ import annotations

import sys
from pathlib import Path

from stackshift_cli.daemon import run_detail
from stackshift_cli.daemon.session import Session
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.html import html as html_of
from stackshift_cli.render.svg import svg as svg_of
from stackshift_jobs.errors import Usage


def export(session: Session, run: str, svg: str | None, html: str | None, now_us: int) -> int:
    """Write the timeline of the run `run` and its children to the files `svg` and `html` (None: not
    wanted, `-`: standard output). The exit status 0; raises `Usage` if a file cannot be written."""
    if svg == html == "-":
        raise Usage("--svg and --html cannot both be written to standard output")
    shown = run_detail.fetch(session, run, logs=True, tree=True)
    if svg is not None:
        _write(session, svg, svg_of(shown, now_us))
    if html is not None:
        _write(session, html, html_of(shown, now_us))
    return 0


def _write(session: Session, name: str, text: str) -> None:
    if name == "-":
        sys.stdout.write(text)
        return
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as bad:
        raise Usage(f"cannot write {name}: {bad.strerror}") from bad
    session.say(f"wrote {safe(name)}")
