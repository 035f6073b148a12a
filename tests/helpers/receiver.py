"""A server on this machine that takes messages and heartbeats, or does not, as a test wants it."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Received(NamedTuple):
    """One request: its path, its headers, and its body as text."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def key(self) -> str:
        """What is the same on each try of one message."""
        return self.headers.get("Idempotency-Key", "")


class Receiver:
    """What a server has received. It answers with the next of `answers`, and then with 200; while
    it `hangs`, it answers nothing until that is over."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.received: list[Received] = []
        self.answers: list[int] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def hang(self) -> None:
        """Answer nothing from now on."""
        self.may_answer.clear()

    def go_on(self) -> None:
        """Answer again, also what has waited."""
        self.may_answer.set()

    @property
    def paths(self) -> list[str]:
        """The paths of all requests, in order."""
        return [request.path for request in self.received]

    def take(self, request: Received) -> int:
        """Note a request; the status to answer it with."""
        self.received.append(request)
        return self.answers.pop(0) if self.answers else 200


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A server, as long as the context is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            if len(body) < size:
                return  # Its client was killed while it sent it: this is no request.
            status = found.take(Received(self.path, dict(self.headers), body.decode()))
            found.may_answer.wait(60)
            try:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(b"no such topic" if status == 404 else b"")
            except OSError:
                pass  # Nobody waits for the answer any more.

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    found = Receiver(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.go_on()
        server.shutdown()
        server.server_close()


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """A mail server: its port, and the mails that it has taken."""
    mails: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 here")
            for raw in self.rfile:
                word = raw[:4].upper().strip()
                if word == b"DATA":
                    self.say("354 go on")
                    mails.append(self.mail())
                elif word == b"QUIT":
                    self.say("221 bye")
                    return
                self.say("250 ok")

        def mail(self) -> str:
            lines = []
            for raw in self.rfile:
                if raw == b".\r\n":
                    break
                lines.append(raw.decode().rstrip("\r\n"))
            return "\n".join(lines)

        def say(self, line: str) -> None:
            self.wfile.write(f"{line}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        address_family = socket.AF_INET

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], mails
        server.shutdown()
