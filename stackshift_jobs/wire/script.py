"""What a script of a shell job and the worker that runs it agree on.

The script's `stackshift` connects to the socket in the execution's private folder, sends one line
of JSON, a call with the execution's token, with it the descriptor of its standard input, and reads
one line: the answer. An end without a line means that the execution is over.

    → {"token": "…", "call": "step", "name": "dump", "argv": ["pg_dump"], …}
    ← {"stdout": "…", "exit_code": 0}
"""

from __future__ import annotations

import os

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final

SCRIPT_VARIABLE: Final = "STACKSHIFT_SCRIPT"
"""The execution's folder; set in the script of a shell job, and in what that starts."""
TOKEN_VARIABLE: Final = "STACKSHIFT_TOKEN"
STEP_VARIABLE: Final = "STACKSHIFT_STEP"
"""The step; set in the program of a step, where nothing is recorded."""
PROJECT_VARIABLE: Final = "STACKSHIFT_PROJECT"
DATA_DIR_VARIABLE: Final = "STACKSHIFT_DATA_DIR"
STDOUT: Final = "stdout"
METHODS: Final[Mapping[str, str]] = {
    "state.get": "key",
    "state.set": "key",
    "state.delete": "key",
    "state.increment": "key",
    "state.list": "prefix",
    "event.send": "name",
    "run.start": "job",
}
"""The methods of the protocol that are calls of the script, and the param that each is about. In a
step, they are requests like those of any client."""
MAX_CALL_BYTES: Final = 32 << 20
"""Arguments and environment of a program are no larger than a few megabytes."""


def is_in_script() -> bool:
    """Was this process called by the script of a shell job itself, and not by one of its steps?"""
    return SCRIPT_VARIABLE in os.environ and STEP_VARIABLE not in os.environ
