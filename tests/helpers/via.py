"""How the tests reach their daemons: `STACKSHIFT_VIA` is the switch.

Without it journals are in files. With `leader`, each daemon that a test starts has its journal in a
database; with `follower`, there is a second one, which is the one that the test and its commands
talk to; with `ssh`, they reach the leader as from another machine. What a test asserts is the same
each time. A test for which that has no meaning has the mark `not_via`, with the reason.

Owns what the test's own process does for that; `via_site/sitecustomize.py` does it in the programs
that tests start.
"""

from __future__ import annotations

import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from helpers.postgres import IS_THERE, MISSING, Postgres
from helpers.via_site import via_ways
from stackshift_jobs.project.config import Config
from stackshiftd.journal.shared.log import SharedLog
from stackshiftd.journal.shared.postgres_log import PostgresLog

WAYS: Final = ("leader", "follower", "ssh")
SITE: Final = Path(__file__).parent / "via_site"
REPOSITORY: Final = Path(__file__).parents[2]
VIA: Final = os.environ.get("STACKSHIFT_VIA", "")
assert VIA in ("", *WAYS), f"STACKSHIFT_VIA={VIA}: one of {', '.join(WAYS)}"

DATABASE: Final = via_ways.DATABASE
DAEMONS: Final = 2 if VIA == "follower" else 1
"""How many serve a project."""
FOLLOWS: Final = {via_ways.ROLE: "follower"}
"""In the environment of a daemon that follows one which is there."""


def sources() -> list[str]:
    """The PYTHONPATH of the programs that tests start."""
    return [*([str(SITE)] if VIA else []), str(REPOSITORY), str(REPOSITORY / "daemon")]


def variables() -> dict[str, str]:
    """What else these programs find in their environment."""
    return {name: os.environ[name] for name in via_ways.VARIABLES if name in os.environ}


def added() -> dict[str, str]:
    """What is added to an environment that is otherwise as a user has it."""
    return variables() | {"PYTHONPATH": os.pathsep.join(sources())} if VIA else {}


def kept() -> list[str]:
    """What a command begins with in a shell that takes its environment away."""
    return ["env", *(f"{name}={text}" for name, text in added().items())] if VIA else []


def address(root: Path) -> str:
    """What a client is given to reach the daemon of the project at `root`."""
    return via_ways.url(str(root)) if VIA == "ssh" else str(root)


def of_one_machine(printed: str) -> str:
    """What a command has printed, without the name of the leader's machine, which is told only
    where there may be several."""
    worker = rf"(app-1|{re.escape(socket.gethostname())})/w\d+"
    return re.sub(f" · on {worker}(, {worker})*", "", printed) if VIA else printed


def expected(printed: tuple[str, ...]) -> tuple[str, ...]:
    """What a page says that a command prints, without what is said only on the project's machine:
    whether the daemon starts at boot."""
    return tuple(
        line for line in printed if VIA != "ssh" or "starts the daemon at boot" not in line
    )


def leader_dir(data_dir: Path) -> Path:
    """The data directory of the daemon that executes the runs of clients of `data_dir`."""
    return via_ways.leader_dir(data_dir) if VIA == "follower" else data_dir


async def shared(config: Config) -> tuple[Config, SharedLog, str]:
    """For a daemon in the test's own process: its settings, its log, and its name."""
    url = via_ways.database(config.data_dir)
    await via_ways.make_schema(url)
    journal = replace(config.journal, url=url)
    config = via_ways.member(replace(config, journal=journal), leads=True)
    return config, PostgresLog(url, config.project.name), config.member


@contextmanager
def served() -> Iterator[None]:
    """With a database, if one is needed. Skips where there can be none."""
    if not VIA:
        yield
        return
    if not IS_THERE:
        pytest.fail(f"STACKSHIFT_VIA={VIA}: {MISSING}")
    via_ways.reach_by_shell()
    with tempfile.TemporaryDirectory(prefix="stackshift-postgres-") as folder:
        Path(folder).chmod(0o755)  # The server may be another user, and pytest's folders are ours.
        server = Postgres(Path(folder).resolve() / "server")
        server.start()
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv(DATABASE, server.url)
            # For programs that get all of ours.
            patched.setenv("PYTHONPATH", os.pathsep.join(sources()))
            yield
        server.stop()


def skip_where_it_has_no_meaning(items: list[pytest.Item]) -> None:
    """Skip the tests that are marked so."""
    for item in items:
        for mark in item.iter_markers("not_via"):
            ways, why = mark.args, mark.kwargs["why"]
            assert why and set(ways) <= set(WAYS), item.nodeid
            if VIA and VIA in (ways or WAYS):
                item.add_marker(pytest.mark.skip(reason=f"not via {VIA}: {why}"))
