"""`runs show --svg F | --html F`: the picture as a file that loads nothing from elsewhere."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from stackshift_cli.daemon import run_detail
from stackshift_cli.daemon.session import Session
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.console import UNICODE
from stackshift_cli.render.picture import Frame, picture
from stackshift_jobs.errors import Usage

_WIDTH: Final = 120
# Rich's own format loads a font from a third party's server; any monospace font will do instead.
_SVG_FORMAT: Final = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)


def export(session: Session, run: str, svg: str | None, html: str | None, now_us: int) -> int:
    """Write the picture of the run `run` to the files `svg` and `html` (None: not wanted). The exit
    status 0; raises `Usage` if a file cannot be written."""
    shown = run_detail.fetch(session, run)
    screen = Console(
        file=io.StringIO(),
        record=True,
        width=_WIDTH,
        force_terminal=True,
        color_system="truecolor",
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    screen.print(picture(shown, now_us, Frame(_WIDTH, None, UNICODE)))
    title = safe(f"{shown.run['job']} {shown.run['id']}")
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
