"""Where the text of a crontab comes from."""

from __future__ import annotations

import pwd
import shutil
import subprocess
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_cli.crontab.lines import may_name_users
from stackshift_cli.output.streams import standard_input
from stackshift_jobs.errors import NotFound, Usage
from stackshift_jobs.project.environment import account
from stackshift_jobs.project.locate import working_directory

FORMATS: Final = ("user", "system")
_SYSTEM: Final = ("/etc/crontab", "/etc/cron.d/")


class Source(NamedTuple):
    """The text, what it is called, and whether its entries name users."""

    text: str
    origin: str
    names_users: bool


def read_source(file: str | None, form: str | None) -> Source:
    """The crontab in `file`, on standard input (`-`), or of the user (None). `form` is one of
    `FORMATS`, or None to find out. Raises `NotFound` if the user has none, and `Usage`."""
    if form is not None and form not in FORMATS:
        raise Usage(f"--format takes {' or '.join(FORMATS)}, not {form!r}")
    owner = account().name
    if file is None:
        text, origin = _installed(), owner
        form = form or "user"
    elif file == "-":
        text, origin = _decoded(standard_input("the crontab").read(), "standard input"), owner
    else:
        path = Path(working_directory(), file)
        try:
            text, origin = _decoded(path.read_bytes(), str(path)), str(path)
        except OSError as bad:
            raise Usage(f"cannot read {str(path)!r}: {bad.strerror}") from bad
        if form is None and str(path).startswith(_SYSTEM):
            form = "system"
    if form is not None:
        return Source(text, origin, form == "system")
    users = frozenset(user.pw_name for user in pwd.getpwall())
    return Source(text, origin, may_name_users(text, users))


def _installed() -> str:
    """What `crontab -l` prints."""
    if shutil.which("crontab") is None:
        raise Usage(
            "this machine has no crontab program", hint="name a FILE, or - for standard input"
        )
    done = subprocess.run(["crontab", "-l"], capture_output=True, check=False)
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip()
        raise NotFound(
            f"crontab -l: {told or 'no crontab'}", hint="name a FILE, or - for standard input"
        )
    return _decoded(done.stdout, "the crontab")


def _decoded(data: bytes, what: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Usage(f"{what} is not UTF-8 text", hint="iconv -f latin1 -t utf-8") from None
