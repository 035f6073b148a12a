"""For all tests: how programs are interrupted, how hypothesis looks for examples, and how many
processes `-n auto` is."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import settings

from helpers import via

MOST_PROCESSES: Final = 16

# A suite that a shell put into the background is started with SIGINT ignored, one below nohup with
# SIGHUP, and the programs that it starts would inherit that: such a signal would do nothing.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples each time, however slow the machine; with STACKSHIFT_LONG=1 new ones.
settings.register_profile(
    "stackshift", deadline=None, derandomize=os.environ.get("STACKSHIFT_LONG") != "1"
)
settings.load_profile("stackshift")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--rewrite`: the answers in transcripts of the core are updated."""
    parser.addoption("--rewrite", action="store_true", help="update the transcripts of the core")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two a CPU: most of what a slow test does is wait, for a process, a timer or the disk. Each
    may start a daemon and workers of its own, so a large machine is not filled."""
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(2 * cpus, MOST_PROCESSES)


def pytest_configure(config: pytest.Config) -> None:
    """The marks of ours."""
    config.addinivalue_line(
        "markers",
        "not_via(*ways, why): the test has no meaning where STACKSHIFT_VIA is one of these ways, or"
        " set at all",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what has no meaning where the daemons are reached in another way."""
    via.skip_where_it_has_no_meaning(items)


@pytest.fixture(scope="session", autouse=True)
def served() -> Iterator[None]:
    """The database of the daemons, where they need one."""
    with via.served():
        yield
