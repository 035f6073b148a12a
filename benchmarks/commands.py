"""Short commands, measured: processor time of `stackshift`, in multiples of `python -c pass`.

    python benchmarks/commands.py [--rounds 7]

Each line is the least of the rounds, since what else the machine does can only add to it. Piped
commands should take at most 4 times as long as the empty program, drawn ones 12 times.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import resource
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

PIPED = """\
--version
--help
start hello
start hello --wait
state get greeting --default 0
event send paid
runs list
runs show @last
runs why @last
runs wait @last
queues list
daemon status
__complete zsh start h
__complete zsh runs show run_
"""
DRAWN = """\
runs list
runs show @last
queues list
daemon status
"""
ENVIRONMENT = os.environ | {"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
# Otherwise each command compiles what it imports, and that is what is measured.
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)


def main() -> None:
    """Make a project, measure each command in it, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    program = str(Path(sys.executable).with_name("stackshift"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for words in (["init"], ["start", "hello", "--wait"]):
            subprocess.run([program, *words], check=True, capture_output=True)
        try:
            report(program, rounds)
        finally:
            subprocess.run([program, "daemon", "stop"], check=True, capture_output=True)
            os.chdir("/")


def report(program: str, rounds: int) -> None:
    """Print the processor time of each command."""
    empty = min(piped([sys.executable, "-c", "pass"]) for _ in range(rounds))
    print(f"{'python -c pass':<32} {empty:6.1f} ms")
    for title, lines, measure in (("in a pipe", PIPED, piped), ("on a terminal", DRAWN, drawn)):
        print(f"\n{title}")
        for line in lines.splitlines():
            took = min(measure([program, *line.split()]) for _ in range(rounds))
            print(f"{line:<32} {took:6.1f} ms  {took / empty:5.1f}x")


def piped(argv: list[str]) -> float:
    """The processor time of `argv` in milliseconds, with its output discarded."""
    before = _spent()
    null = subprocess.DEVNULL
    subprocess.run(argv, stdin=null, stdout=null, stderr=null, env=ENVIRONMENT, check=False)
    return _spent() - before


def drawn(argv: list[str]) -> float:
    """The processor time of `argv` in milliseconds, on a terminal of 120 by 40."""
    before = _spent()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    with contextlib.suppress(OSError):  # Linux: the last writer is gone.
        while os.read(ours, 65_536):
            pass
    child.wait()
    os.close(ours)
    return _spent() - before


def _spent() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1000 * (used.ru_utime + used.ru_stime)


if __name__ == "__main__":
    main()
