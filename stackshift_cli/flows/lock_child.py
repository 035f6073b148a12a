"""The process of a command that is run under a lock, and what signals do to it and to us.

A signal that is to end us reaches the command, followed by CONT: one that is stopped, because it
read from a terminal in whose background it is for instance, would never hear of it. When it stops
by itself we stop likewise, so that the shell that started us shows it and can send it on; what
continues us continues it. Where no shell looks after us (there is no terminal) we only wait.

Knows nothing of locks: who uses it says what is done while it is stopped, and before it goes on.
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

from stackshift_cli.errors import CommandNotFound, CommandNotRun
from stackshift_jobs.errors import StackshiftError

_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_OF_THE_TERMINAL: Final = (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""What a terminal sends to all processes in its foreground at once."""
_OF_JOB_CONTROL: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""The stops that have no effect where nobody is there to continue what they stop."""


class Child:
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
        self._we_went_on = False
        """We were continued, and the command is to be."""
        self.is_stopped = False
        """Is it, as far as is known?"""
        self._stack = contextlib.ExitStack()

    @property
    def status(self) -> int:
        """What it ended with, as `subprocess` says it: negative for a signal."""
        assert self._process is not None
        return self._process.wait()

    def __enter__(self) -> Child:
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

    def stays_stopped(self) -> bool:
        """Is it stopped, with nothing that says that it is to go on? We stop first, if it is new
        that it is and if there is a shell; true then too where that had no effect."""
        stopped_by, continued = self._news()
        if stopped_by is not None and not self._we_went_on:
            self.is_stopped = True
            if _has_terminal():
                soft = stopped_by in _OF_JOB_CONTROL
                os.kill(os.getpid(), stopped_by if soft else signal.SIGTSTP)
        elif continued:
            self.is_stopped = False
        return self.is_stopped and not self._we_went_on

    def go_on(self) -> None:
        """Continue it, if we were continued."""
        if self._we_went_on:
            self._we_went_on = self.is_stopped = False
            self._send(signal.SIGCONT)

    def end(self, number: int) -> None:
        """Send it a signal that it is to end by, unless it has."""
        self._send(number)
        self._send(signal.SIGCONT)

    def _news(self) -> tuple[int | None, bool]:
        """What stopped it and was not told yet; else, was it continued?"""
        assert self._process is not None
        stopped_by, continued = None, False
        what = os.WUNTRACED | os.WCONTINUED | os.WNOHANG
        while self._process.returncode is None:
            # Not `waitid`, which would leave its end to `poll`: macOS has it since Python 3.13.
            pid, told = os.waitpid(self._process.pid, what)
            if not pid:
                break
            if os.WIFSTOPPED(told):
                stopped_by, continued = os.WSTOPSIG(told), False
            elif os.WIFCONTINUED(told):
                stopped_by, continued = None, True
            else:
                self._process.returncode = os.waitstatus_to_exitcode(told)
        return stopped_by, continued

    def _send(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if self._shares_terminal:
                os.kill(self._process.pid, number)
            else:
                os.killpg(self._process.pid, number)

    def _forward(self, number: int) -> None:
        if number == signal.SIGCONT:
            self._we_went_on = True
        elif self._process is None:
            self._early.append(number)
        elif not (self._shares_terminal and number in _OF_THE_TERMINAL):
            self.end(number)


def _not_run(name: str, bad: OSError) -> StackshiftError:
    told = f"cannot run {name!r}: {bad.strerror}"
    if isinstance(bad, FileNotFoundError):
        return CommandNotFound(told, hint="commands of the shell need one: -- sh -c '...'")
    return CommandNotRun(told)


def _in_foreground() -> bool:
    """Are we in the foreground of a terminal?"""
    return _foreground() == os.getpgrp()


def _has_terminal() -> bool:
    """Have we a terminal, and so most likely a shell that looks after us?"""
    return _foreground() is not None


def _foreground() -> int | None:
    """The process group in the foreground of our terminal; None where we have none."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return None
    try:
        return os.tcgetpgrp(terminal)
    except OSError:
        return None
    finally:
        os.close(terminal)


@contextmanager
def _wakened_by_signals(forward: Callable[[int], None]) -> Iterator[socket.socket]:
    """A socket that can be read when a signal has come; `forward` is called with those to be
    forwarded, and with CONT. What was ignored when we were started (`nohup`) stays so, for the
    command too."""
    reading, writing = socket.socketpair()
    with reading, writing:
        reading.setblocking(False)
        writing.setblocking(False)
        before = {
            number: signal.signal(number, lambda number, _: forward(number))
            for number in _FORWARDED
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        before[signal.SIGCONT] = signal.signal(signal.SIGCONT, lambda number, _: forward(number))
        before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
        woken_before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        try:
            yield reading
        finally:
            signal.set_wakeup_fd(woken_before)
            for number, handler in before.items():
                signal.signal(number, handler)
