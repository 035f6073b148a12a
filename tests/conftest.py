"""For all tests: how programs are interrupted, and how hypothesis looks for examples."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import settings

# A suite that a shell put into the background is started with SIGINT ignored, and the programs
# that it starts would inherit that: a Ctrl-C sent to them would then do nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples each time, however slow the machine; with STACKSHIFT_LONG=1 new ones.
settings.register_profile(
    "stackshift", deadline=None, derandomize=os.environ.get("STACKSHIFT_LONG") != "1"
)
settings.load_profile("stackshift")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: the answers in transcripts of the core are updated."""
    parser.addoption("--rewrite", action="store_true", help="update the transcripts of the core")
