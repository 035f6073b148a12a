"""`runs show --svg F | --html F`: the picture as a file that loads nothing from elsewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from rich._export_format import CONSOLE_SVG_FORMAT

from stackshift_cli.daemon.session import Session
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.console import UNICODE
from stackshift_cli.render.picture import picture, recording_console
from stackshift_jobs.errors import Usage

_WIDTH: Final = 120
# Rich's own format loads a font from a third party's server; any monospace font will do instead.
_SVG_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def export(
    session: Session,
    run: dict[str, Any],
    logs: list[dict[str, Any]],
    compact: bool,
    svg: str | None,
    html: str | None,
    now_us: int,
) -> int:
    """Write the picture of `run`, with `logs`, to the files `svg` and `html` (None: not wanted).
    The exit status 0; raises `Usage` if a file cannot be written."""
    screen = recording_console(_WIDTH)
    screen.print(picture(run, logs, compact, now_us, _WIDTH, UNICODE))
    title = safe(f"{run['job']} {run['id']}")
    if svg is not None:
        _write(session, svg, screen.export_svg(title=title, clear=False, code_format=_SVG_FORMAT))
    if html is not None:
        _write(session, html, screen.export_html(clear=False, inline_styles=True))
    return 0


def _write(session: Session, name: str, text: str) -> None:
    try:
        Path(name).write_text(text, encoding="utf-8")
    except OSError as bad:
        raise Usage(f"cannot write {name}: {bad.strerror}") from bad
    session.say(f"wrote {safe(name)}")
