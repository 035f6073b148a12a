"""A client that says whatever it is told to, well-formed or not."""

from __future__ import annotations

import json
from typing import Any

from helpers.deadline import SECONDS
from helpers.project import Project
from stackshift_jobs.wire.unix_socket import connect


class Wire:
    """A raw connection to a daemon."""

    def __init__(self, project: Project) -> None:
        self.sock = connect(project.dialled)
        self.sock.settimeout(SECONDS)
        self._rest = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, *lines: bytes) -> None:
        """Send lines, each with its end."""
        self.sock.sendall(b"".join(line + b"\n" for line in lines))

    def receive(self) -> dict[str, Any] | None:
        """The next message; None where the daemon has closed the connection."""
        while b"\n" not in self._rest:
            try:
                data = self.sock.recv(1 << 16)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def ask(self, line: bytes) -> dict[str, Any]:
        """Send a line; the answer."""
        self.send(line)
        answer = self.receive()
        assert answer is not None, "the daemon hung up"
        return answer


def request(method: str, params: bytes = b"{}", id: bytes = b"1") -> bytes:
    """The line of a request whose params are any bytes."""
    return b'{"jsonrpc":"2.0","id":%s,"method":"%s","params":%s}' % (id, method.encode(), params)
