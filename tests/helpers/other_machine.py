"""What another machine has of its own, on this one: a network behind a cable that can be pulled,
and a user who is nobody here. Needs root, and namespaces of Linux."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from shlex import quote
from typing import Final

from helpers.deadline import wait_until
from helpers.project import REPOSITORY, environment

_UID: Final = 54321
_OURS: Final = Path("/proc/self/ns/net")


@cache
def missing() -> str:
    """Why there can be none; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need Linux and root"
    if not all(map(shutil.which, ("ip", "nsenter", "setpriv", "unshare"))):
        return "ip, nsenter, setpriv or unshare is not installed"
    as_user = ["setpriv", "--reuid", str(_UID), "--regid", str(_UID), "--clear-groups"]
    imports = [sys.executable, "-c", "import stackshift_jobs"]
    done = subprocess.run(
        _apart(_opened(), [*as_user, *imports]),
        env=environment(),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces are refused here: {done.stderr}" if done.returncode else ""


class OtherMachine:
    """Its user's home is in `root`, which others must be able to enter."""

    def __init__(self, root: Path) -> None:
        number = os.getpid() % 0x4000
        network = f"10.99.{number >> 6}."
        host = number % 64 * 4
        self._ours, self.address = f"{network}{host + 1}", f"{network}{host + 2}"
        self._cable = f"ss{os.getpid()}"
        self._pid = 0
        self.user = "worker"
        self.home = root / "home"
        self.home.mkdir()
        os.chown(self.home, _UID, _UID)
        self._accounts = {
            "passwd": f"{self.user}:x:{_UID}:{_UID}::{self.home}:/bin/sh\n",
            "shadow": f"{self.user}:*:20000::::::\n",
        }
        for name, line in self._accounts.items():
            (root / name).write_text(Path("/etc", name).read_text() + line)
            (root / name).chmod(0o644)
        self._root = root

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs `command` there; `plug` follows."""
        accounts = [
            f"mount --bind {quote(str(self._root / name))} /etc/{name}" for name in self._accounts
        ]
        return _apart([*accounts, "ip link set lo up", *_opened()], command)

    def plug(self, pid: int) -> None:
        """Connect the network of the process `pid`, which was started with `inside`."""
        theirs = Path(f"/proc/{pid}/ns/net")
        wait_until(lambda: theirs.readlink() != _OURS.readlink(), "a network of its own")
        self._pid = pid
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "eth0", "netns", str(pid))
        _run("ip", "address", "add", f"{self._ours}/30", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        self._there("address", "add", f"{self.address}/30", "dev", "eth0")
        self.join()

    def join(self) -> None:
        """Put the cable in."""
        self._there("link", "set", "eth0", "up")

    def cut(self) -> None:
        """Pull the cable: what either side sends is lost, and nobody is told."""
        self._there("link", "set", "eth0", "down")

    def remove(self) -> None:
        """Take the cable away; the rest goes with the last process there."""
        subprocess.run(["ip", "link", "delete", self._cable], capture_output=True, check=False)

    def _there(self, *words: str) -> None:
        _run("nsenter", "--target", str(self._pid), "--net", "ip", *words)


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _apart(preparations: list[str], command: list[str]) -> list[str]:
    """The command line that runs `command` in a network and a file system of its own."""
    script = " && ".join([*preparations, 'exec "$@"'])
    return ["unshare", "--net", "--mount", "sh", "-c", script, "sh", *command]


def _opened() -> list[str]:
    """Commands that let any user come to the interpreter and the sources, in a file system of
    their own: a folder that others cannot enter is hidden, and only these are put back."""
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix), REPOSITORY]
    closed = {path: folder for path in needed if (folder := _closed(path)) is not None}
    opens = [f"exec {fd}<{quote(str(path))}" for fd, path in enumerate(closed, 3)]
    hides = [f"mount -t tmpfs -o mode=755 none {quote(str(each))}" for each in set(closed.values())]
    puts = [
        f"mkdir -p {quote(str(path))} && mount -c --bind /proc/self/fd/{fd} {quote(str(path))}"
        for fd, path in enumerate(closed, 3)
    ]
    closes = [f"exec {fd}<&-" for fd, _ in enumerate(closed, 3)]
    return [*opens, *hides, *puts, *closes]


def _closed(path: Path) -> Path | None:
    """The first folder above `path`, or `path` itself, that others cannot enter."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None
