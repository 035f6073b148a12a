"""A command that runs while a lock is held: `state lock KEY -- COMMAND...`.

    acquired ─→ command runs ⟲ renewed at a third of its ttl ─→ command ended ─→ released
                     │ not renewed in time, or another holds it
                     └─→ TERM, after a grace KILL ─→ 5

Owns the command's process, the signals that reach us meanwhile, and the lock's renewal. It takes no
lock: `verbs.locks` does.

Invariants: while the command runs, the lock is ours as far as can be known, or the command is being
ended; what time is left is counted from when a renewal was asked for, never from its answer; the
command's status is passed on unless the lock was lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Final

from stackshift_cli import talk
from stackshift_cli.failures import CommandNotFound, CommandNotRun
from stackshift_cli.renewal import Renewal
from stackshift_cli.safe_text import safe
from stackshift_cli.session import Session
from stackshift_jobs.errors import StackshiftError

GRACE_SECONDS: Final = 10.0
"""Between the TERM and the KILL of a command whose lock was lost."""
_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_OF_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What a terminal sends to all processes in its foreground at once."""


def run_holding(session: Session, held: dict[str, Any], ttl_ms: int, command: list[str]) -> int:
    """Run `command` while `held` (the answer to `lock.acquire`) is renewed; its exit status, 128+n
    for a signal, or 5 if the lock was lost."""
    renewal = Renewal(session, held["key"], int(held["token"]), ttl_ms / 1000)
    try:
        with _Command(command, held) as process:
            _watch(session, renewal, process)
    finally:
        lost_late = renewal.release() if renewal.gone is None else None
    if renewal.gone is not None:
        return renewal.gone.exit_status
    if lost_late is not None:
        return talk.error(lost_late, session.json)
    status = process.status
    return 128 - status if status < 0 else status


def _watch(session: Session, renewal: Renewal, process: _Command) -> None:
    """Return when the command has ended; renew the lock until then."""
    kill_at: float | None = None
    while not process.has_ended():
        wake_at = kill_at if renewal.gone is not None else renewal.wake_at
        process.wait(wake_at, [] if renewal.gone is not None else renewal.sockets())
        if process.has_ended():
            return
        if renewal.gone is None and (gone := renewal.tend()) is not None:
            talk.error(gone, session.json)
            session.say(f"{safe(process.name)} is being ended")
            process.send(signal.SIGTERM)
            kill_at = monotonic() + GRACE_SECONDS
        elif kill_at is not None and monotonic() >= kill_at:
            process.send(signal.SIGKILL)
            kill_at = None


class _Command:
    """The command's process. Signals that reach us reach it; what it ends with is `status`.

    In the foreground of a terminal it stays in our process group, or it could not read from there;
    and what is typed there (Ctrl-C) the terminal sends to both of us. Anywhere else it has a group
    of its own, and signals reach what it has started too.
    """

    def __init__(self, command: list[str], held: dict[str, Any]) -> None:
        self.name = command[0]
        self._command = command
        self._environment = {
            "STACKSHIFT_LOCK_KEY": str(held["key"]),
            "STACKSHIFT_LOCK_TOKEN": str(held["token"]),
        }
        self._shares_terminal = _in_foreground()
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._stack = contextlib.ExitStack()

    @property
    def status(self) -> int:
        """What it ended with, as `subprocess` says it: negative for a signal."""
        assert self._process is not None
        return self._process.wait()

    def __enter__(self) -> _Command:
        self._woken = self._stack.enter_context(_wakened_by_signals(self._forward))
        try:
            self._process = subprocess.Popen(
                self._command,
                env=os.environ | self._environment,
                process_group=None if self._shares_terminal else 0,
            )
        except BaseException as bad:
            self._stack.close()
            if isinstance(bad, OSError):
                raise _not_run(self.name, bad) from bad
            raise
        for number in self._early:
            self._forward(number)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def has_ended(self) -> bool:
        """Has it? Its own process, not what it may have left in the background."""
        assert self._process is not None
        return self._process.poll() is not None

    def wait(self, until: float | None, sockets: list[int]) -> None:
        """Until a signal comes (its end is one), one of `sockets` can be read, or then."""
        left = None if until is None else max(0.0, until - monotonic())
        ready, _, _ = select.select([self._woken.fileno(), *sockets], [], [], left)
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)

    def send(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        assert self._process is not None
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._shares_terminal:
                os.kill(self._process.pid, number)
            else:
                os.killpg(self._process.pid, number)

    def _forward(self, number: int) -> None:
        if self._process is None:
            self._early.append(number)
        elif not (self._shares_terminal and number in _OF_THE_TERMINAL):
            self.send(number)


def _not_run(name: str, bad: OSError) -> StackshiftError:
    told = f"cannot run {name!r}: {bad.strerror}"
    if isinstance(bad, FileNotFoundError):
        return CommandNotFound(told, hint="commands of the shell need one: -- sh -c '...'")
    return CommandNotRun(told)


def _in_foreground() -> bool:
    """Are we in the foreground of a terminal?"""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextmanager
def _wakened_by_signals(forward: Callable[[int], None]) -> Iterator[socket.socket]:
    """A socket that can be read when a signal has come; `forward` is called with those to be
    forwarded. What was ignored when we were started (`nohup`) stays so, for the command too."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before = {
            number: signal.signal(number, lambda number, _: forward(number))
            for number in _FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        woken_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
