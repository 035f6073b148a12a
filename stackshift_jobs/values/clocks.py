"""The clocks of the machine, which go on whatever a job makes of time.

A library that stops the time for a test, and is used in a step, replaces the functions of `time`:
`freezegun` in every module that has one of them under a name of its own, `time_machine` in Python
itself. A worker that went by these would stop beating. So here are the clocks of the system, as
objects of their own.
"""

from __future__ import annotations

from functools import partial
from time import CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, clock_gettime_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final

monotonic: Final[Callable[[], float]] = partial(clock_gettime, CLOCK_MONOTONIC)
"""Seconds of a clock that never goes back."""
time_ns: Final[Callable[[], int]] = partial(clock_gettime_ns, CLOCK_REALTIME)
"""Nanoseconds since 1970."""
