"""Whether two errors are the same to whoever is told of them: their type, and their message without
what differs from run to run (numbers, ids, what is quoted)."""

from __future__ import annotations

import re
from typing import Final

from stackshiftd.core.records import Error

MOST_COMPARED: Final = 512
"""Characters of a message that are compared."""
_VARIES: Final = re.compile(
    r"""'[^']*'|"[^"]*"|`[^`]*`"""
    r"|\b(?:run_)?[0-9a-fA-F]*\d[\w.:+-]*"  # numbers, times, addresses, hexadecimal ids
)


def same_error(error: Error) -> str:
    """A text that is equal for errors that are the same."""
    return f"{error.type} {_VARIES.sub('#', error.message[:MOST_COMPARED])}"
