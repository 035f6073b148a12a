"""A PostgreSQL server of the tests' own: in a temporary directory, on a port of this machine.

Its programs are the newest below /usr/lib/postgresql, or those in the folder that
STACKSHIFT_POSTGRES names (`make cluster-test` tries several versions).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from helpers.deadline import SECONDS, wait_until

FOLDER = os.environ.get("STACKSHIFT_POSTGRES")
_PLACES = (
    [Path(FOLDER)] if FOLDER else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
)


def _program(name: str) -> str | None:
    found = [place / name for place in _PLACES if (place / name).exists()]
    return str(found[0]) if found else shutil.which(name)


def _driver() -> bool:
    try:
        import asyncpg
    except ImportError:
        return False
    return bool(asyncpg)


INITDB = _program("initdb")
POSTGRES = _program("postgres")
MISSING = "PostgreSQL (initdb) or asyncpg is not installed"
IS_THERE = INITDB is not None and POSTGRES is not None and _driver()
CAN_COPY = IS_THERE and _program("pg_basebackup") is not None
MISSING_COPY = f"{MISSING}, or pg_basebackup is not"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Postgres:
    """One server, which does not survive a power cut: tests do not wait for disks. It refuses to
    run as root, so there it runs as `postgres`."""

    def __init__(self, root: Path) -> None:
        self._prepare(root, None)
        assert INITDB is not None
        made = [INITDB, "-D", str(self._data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "-N"]
        self._run(made)

    def _prepare(self, root: Path, port: int | None) -> None:
        root.mkdir(parents=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.root = root
        self._data = root / "data"
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "postgres", "group": "postgres"}
        if self._as:
            shutil.chown(root, "postgres", "postgres")
        self.port: int = port or _free_port()
        self._may_move = port is None
        """May it still be on another port? Nobody knows the first one before it has answered."""

    @property
    def url(self) -> str:
        """Its database `postgres`."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self, *settings: str) -> None:
        """Start it with these settings (`fsync=on`), and wait until it answers. Between two looks
        somebody else may take its port: then it takes another one, or, if its port is known
        already, waits for that."""
        deadline = time.monotonic() + SECONDS
        while not self._has_started(settings):
            assert time.monotonic() < deadline, self._said()
            self.port = _free_port() if self._may_move else self.port
        self._may_move = False

    def _has_started(self, settings: tuple[str, ...]) -> bool:
        """Start it; does it answer? If not, it has ended, since its port was taken."""
        assert POSTGRES is not None
        options = [
            "fsync=off",
            "listen_addresses=127.0.0.1",
            f"unix_socket_directories={self.root}",
        ]
        command = [POSTGRES, "-D", str(self._data), "-p", str(self.port)]
        for option in (*options, *settings):
            command += ["-c", option]
        with (self.root / "log").open("ab") as log:
            process = self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.root,
                **self._as,
            )
        wait_until(lambda: self._answers() or process.poll() is not None, "PostgreSQL to answer")
        if process.poll() is None:
            return True
        self._process = None
        assert "could not bind" in self._said(), self._said()
        return False

    def _said(self) -> str:
        return (self.root / "log").read_text()[-2000:]

    def _answers(self) -> bool:
        import asyncpg

        try:
            # Another one may have taken the port.
            return bool(self.value("SHOW data_directory") == str(self._data))
        except (OSError, asyncpg.PostgresError):
            return False

    def attach(self, root: Path, port: int | None = None) -> Postgres:
        """A standby of it, in `root`, which runs. From then on no commit is told before the standby
        has it."""
        standby = Postgres.__new__(Postgres)
        standby._prepare(root, port)
        copy = _program("pg_basebackup")
        assert copy is not None
        source = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres"]
        standby._run([copy, *source, "-D", str(standby._data), "-R", "-X", "stream", "-c", "fast"])
        standby.start()
        self.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.sql("SELECT pg_reload_conf()")
        wait_until(self._is_synchronous, "the standby to be synchronous")
        return standby

    def _is_synchronous(self) -> bool:
        counted = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        return bool(self.value(counted) == 1)

    def promote(self) -> None:
        """Make this standby the primary, which has no standby itself."""
        # Read by the server that is promoted: from here on nobody could confirm its commits.
        self.sql("SELECT pg_promote(true)")
        self.sql("ALTER SYSTEM RESET synchronous_standby_names")
        self.sql("SELECT pg_reload_conf()")

    def stop(self) -> None:
        """End it at once, with all connections; idempotent."""
        if self._process is not None:
            self._process.send_signal(3)  # SIGQUIT: an immediate shutdown
            self._process.wait()
            self._process = None

    def sql(self, statement: str) -> None:
        """Have it run a statement."""
        self.value(statement)

    def value(self, statement: str) -> Any:
        """The first column of the first row that a statement gives; None if it gives none."""
        import asyncpg

        async def run() -> Any:
            connection = await asyncpg.connect(self.url)
            try:
                return await connection.fetchval(statement)
            finally:
                await connection.close()

        return asyncio.run(run())

    def freeze(self, signal_number: int) -> None:
        """Send a signal to all of its processes: SIGSTOP or SIGCONT."""
        assert self._process is not None
        import psutil

        server = psutil.Process(self._process.pid)
        for process in (server, *server.children()):
            process.send_signal(signal_number)

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.root,
            **self._as,
        )
