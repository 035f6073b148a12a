"""What the program of a step and the worker that runs it agree on.

The program's `stackshift checkpoint` and `stackshift heartbeat` connect to the socket in the
worker's private folder, send one line of JSON, a call with the token of the try, and read one line:
the answer. An end without a line means that the try is over.

    → {"token": "…", "call": "checkpoint", "value": 41000, "flush": false}
    ← {"recorded": true}
    → {"token": "…", "call": "last"}
    ← {"last": 41000}
"""

from __future__ import annotations

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final

CALLS_VARIABLE: Final = "STACKSHIFT_STEP_CALLS"
"""The worker's folder, which has the socket; set in the program of a step, and in what it starts.
"""
TRY_TOKEN_VARIABLE: Final = "STACKSHIFT_STEP_TOKEN"
TRY_VARIABLE: Final = "STACKSHIFT_TRY"
"""Which try of the step it is, from 1."""
