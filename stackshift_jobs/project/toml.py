"""Reading a TOML file of settings: the text, then its tables, with errors that name file and line.

Two steps, because a short command looks for a word in the text and mostly need not load `tomllib`.
"""

from __future__ import annotations

# ruff: noqa: PTH123 - `pathlib` takes 5 ms to load, which every command would wait for.
from stackshift_jobs.errors import BadConfiguration

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    import os
    from typing import Any, Final

_BOM: Final = b"\xef\xbb\xbf"


def read_config_text(path: str | os.PathLike[str]) -> str:
    """The text of a `stackshift.toml`; raises `BadConfiguration` if it cannot be read as UTF-8."""
    try:
        with open(path, "rb") as file:
            raw = file.read()
        # Editors write a mark at the beginning of a file. The codec that knows of it would have to
        # be imported first.
        return raw.removeprefix(_BOM).decode()
    except UnicodeDecodeError as bad:
        line = raw.count(b"\n", 0, bad.start) + 1
        raise BadConfiguration(
            f"{path}:{line}: not valid UTF-8",
            hint="save the file as UTF-8",
            file=str(path),
            line=line,
        ) from bad
    except OSError as bad:
        raise BadConfiguration(f"{path}: {bad.strerror}", file=str(path)) from bad


def parse_toml(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The tables in `text`; raises `BadConfiguration`, which names file and line."""
    import re
    import tomllib

    try:
        # Line ends of other systems count as well; tomllib itself takes them only from a file.
        return tomllib.loads(text.replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as bad:
        reason = str(bad)
        at = re.search(r"at line (\d+)", reason)
        line = int(at[1]) if at else max(1, len(text.splitlines()))
        raise BadConfiguration(f"{path}:{line}: {reason}", file=str(path), line=line) from bad
