"""What job modules of tests share: a module `jobs._scenery` that is written into their projects.

`note` appends a line to the witness file in one write, so that what ran is known even where the
process was killed the moment after; `gate` and `agate` hold a handler until the test lets it go on.
"""

from __future__ import annotations

from typing import Final

CONFIG: Final = """\
[workers]
processes = 1
slots = 16
grace = "1s"
inherit_env = ["PYTHONPATH"]
"""

WITNESS: Final = "witness.txt"
GATES: Final = "gates"

MODULE: Final = f'''\
"""Witness and gates; used by the job modules of this folder."""

import asyncio
import os
import time
from pathlib import Path

import stackshift_jobs as stackshift
from stackshift_jobs import CancelRun, NonRetryable, Retry, RetryAfter

ROOT = Path(__file__).parent.parent
FAST = Retry(max_attempts=3, backoff="10ms", jitter=0.0)
ONCE = Retry(max_attempts=1)


def note(*words):
    line = " ".join(map(str, words)) + "\\n"
    fd = os.open(ROOT / "{WITNESS}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def noted(*words):
    """How often this was noted."""
    try:
        lines = (ROOT / "{WITNESS}").read_text().splitlines()
    except FileNotFoundError:
        return 0
    return lines.count(" ".join(map(str, words)))


def is_open(name):
    return (ROOT / "{GATES}" / name).exists()


def gate(name):
    note("at", name)
    while not is_open(name):
        time.sleep(0.005)


async def agate(name):
    note("at", name)
    while not is_open(name):
        await asyncio.sleep(0.005)
'''
