"""The process of a command that runs under a lock, and the signals that reach it or us.

A signal that should end us is forwarded to the command, followed by CONT, because a stopped command
(for example one that read from its terminal in the background) would never receive it. When the
command stops, we stop too, so that the shell that started us shows this and can continue us; when
we are continued, the command is. Without a terminal there is no such shell, and we only wait.

This module knows nothing about locks: the caller decides what happens while the command is stopped,
and before it continues.
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
"""The signals that a terminal sends to all processes in its foreground at once."""
_OF_JOB_CONTROL: Final = (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU)
"""The stop signals that have no effect if nobody could continue the stopped process."""


class Child:
    """The command's process. Signals that reach us are forwarded to it; `status` is how it ended.

    In the foreground of a terminal it stays in our process group, or it could not read from the
    terminal; signals that are typed there (Ctrl-C) reach both of us. Otherwise it has a process
    group of its own, and signals reach the processes that it has started too.
    """

    def __init__(self, command: list[str], held: dict[str, Any], variables: dict[str, str]) -> None:
        self.name = command[0]
        self._command = command
        self._environment = {
            "STACKSHIFT_LOCK_KEY": str(held["key"]),
            "STACKSHIFT_LOCK_TOKEN": str(held["token"]),
            **variables,
        }
        self._shares_terminal = _in_foreground()
        self._process: subprocess.Popen[bytes] | None = None
        self._early: list[int] = []
        self._we_went_on = False
        """Were we continued, and the command not yet?"""
        self.is_stopped = False
        """Is the command stopped, as far as is known?"""
        self._stack = contextlib.ExitStack()

    @property
    def status(self) -> int:
        """Its exit status as `subprocess` has it: negative for a signal. Waits for its end."""
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
        """Has its own process ended? Processes that it left in the background do not count."""
        assert self._process is not None
        return self._process.poll() is not None

    def wait(self, until: float | None, sockets: list[int]) -> None:
        """Wait for a signal (its end causes one), for one of `sockets` to be readable, or until the
        time `until`."""
        left = None if until is None else max(0.0, until - monotonic())
        ready, _, _ = select.select([self._woken.fileno(), *sockets], [], [], left)
        if self._woken.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)

    def stays_stopped(self) -> bool:
        """Is it stopped, and have we not been continued? If it has just stopped and there is a
        terminal, this first stops our own process; the result is true if that had no effect."""
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
        """Continue the command, if we were continued."""
        if self._we_went_on:
            self._we_went_on = self.is_stopped = False
            self._send(signal.SIGCONT)

    def end(self, number: int) -> None:
        """Send it a signal to end it, even if it is stopped; does nothing if it has ended."""
        self._send(number)
        self._send(signal.SIGCONT)

    def _news(self) -> tuple[int | None, bool]:
        """What happened since the last call: the signal that stopped it, if it is stopped; and
        whether it was continued."""
        assert self._process is not None
        stopped_by, continued = None, False
        what = os.WUNTRACED | os.WCONTINUED | os.WNOHANG
        while self._process.returncode is None:
            # `waitid` would leave the exit status for `poll`, but macOS has it only since Python
            # 3.13.
            pid, status = os.waitpid(self._process.pid, what)
            if not pid:
                break
            if os.WIFSTOPPED(status):
                stopped_by, continued = os.WSTOPSIG(status), False
            elif os.WIFCONTINUED(status):
                stopped_by, continued = None, True
            else:
                self._process.returncode = os.waitstatus_to_exitcode(status)
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
    text = f"cannot run {name!r}: {bad.strerror}"
    if isinstance(bad, FileNotFoundError):
        return CommandNotFound(text, hint="for a shell command, start a shell: -- sh -c '...'")
    return CommandNotRun(text)


def _in_foreground() -> bool:
    """Are we in the foreground of a terminal?"""
    return _foreground() == os.getpgrp()


def _has_terminal() -> bool:
    """Is there a controlling terminal, and so most likely a shell with job control?"""
    return _foreground() is not None


def _foreground() -> int | None:
    """The process group in the foreground of our terminal; None without a terminal."""
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
    """A socket that becomes readable when a signal arrives. `forward` is called with the signals to
    forward, and with CONT. Signals that were ignored when we were started (`nohup`) stay ignored,
    by the command too."""
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
