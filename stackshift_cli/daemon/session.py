"""A command's session: its project, its connection, and the daemon it starts if none is running.

Each is found, opened or started on first use, so that a command that needs no daemon needs no
project either. That the daemon was started is said once; `--no-start` forbids it.
"""

from __future__ import annotations

import os

from stackshift_cli.arguments import Globals
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.output import effects, messages
from stackshift_jobs.errors import DaemonUnavailable, NotFound, PayloadRefused
from stackshift_jobs.project.locate import Project, find_project
from stackshift_jobs.wire import script
from stackshift_jobs.wire.unavailable import NOT_LISTENING

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Final

_ANSWER_SECONDS: Final = 60.0
"""The longest that a healthy daemon takes to answer a request that does not wait for anything."""
SILENT_SECONDS: Final = 5.0
"""How long a command waits for such an answer before it says that it waits."""


class Session:
    """The options, project and connection that the functions of the verbs work with. `command` is
    what the person has typed: `runs list`."""

    def __init__(
        self, options: Globals, command: str = "", silent_seconds: float = SILENT_SECONDS
    ) -> None:
        self.options = options
        self._command = command
        self._silent_seconds = silent_seconds
        self._connection: Connection | None = None
        self._project: Project | None = None

    @property
    def json(self) -> bool:
        """Was JSON asked for?"""
        return self.options.json

    @property
    def project(self) -> Project:
        """The project that the command is about; raises `BadConfiguration` if there is none."""
        if self._project is None:
            self._project = find_project(self.options.project, default_project=_default_project)
        return self._project

    @property
    def is_scripts(self) -> bool:
        """Were we called by the script of a shell job, about its own project?"""
        return script.is_in_script() and self.options.project is None

    @property
    def may_start(self) -> bool:
        """May the daemon be started if none is running?"""
        return not self.options.no_start and os.environ.get("STACKSHIFT_NO_START") in (
            None,
            "",
            "0",
        )

    def connection(self) -> Connection:
        """The command's connection, opened on first use."""
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    @property
    def is_connected(self) -> bool:
        """Is there a connection? It may be broken without our knowing it yet."""
        return self._connection is not None

    def reconnect(self) -> Connection:
        """A new connection after the old one broke. Does not start the daemon: it may have been
        stopped on purpose, and if it was killed the caller may call `start_daemon`. Raises
        `DaemonUnavailable`."""
        self.hang_up()
        self._connection = Connection.open(self.project.data_dir_text)
        return self._connection

    def hang_up(self) -> None:
        """Close the connection if there is one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def call(
        self, method: str, params: Mapping[str, Any] | None = None, patience: float = 0.0
    ) -> Any:
        """Send a request and return the daemon's answer, which must come within a minute plus
        `patience` seconds (for what the daemon is asked to wait for). What the script of a shell
        job asks for is one of its calls, which its worker records. Raises `StackshiftError`."""
        if self.is_scripts and method in script.METHODS:
            from stackshift_cli.script.client import call_method

            return call_method(method, dict(params or {}))
        return self._answer(method, params, patience)

    def wait(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Send a request and return the daemon's answer, however long it takes."""
        return self._answer(method, params, None)

    def ask(
        self,
        connection: Connection,
        method: str,
        params: Mapping[str, Any] | None = None,
        patience: float | None = 0.0,
    ) -> Any:
        """The daemon's answer over `connection`, which must come within a minute plus `patience`
        seconds, or whenever it comes if that is None. Says so if it takes long. Raises
        `StackshiftError`."""
        pid, slow = connection.peer_pid, self._silent_seconds + (patience or 0.0)

        def notice() -> None:
            from stackshift_cli.daemon.silence import notice

            for line in notice(pid, method, slow):
                self.say(line)

        limit = None if patience is None else patience + _ANSWER_SECONDS
        try:
            return connection.call(method, params, limit, (slow, notice))
        except TimeoutError as bad:
            from stackshift_cli.daemon.silence import given_up

            raise given_up(pid, method, limit or 0.0) from bad

    def _answer(self, method: str, params: Mapping[str, Any] | None, patience: float | None) -> Any:
        try:
            reply = self.ask(self.connection(), method, params, patience)
        except PayloadRefused as bad:
            if "limit_bytes" not in bad.fields:
                raise
            raise _too_large(bad, params) from bad
        except NotFound as bad:
            job = (params or {}).get("job")
            if not isinstance(job, str):
                raise
            from stackshift_cli.daemon.unloaded import explained

            raise explained(self.project, job, bad) from None
        effects.note(self._command, method, reply)
        return reply

    def detail(self, run: str) -> dict[str, Any]:
        """The run object with all of its steps, attempts and timeline."""
        from stackshift_jobs.calls.drive import drive
        from stackshift_jobs.calls.run_pages import detailed

        return drive(detailed(run), self)

    def whole(self, method: str, part: str) -> dict[str, Any]:
        """The answer of `method`, whose list `part` comes in pages, with all of that list."""
        whole = self.call(method)
        cursor = whole["cursor"]
        while cursor is not None:
            page = self.call(method, {"cursor": cursor})
            whole[part] += page[part]
            cursor = page["cursor"]
        return dict(whole)

    def say(self, text: str) -> None:
        """Print a line on stderr unless `--quiet` was given."""
        if not self.options.quiet:
            messages.say(text)

    def note(self, reply: dict[str, Any]) -> None:
        """Say the `notes` of a reply, which leave it."""
        for text in reply.pop("notes", ()):
            self._note(text)

    def _note(self, text: str) -> None:
        from stackshift_cli.output.safe_text import safe

        self.say(f"note: {safe(text)}")

    def _open(self) -> Connection:
        try:
            return Connection.open(self.project.data_dir_text)
        except DaemonUnavailable as bad:
            from stackshift_cli.daemon.presence import absent, open_soon

            silent = bad.fields.get("reason") == NOT_LISTENING
            if silent and not self.may_start:
                return open_soon(self.project)
            if not silent and not (self.may_start and absent(bad)):
                raise
        return self.start_daemon()

    def start_daemon(self) -> Connection:
        """Start the daemon, wait until it is ready, and say so. Returns a connection to it, or to
        one that another command has started meanwhile."""
        from stackshift_cli.daemon import autostart

        self._connection, pid = autostart.start_and_open(self.project, self._note)
        if pid is not None:
            self.say(f"started stackshiftd (pid {pid})")
        return self._connection


def _too_large(bad: PayloadRefused, params: Mapping[str, Any] | None) -> PayloadRefused:
    """The error for a request that the daemon has not read to its end: only we know its size."""
    from stackshift_jobs.values.sizes import size_text
    from stackshift_jobs.wire.jsonrpc import encode_params

    size, limit = len(encode_params(params or {})), bad.fields["limit_bytes"]
    message = f"the request is {size:,} bytes of JSON, the limit of a payload is {size_text(limit)}"
    return PayloadRefused(message, hint=bad.hint, **bad.fields)


def _default_project() -> str | None:
    from stackshift_cli import user_config

    return user_config.load().default_project
