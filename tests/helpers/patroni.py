"""Two PostgreSQL servers that Patroni keeps, as most do who want a database that fails over by
itself: one is the primary, the other a synchronous standby, and etcd says which.

Patroni's programs are in the folder that STACKSHIFT_PATRONI names (`make cluster-test` puts them
into an environment of their own), etcd is on PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from helpers.deadline import wait_until
from helpers.postgres import CAN_COPY, POSTGRES

PATRONI: Final = Path(os.environ.get("STACKSHIFT_PATRONI", "")) / "patroni"
ETCD: Final = shutil.which("etcd")
IS_THERE: Final = CAN_COPY and ETCD is not None and PATRONI.is_file()
MISSING: Final = "needs PostgreSQL, etcd, and STACKSHIFT_PATRONI: make cluster-test"
LONG_SECONDS: Final = 180.0
"""Patroni takes half a minute to give up a primary, and as long to take it back."""

CONFIG: Final = """
scope: shop
name: {name}
restapi: {{listen: "127.0.0.1:{rest}", connect_address: "127.0.0.1:{rest}"}}
etcd3: {{hosts: "127.0.0.1:{etcd}"}}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 3
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      use_slots: true
      parameters: {{wal_log_hints: "on", max_connections: 60, shared_buffers: 32MB, fsync: "off"}}
  initdb: [{{encoding: UTF8}}, {{auth: trust}}, no-sync]
  pg_hba: ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {root}/{name}
  bin_dir: {programs}
  pgpass: {root}/{name}.pgpass
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: postgres}}
    rewind: {{username: postgres}}
  parameters: {{unix_socket_directories: "{root}"}}
watchdog: {{mode: "off"}}
"""


class Member:
    """One server, and the Patroni that keeps it."""

    def __init__(self, root: Path, name: str, etcd: int, owner: dict[str, Any]) -> None:
        assert POSTGRES is not None
        self.name = name
        self.port, self._rest = _free_port(), _free_port()
        self._root = root
        self._owner = owner
        self._patroni: subprocess.Popen[bytes] | None = None
        self._file = root / f"{name}.yml"
        self._file.write_text(
            CONFIG.format(
                name=name,
                root=root,
                etcd=etcd,
                port=self.port,
                rest=self._rest,
                programs=Path(POSTGRES).parent,
            )
        )

    def start(self) -> None:
        """Begin to keep the server."""
        with (self._root / f"{self.name}.log").open("ab") as log:
            self._patroni = subprocess.Popen(
                [PATRONI, self._file],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._root,
                **self._owner,
            )

    def roles(self) -> dict[str, str]:
        """The members that run, as this one knows it: name → role. Empty if it does not answer."""
        url = f"http://127.0.0.1:{self._rest}/cluster"
        try:
            with urllib.request.urlopen(url, timeout=1) as told:
                members = json.load(told)["members"]
        except OSError:
            return {}
        return {
            each["name"]: each["role"]
            for each in members
            if each["state"] in ("running", "streaming")
        }

    def send(self, number: int) -> None:
        """Send a signal to all processes of the server, and to its Patroni."""
        for process in self._processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def end(self) -> None:
        """End all of it at once."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGKILL)
        if self._patroni is not None:
            self._patroni.wait()

    def _processes(self) -> Iterator[psutil.Process]:
        if self._patroni is not None:
            with suppress(psutil.NoSuchProcess):
                yield psutil.Process(self._patroni.pid)
        with suppress(OSError, psutil.NoSuchProcess):
            lines = (self._root / self.name / "postmaster.pid").read_text().splitlines()
            server = psutil.Process(int(lines[0]))
            yield server
            yield from server.children()


class Patroni:
    """Both members, and etcd. `close` ends them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        owner: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root.
            owner = {"user": "postgres", "group": "postgres"}
            shutil.chown(root, "postgres", "postgres")
        etcd = _free_port()
        self._etcd = self._started_etcd(etcd)
        self.members = [Member(root, name, etcd, owner) for name in ("db-1", "db-2")]
        try:
            for member in self.members:
                member.start()
            self.wait_whole()
        except BaseException:
            self.close()
            raise

    def _started_etcd(self, port: int) -> subprocess.Popen[bytes]:
        assert ETCD is not None
        here, peers = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{_free_port()}"
        command = [ETCD, "--data-dir", str(self._root / "etcd")]
        command += ["--listen-client-urls", here, "--advertise-client-urls", here]
        command += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
        command += ["--initial-cluster", f"default={peers}", "--unsafe-no-fsync"]
        with (self._root / "etcd.log").open("ab") as log:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    @property
    def ports(self) -> list[int]:
        """Those of both servers."""
        return [member.port for member in self.members]

    def primary_and_standby(self) -> tuple[Member, Member]:
        """Waits until there are both, and the standby confirms each commit."""

        def found() -> tuple[Member, Member] | None:
            for member, other in (self.members, self.members[::-1]):
                known = [each.roles() for each in (member, other)]
                if known == [{member.name: "leader", other.name: "sync_standby"}] * 2:
                    return member, other
            return None

        both = wait_until(found, "a primary and a synchronous standby", LONG_SECONDS)
        assert both is not None
        return both

    def wait_whole(self) -> None:
        """Wait until there are both."""
        self.primary_and_standby()

    def close(self) -> None:
        """End everything at once."""
        with ExitStack() as each:
            each.callback(self._etcd.wait)
            each.callback(self._etcd.kill)
            for member in self.members:
                each.callback(member.end)


def leads(member: Member) -> bool:
    """Does it say that it is the primary?"""
    return member.roles().get(member.name) == "leader"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
