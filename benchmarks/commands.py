"""Short commands, measured: `stackshift` in multiples of `python -c pass`.

    python benchmarks/commands.py [--rounds 7] [--program .venv/bin/stackshift] [--loop 1000]

Processor time (user and system, of the process alone) and time on the clock, each the least of
the rounds, since what else the machine does can only add to it; the commands take turns. In a
pipe, `start` should take at most 2.5 times as long as the empty program, `state get` 2.2 times, the
others 4 times; what is drawn 12 times.

With `--loop N`, the shell runs `stackshift start` N times in a loop, and beside it `redis-cli
LPUSH` to a Redis that syncs each write, if there is one; and then come batches of a hundred times
as many lines.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import pty
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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


class Spent(NamedTuple):
    """Milliseconds: of the processor, and of the clock."""

    processor: float
    clock: float


def main() -> None:
    """Make a project, measure the commands in it, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name("stackshift")))
    parser.add_argument("--loop", type=int, default=0)
    options = parser.parse_args()
    program = str(Path(options.program).absolute())
    # The one that runs it, so that both are installed alike.
    python = str(Path(program).with_name("python"))
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for words in (["init"], ["start", "hello", "--wait"]):
            subprocess.run([program, *words], check=True, capture_output=True)
        try:
            report(program, python, options.rounds)
            if options.loop:
                loops(program, python, options.loop)
                batch(program, 100 * options.loop)
        finally:
            subprocess.run([program, "daemon", "stop"], check=True, capture_output=True)
            os.chdir("/")


def report(program: str, python: str, rounds: int) -> None:
    """Print what each command takes."""
    if "import re\n" in Path(program).read_text():
        print("the script of this installation imports `re` by itself: pip before 25.2 wrote it")
    for title, lines, measure in (("in a pipe", PIPED, piped), ("on a terminal", DRAWN, drawn)):
        argvs = {line: [program, *line.split()] for line in lines.splitlines()}
        took: dict[str, list[Spent]] = {}
        for _ in range(rounds):
            for name, argv in (("python -c pass", [python, "-c", "pass"]), *argvs.items()):
                took.setdefault(name, []).append((piped if argv[0] == python else measure)(argv))
        least = {
            name: Spent(min(s.processor for s in spent), min(s.clock for s in spent))
            for name, spent in took.items()
        }
        empty = least["python -c pass"]
        print(f"\n{title:<32} {'processor':>17} {'clock':>19}")
        for name, spent in least.items():
            print(
                f"{name:<32} {spent.processor:6.1f} ms {spent.processor / empty.processor:6.2f}x"
                f" {spent.clock:8.1f} ms {spent.clock / empty.clock:6.2f}x"
            )


def piped(argv: list[str]) -> Spent:
    """What `argv` takes, with its output discarded."""
    null = os.open(os.devnull, os.O_RDWR)
    began = time.perf_counter()
    child = os.posix_spawn(
        argv[0],
        argv,
        ENVIRONMENT,
        file_actions=[(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)],
    )
    os.close(null)
    return _ended(child, began)


def drawn(argv: list[str]) -> Spent:
    """What `argv` takes on a terminal of 120 by 40."""
    began = time.perf_counter()
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT)
    os.close(theirs)
    with contextlib.suppress(OSError):  # Linux: the last writer is gone.
        while os.read(ours, 65_536):
            pass
    spent = _ended(child.pid, began)
    child.returncode = 0  # It was waited for.
    os.close(ours)
    return spent


def _ended(child: int, began: float) -> Spent:
    _, _, used = os.wait4(child, 0)
    return Spent(1000 * (used.ru_utime + used.ru_stime), 1000 * (time.perf_counter() - began))


def loops(program: str, python: str, times: int) -> None:
    """Print how long a loop of the shell takes for each of the commands that one would compare."""
    print(f"\n{f'{times} times in a loop of sh':<32} {'clock':>9} {'each':>12}")
    with redis() as client:
        commands = {"python -c pass": [python, "-c", "pass"]}
        commands["stackshift start hello"] = [program, "start", "hello"]
        if client:
            commands["redis-cli LPUSH, synced"] = [*client, "LPUSH", "queue", "hello"]
        for name, argv in commands.items():
            script = f"i=0; while [ $i -lt {times} ]; do {shlex.join(argv)}; i=$((i + 1)); done"
            began = time.perf_counter()
            subprocess.run(
                ["sh", "-c", script], stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=True
            )
            took = time.perf_counter() - began
            print(f"{name:<32} {took:7.1f} s {1000 * took / times:9.1f} ms")


@contextlib.contextmanager
def redis() -> Iterator[list[str]]:
    """The command line of a client whose Redis syncs each write; empty if none is installed."""
    server, client = shutil.which("redis-server"), shutil.which("redis-cli")
    if server is None or client is None:
        print("Redis is not installed: apt install redis-server")
        yield []
        return
    at = ["-s", "redis.sock"]
    options = "--port 0 --unixsocket redis.sock --appendonly yes --appendfsync always --save"
    running = subprocess.Popen([server, *options.split(), ""], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        ping = [client, *at, "ping"]
        while subprocess.run(ping, capture_output=True, check=False).stdout != b"PONG\n":
            if time.monotonic() > deadline:
                raise TimeoutError("Redis does not answer")
        yield [client, *at]
    finally:
        running.terminate()
        running.wait()


def batch(program: str, lines: int) -> None:
    """Print how long `start --batch` takes, for runs that wait in a queue that is paused."""
    subprocess.run([program, "queues", "pause", "default"], check=True, capture_output=True)
    print(f"\n{f'start --batch, {lines:,} lines':<32} {'clock':>9} {'a second':>12}")
    for name, key in (("without idempotency keys", False), ("with them", True), ("again", True)):
        with Path("lines").open("w", encoding="ascii") as file:
            for number in range(lines):
                line = {"job": "hello", "payload": {"name": f"n{number}"}}
                file.write(json.dumps(line | ({"idempotency_key": f"k{number}"} if key else {})))
                file.write("\n")
        began = time.perf_counter()
        argv = [program, "-q", "start", "--batch", "lines"]
        subprocess.run(argv, stdout=subprocess.DEVNULL, env=ENVIRONMENT, check=True)
        took = time.perf_counter() - began
        print(f"{name:<32} {took:7.2f} s {lines / took:12,.0f}")


if __name__ == "__main__":
    main()
