"""What is valid as a name of a job, step, queue or event, as a run's id, as a key, and as one of a
few words."""

from __future__ import annotations

import re
from typing import Final

from stackshift_jobs.errors import Usage

MAX_NAME: Final = 128
MAX_KEY_BYTES: Final = 512
RUN_ID: Final = re.compile(r"run_[0-9a-hjkmnp-tv-z]{26}")
"""`run_` and a ULID in lower case: 10 digits of time, 16 random ones (github.com/ulid/spec)."""

EXEC_JOB: Final = "exec"
SH_JOB: Final = "sh"
NOTIFY_JOB: Final = "stackshift.notify"
BUILT_IN_JOBS: Final = frozenset((EXEC_JOB, SH_JOB, NOTIFY_JOB))
"""The jobs whose runs are programs, scripts and messages. No project can have a job of such a
name."""
NAME_LABEL: Final = "name"
"""The label that has the name of a run of a built-in job."""
NOTIFY_LABEL: Final = "notify"
"""The label of a message that has the name of its `[notify.NAME]`."""
NOTIFY_QUEUE: Final = "stackshift.notify"
"""The queue of messages."""

RESERVED: Final = frozenset("#[]=")
"""Characters that the name of a step must not contain."""


def check_name(name: object, what: str) -> str:
    """`name`, if it is a valid name of a `what` (`job`, `step`, …): 1 to 128 printable characters,
    in a step's name none of `# [ ] =`. Raises `Usage` otherwise."""
    if not isinstance(name, str) or not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise Usage(
            f"{name!r} is not a valid {what} name",
            hint=f"use 1 to {MAX_NAME} printable characters",
        )
    if what == "step" and not RESERVED.isdisjoint(name):
        raise Usage(f"{name!r} is not a valid step name", hint="leave out # [ ] and =")
    return name


def program_label(program: str) -> str:
    """What a run of the program at this path is called in lists: `pg_dump`."""
    name = program.rpartition("/")[2]
    return "".join(c if c.isprintable() else "?" for c in name)[:MAX_NAME] or "?"


def one_of(word: object, words: tuple[str, ...], what: str) -> str:
    """`word`, if it is one of `words`. Raises `Usage`, which names `what` it was given for,
    otherwise."""
    if not isinstance(word, str) or word not in words:
        raise Usage(f"{what} must be {', '.join(words[:-1])} or {words[-1]}, not {word!r}")
    return word


def check_key(key: object, what: str) -> str:
    """`key`, if it is text of 1 to 512 bytes in UTF-8 without control characters. Raises `Usage`
    otherwise; `what` says what it was for, with its article: `a state key`."""
    if (
        not isinstance(key, str)
        or not key
        or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES
        or not ((key.isascii() and key.isprintable()) or _has_no_control(key))
    ):
        raise Usage(
            f"{key!r} cannot be used as {what}",
            hint=f"use 1 to {MAX_KEY_BYTES} bytes of text without control characters",
        )
    return key


def _has_no_control(text: str) -> bool:
    return not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in text)
