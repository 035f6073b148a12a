"""Who is compared, what they need, and how a driver of each is started.

Each peer has an environment of its own below `--environments`, made by pip or npm on first use.
Databases come from the system's packages, are started once, and lie in that directory too.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from helpers.postgres import IS_THERE, Postgres

DRIVERS: Final = Path(__file__).parent / "drivers"
RESTATE: Final = "@restatedev/restate-server@1.7.12"


class NotInstalled(Exception):
    """Why a peer is not compared."""


@dataclass(frozen=True)
class Contender:
    """A program that is compared: the driver with its arguments, and what pip installs for it
    (nothing: it runs in this environment)."""

    name: str
    driver: str
    arguments: Callable[[Services], list[str]]
    packages: tuple[str, ...] = ()
    environment: Callable[[Services], dict[str, str]] = lambda _services: {}


class Services:
    """Servers that peers need, started when the first one asks. Raises `NotInstalled`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._postgres: Postgres | None = None
        self._redis: tuple[subprocess.Popen[bytes], int] | None = None

    def postgres(self, database: str) -> str:
        """The URL of an empty database in a server that syncs each commit."""
        if not IS_THERE:
            raise NotInstalled("PostgreSQL is not installed: apt install postgresql")
        if self._postgres is None:
            self._postgres = Postgres(_emptied(self.folder / "postgresql"))
            self._postgres.start("fsync=on", "max_connections=200")
        self._postgres.sql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
        self._postgres.sql(f"CREATE DATABASE {database}")
        return self._postgres.url.rpartition("/")[0] + f"/{database}"

    def redis(self) -> str:
        """The URL of a Redis that syncs each write."""
        program = shutil.which("redis-server")
        if program is None:
            raise NotInstalled("Redis is not installed: apt install redis-server")
        if self._redis is None:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            folder = _emptied(self.folder / "redis")
            folder.mkdir()
            options = {
                "port": str(port),
                "bind": "127.0.0.1",
                "dir": str(folder),
                "appendonly": "yes",
                "appendfsync": "always",
                "save": "",
                "logfile": str(folder / "log"),
            }
            argv = [
                program,
                *(part for name, value in options.items() for part in (f"--{name}", value)),
            ]
            self._redis = subprocess.Popen(argv), port
            _wait_for(port)
        return f"redis://127.0.0.1:{self._redis[1]}"

    def restate(self) -> str:
        """The program of Restate's server."""
        folder = self.folder / "restate-server"
        found = list(folder.glob("node_modules/@restatedev/restate-server-*/bin/restate-server"))
        if not found:
            npm = shutil.which("npm")
            if npm is None:
                raise NotInstalled("npm is not installed: apt install npm")
            folder.mkdir(parents=True, exist_ok=True)
            _installed([npm, "install", "--silent", "--prefix", str(folder), RESTATE])
            found = list(folder.glob("node_modules/@restatedev/restate-server-*/bin/*"))
        if not found:
            raise NotInstalled("its package has no server for this machine")
        return str(found[0])

    def absurd(self) -> str:
        """A database with Absurd's schema."""
        url = self.postgres("absurd")
        tool = self.python("absurd", ("absurdctl==0.5.1",)).with_name("absurdctl")
        _installed([str(tool), "init", "-d", url])
        return url

    def python(self, name: str, packages: tuple[str, ...]) -> Path:
        """The Python of the environment `name`, in which `packages` are installed."""
        folder = self.folder / name
        python, stamp = folder / "bin" / "python", folder / "packages"
        wanted = "\n".join(packages)
        have = stamp.read_text() if stamp.exists() else ""
        if not set(packages) <= set(have.split("\n")):
            if not python.exists():
                _installed([sys.executable, "-m", "venv", str(folder)])
            _installed([str(python), "-m", "pip", "install", "--quiet", *packages])
            stamp.write_text(f"{have}\n{wanted}")
        return python

    def close(self) -> None:
        """Stop the servers."""
        if self._postgres is not None:
            self._postgres.stop()
        if self._redis is not None:
            self._redis[0].terminate()
            self._redis[0].wait()


class Driver:
    """A contender that is up; a context that ends it. Raises `NotInstalled`, or `RuntimeError` for
    one that fails."""

    def __init__(self, contender: Contender, services: Services) -> None:
        python = sys.executable
        if contender.packages:
            python = str(services.python(contender.driver.partition("_")[0], contender.packages))
        argv = [python, str(DRIVERS / contender.driver), *contender.arguments(services)]
        self._errors = (services.folder / "errors").open("w+")
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | contender.environment(services),
        )
        self.facts = self._heard()

    def ask(self, work: str, **sizes: int) -> dict[str, Any]:
        """What the driver has measured; nothing if its peer has no such thing."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"work": work} | sizes) + "\n")
        self._process.stdin.flush()
        return self._heard()

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._errors.seek(0)
            raise RuntimeError(self._errors.read()[-2000:] or "the driver has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Driver:
        return self

    def __exit__(self, *_error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()


def _queue(kind: str, place: Callable[[Services], str]) -> dict[str, Any]:
    return {
        "driver": "queues.py",
        "arguments": lambda _services: [kind],
        "environment": lambda services: {"BENCH_QUEUE": f"{kind} {place(services)}"},
    }


def _sqlite(name: str) -> Callable[[Services], str]:
    def place(services: Services) -> str:
        folder = _emptied(services.folder / name)
        folder.mkdir()
        return str(folder / "file.sqlite")

    return place


QUEUES: Final = (
    "huey==3.5.4",
    "rq==3.0.0",
    "celery[redis]==5.7.0",
    "procrastinate==3.10.0",
    "psycopg[binary]",
)
CONTENDERS: Final = (
    Contender("StackShift, async def", "ours.py", lambda _services: ["async"]),
    Contender("StackShift, def", "ours.py", lambda _services: ["sync"]),
    Contender("the floor, async def", "floor_driver.py", lambda _services: ["async"]),
    Contender("the floor, def", "floor_driver.py", lambda _services: ["threads"]),
    Contender(
        "Restate",
        "restate_driver.py",
        lambda services: [services.restate()],
        ("restate-sdk[serde]", "hypercorn"),
    ),
    Contender(
        "Absurd, PostgreSQL",
        "absurd_driver.py",
        lambda services: [services.absurd()],
        ("absurd-sdk==0.5.1", "psycopg[binary]"),
    ),
    Contender(
        "DBOS, PostgreSQL",
        "dbos_driver.py",
        lambda services: [services.postgres("dbos")],
        ("dbos==3.4.0",),
    ),
    Contender(
        "DBOS, SQLite",
        "dbos_driver.py",
        lambda services: [f"sqlite:///{_sqlite('dbos-data')(services)}"],
        ("dbos==3.4.0",),
    ),
    Contender("Huey, SQLite", packages=QUEUES, **_queue("huey", _sqlite("huey-data"))),
    Contender(
        "Procrastinate, PostgreSQL",
        packages=QUEUES,
        **_queue("procrastinate", lambda services: services.postgres("procrastinate")),
    ),
    Contender("RQ, Redis", packages=QUEUES, **_queue("rq", Services.redis)),
    Contender("Celery, Redis", packages=QUEUES, **_queue("celery", Services.redis)),
)


def _installed(argv: list[str]) -> None:
    made = subprocess.run(argv, capture_output=True, text=True, check=False)
    if made.returncode:
        said = (made.stderr or made.stdout).strip().splitlines()
        raise NotInstalled(said[-1] if said else f"{argv[0]} ended with {made.returncode}")


def _emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _wait_for(port: int) -> None:
    ends = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.05)
        else:
            return
