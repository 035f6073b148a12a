"""A daemon for the tests of clients: real sockets and frames, scripted answers, no engine.

Each connection has a thread that reads lines and answers them in order, unless the answer to a
method is scripted with `on`. It records all that it was asked and all that it carried out.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stackshift_jobs.errors import NotFound, StackshiftError
from stackshift_jobs.project import discovery
from stackshift_jobs.version import PROTOCOL

DEADLINE = 60.0
"""Seconds after which a test that waits for a condition fails."""


class Peer:
    """One client's connection, as the daemon sees it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._lock = threading.Lock()
        self.gone = False

    def write(self, data: bytes) -> None:
        """Send `data` as it is."""
        with self._lock:
            self.sock.sendall(data)

    def send(self, message: dict[str, Any]) -> None:
        """Send one message as a line."""
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def answer(self, id: Any, result: Any) -> None:
        """Send the result of request `id`."""
        self.send({"id": id, "result": result})

    def refuse(self, id: Any, error: StackshiftError, code: int = -32000) -> None:
        """Send the error of request `id`; None speaks of the connection."""
        self.send(
            {"id": id, "error": {"code": code, "message": error.message, "data": error.as_json()}}
        )

    def hang_up(self) -> None:
        """Close the connection at once."""
        with self._lock:
            self.gone = True
            try:
                self.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return


Answer = Callable[[Peer, int, dict[str, Any]], None]
"""Answers request `id` with these params on `peer`: at once, later or never."""


class FakeDaemon:
    """Listens for the data directory `data_dir`, as its `daemon.json` says."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.protocol = PROTOCOL
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.started: list[dict[str, Any]] = []
        self.keys: dict[str, str] = {}
        self.peers: list[Peer] = []
        self.greet: Callable[[Peer], None] | None = None
        self.changed = threading.Condition()
        self._scripts: dict[str, Answer] = {}
        self._listener: socket.socket | None = None

    def start(self) -> FakeDaemon:
        """Accept connections and say so in `daemon.json`."""
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        path = discovery.socket_path(self.data_dir)
        path.unlink(missing_ok=True)
        self._listener = listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(64)
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
        info = discovery.DaemonInfo(os.getpid(), str(path), "9.9.9", self.protocol, "now")
        discovery.write_daemon(self.data_dir, info)
        return self

    def stop(self, *, clean: bool = True) -> None:
        """Hang up on everybody; unless `clean`, `daemon.json` is left behind."""
        if clean:
            discovery.remove_daemon(self.data_dir)
        if self._listener is not None:
            path = Path(self._listener.getsockname())
            # Woken, so that the thread is not left in accept with a socket that is closed.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
            path.unlink(missing_ok=True)
            if path.parent != self.data_dir:
                path.parent.rmdir()
        for peer in self.peers:
            peer.hang_up()

    def on(self, method: str, answer: Answer) -> None:
        """Answer `method` with `answer` from now on."""
        self._scripts[method] = answer

    def usual(self, method: str) -> None:
        """Answer `method` in the normal way again."""
        self._scripts.pop(method, None)

    def wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` is true of what was seen; fails the test if it never is."""
        with self.changed:
            assert self.changed.wait_for(condition, DEADLINE), f"never came; seen: {self.seen!r}"

    def methods(self) -> list[str]:
        """The requests that arrived, in order."""
        return [method for method, _ in self.seen]

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            peer = Peer(sock)
            self.peers.append(peer)
            threading.Thread(target=self._serve, args=(peer,), daemon=True).start()

    def _serve(self, peer: Peer) -> None:
        with peer.sock, peer.sock.makefile("rb") as lines:
            try:
                if self.greet is not None:
                    self.greet(peer)
                for line in lines:
                    if peer.gone:
                        return
                    if line.endswith(b"\n"):
                        self._hear(peer, json.loads(line))
            except OSError:
                return  # the client hung up, or we did

    def _hear(self, peer: Peer, request: dict[str, Any]) -> None:
        method, params, id = request["method"], request["params"], request["id"]
        with self.changed:
            self.seen.append((method, params))
            self.changed.notify_all()
        script = self._scripts.get(method)
        if script is not None:
            script(peer, id, params)
        else:
            self._usual(peer, id, method, params)

    def _usual(self, peer: Peer, id: int, method: str, params: dict[str, Any]) -> None:
        if method == "run.start":
            peer.answer(id, self.begin(params))
        elif method == "run.start_many":
            peer.answer(id, {"results": [self.begin(run) for run in params["runs"]]})
        elif method == "run.get" and params["run"] == "run_missing":
            peer.refuse(id, NotFound("no run run_missing", hint="stackshift runs list"))
        elif method == "run.get" and "cursor" in params:
            last: dict[str, Any] = {"timeline": [{"seq": 2}], "cursor": None}
            peer.answer(id, {"steps": [], "attempts": []} | last)
        elif method == "run.get" and params.get("detail"):
            page: dict[str, Any] = {"id": "run_1", "status": "running", "steps": [{"name": "a"}]}
            page |= {"attempts": [], "timeline": [{"seq": 1}], "cursor": "timeline:1"}
            peer.answer(id, page)
        elif method == "run.get":
            peer.answer(id, {"id": params["run"], "status": "running"})
        elif method == "run.wait":
            peer.answer(id, {"id": params["run"], "status": "completed", "result": 42})
        elif method == "run.cancel":
            peer.answer(id, {"id": params["run"], "status": "cancelled", "changed": True})
        elif method == "run.list":
            peer.answer(id, {"runs": [{"id": "run_1"}], "cursor": "run_1"})
        else:
            peer.answer(id, params)

    def begin(self, params: dict[str, Any]) -> dict[str, Any]:
        """Carry out a start: a new run, or the one that has its key already."""
        key = params.get("idempotency_key")
        if key in self.keys:
            return {"id": self.keys[key], "reused": True, "status": "queued"}
        self.started.append(params)
        run = f"run_{len(self.started)}"
        if key is not None:
            self.keys[key] = run
        return {"id": run, "reused": False, "status": "queued"}


def hang_up(peer: Peer, _id: int, _params: dict[str, Any]) -> None:
    """Break the connection instead of answering."""
    peer.hang_up()


def silence(peer: Peer, id: int, params: dict[str, Any]) -> None:
    """Never answer."""
