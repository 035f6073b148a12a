"""Writing files so that a crash never leaves half of one behind.

Its name begins with `_`, so StackShift does not load it as a job module; job modules import it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

OUT = Path("out")
"""Where the example jobs put what they make. Workers run in the project's directory."""


def write_atomically(target: Path, content: bytes) -> None:
    """Put `content` at `target`: a reader sees the old file or all of the new one.

    A step's function runs at least once: a crash just before its result is recorded repeats it. A
    step that replaces a file whole may be repeated as often as it likes.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own: a lost try may still be writing while the next one begins.
    temporary = target.with_name(f".{target.name}.{uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Any) -> None:
    """`value` as indented JSON, written atomically."""
    write_atomically(target, json.dumps(value, indent=2, sort_keys=True).encode() + b"\n")
