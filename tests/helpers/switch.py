"""Machines with networks of their own, whose cables a test can pull, at one switch with this one.
Needs root, and namespaces of Linux."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from functools import cache
from typing import Final

_LAST: Final = 250


@cache
def missing() -> str:
    """Why there can be none; empty if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "ip is not installed"
    try:
        switch = Switch()
    except subprocess.CalledProcessError as refused:
        return f"namespaces are refused here: {refused.stderr}"
    switch.remove()
    return ""


class Switch:
    """At `address` it has this machine."""

    def __init__(self) -> None:
        pid = os.getpid()
        self._network = f"10.{64 + pid % 32}.{pid // 32 % 256}"
        self._name = f"ss{pid}"
        self._numbers = itertools.count(1)
        self.address = f"{self._network}.1"
        self._plugged: list[Plugged] = []
        _ip("link", "add", self._name, "type", "bridge")
        try:
            self.plug().remove()
            _ip("address", "add", f"{self.address}/24", "dev", self._name)
            _ip("link", "set", self._name, "up")
        except BaseException:
            self.remove()
            raise

    def plug(self) -> Plugged:
        """A network of its own, with a cable to the switch."""
        number = next(self._numbers)
        space, end = f"{self._name}-{number}", f"{self._name}.{number % 1000}"
        plugged = Plugged(space)
        self._plugged.append(plugged)
        _ip("netns", "add", space)
        _ip("link", "add", end, "type", "veth", "peer", "eth0", "netns", space)
        _ip("link", "set", end, "master", self._name, "up")
        address = f"{self._network}.{2 + number % _LAST}/24"
        _ip("-n", space, "address", "add", address, "dev", "eth0")
        _ip("-n", space, "link", "set", "lo", "up")
        plugged.join()
        return plugged

    def remove(self) -> None:
        """Take the switch away, and all networks at it."""
        for plugged in self._plugged:
            plugged.remove()
        subprocess.run(["ip", "link", "delete", self._name], capture_output=True, check=False)


class Plugged:
    """One such network."""

    def __init__(self, space: str) -> None:
        self._space = space

    def inside(self, command: list[str]) -> list[str]:
        """The command line that runs `command` there, as the same process."""
        return ["ip", "netns", "exec", self._space, *command]

    def cut(self) -> None:
        """Pull the cable: what either side sends is lost, and nobody is told."""
        _ip("-n", self._space, "link", "set", "eth0", "down")

    def join(self) -> None:
        """Put the cable in."""
        _ip("-n", self._space, "link", "set", "eth0", "up")

    def remove(self) -> None:
        """Take it away; idempotent."""
        subprocess.run(["ip", "netns", "delete", self._space], capture_output=True, check=False)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
