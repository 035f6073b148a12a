"""An sshd of the tests' own, with keys made for it: on a port of this machine for the user who runs
them, or on another machine for a user of that."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from getpass import getuser
from pathlib import Path

from helpers.deadline import wait_until
from helpers.other_machine import OtherMachine
from helpers.project import environment

SSHD = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
MISSING = "sshd, ssh or ssh-keygen is not installed"
IS_THERE = all((SSHD, shutil.which("ssh"), shutil.which("ssh-keygen")))
PRIVILEGES = Path("/run/sshd")
"""A folder that sshd needs where it is started by root."""


class Sshd:
    """Started with `start`; `config` is the file for `ssh -F` that reaches it as `gpu-1`."""

    def __init__(self, root: Path, *, apart: bool = False) -> None:
        """`apart`: it is on an `OtherMachine`."""
        root.mkdir()
        self.root = root
        self.machine = OtherMachine(root) if apart else None
        self.address = self.machine.address if self.machine else "127.0.0.1"
        self.config = root / "ssh_config"
        self.keys = root / "authorized_keys"
        self.known = root / "known_hosts"
        self.cache = (self.machine.home if self.machine else root) / "cache"
        """Where keepers keep what they keep."""
        for name in ("host", "user"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(root / name)]
            subprocess.run(command, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.authorize("restrict")
        self.trust((root / "host.pub").read_text())
        self.config.write_text(
            f"Host gpu-1\nHostName {self.address}\nPort {self.port}\n"
            f"User {self.machine.user if self.machine else getuser()}\n"
            f"IdentityFile {root}/user\nIdentitiesOnly yes\n"
            f"UserKnownHostsFile {self.known}\nStrictHostKeyChecking yes\n"
        )
        python = root / "python"
        paths = environment()["PYTHONPATH"]
        python.write_text(
            f"#!/bin/sh\nexec env PYTHONPATH={shlex.quote(paths)} XDG_CACHE_HOME={self.cache} "
            f'{sys.executable} "$@"\n'
        )
        python.chmod(0o755)
        self.python = str(python)

    def authorize(self, options: str) -> None:
        """Let the key in, with these options of `authorized_keys`."""
        self.keys.write_text(f"{options} {(self.root / 'user.pub').read_text()}")

    def trust(self, key: str) -> None:
        """Have the client expect this host key."""
        self.known.write_text(f"[{self.address}]:{self.port} {key}")

    def start(self) -> None:
        """Start it, and wait until it listens."""
        if os.geteuid() == 0:
            PRIVILEGES.mkdir(mode=0o755, exist_ok=True)
        listens = self.address if self.machine is None else "0.0.0.0"
        settings = (
            f"Port {self.port}\nListenAddress {listens}\nHostKey {self.root}/host\n"
            f"PidFile none\nAuthorizedKeysFile {self.keys}\nStrictModes no\nUsePAM no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin prohibit-password\nLogLevel VERBOSE\n"
        )
        (self.root / "sshd_config").write_text(settings)
        assert SSHD is not None
        log = (self.root / "sshd.log").open("wb")
        command = [SSHD, "-D", "-e", "-f", str(self.root / "sshd_config")]
        if self.machine is not None:
            command = self.machine.inside(command)
        self._process = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        if self.machine is not None:
            self.machine.plug(self._process.pid)
        wait_until(self._listens, f"sshd to listen: {self.log()}")

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def log(self) -> str:
        """What it has said."""
        return (self.root / "sshd.log").read_text()

    def stop(self) -> None:
        """End it; connections that are open stay."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        if self.machine is not None:
            self.machine.remove()
