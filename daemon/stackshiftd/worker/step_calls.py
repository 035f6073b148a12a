"""Where the programs of steps say that they are alive, and how far they have come.

One socket a worker, in a private folder that is made when the first program of a step starts, and a
thread for each caller, as a checkpoint is answered only when it is durable. Invariants: a caller is
heard only with the token of a try that is going on; one that says nothing is left alone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
from json import dumps
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Final

from stackshift_jobs.errors import StackshiftError, Usage
from stackshift_jobs.values.strict_json import loads
from stackshift_jobs.wire.peer import is_own_user, peer_uid
from stackshift_jobs.wire.script import MAX_CALL_BYTES
from stackshift_jobs.wire.step_program import CALLS_VARIABLE, TRY_TOKEN_VARIABLE, TRY_VARIABLE
from stackshiftd.worker.scripts.folder import (
    ATTEMPTS,
    Home,
    is_of_dead,
    listening_in,
    private_folder,
)
from stackshiftd.worker.step_tries import StepTry

_PATIENCE_SECONDS: Final = 5.0
"""How long a caller may take to say what it wants."""
_READ_BYTES: Final = 1 << 16

Json = dict[str, Any]


class StepCalls:
    """The calls of the programs of all steps of this worker. Its methods are for any thread."""

    def __init__(self) -> None:
        self._tries: dict[str, StepTry] = {}
        """Token → the try whose program has it."""
        self._guard = Lock()
        self._folder: Path | None = None
        self._socket: socket.socket | None = None

    def variables(self, begun: StepTry) -> dict[str, str]:
        """The variables by which a program of this try finds the socket, until `ended`."""
        with self._guard:
            folder = self._folder or self._open()
            token = secrets.token_hex(16)
            self._tries[token] = begun
        return {
            CALLS_VARIABLE: str(folder),
            TRY_TOKEN_VARIABLE: token,
            TRY_VARIABLE: str(begun.number),
        }

    def ended(self, variables: dict[str, str]) -> None:
        """The program that was given these variables has ended."""
        with self._guard:
            self._tries.pop(variables.get(TRY_TOKEN_VARIABLE, ""), None)

    def close(self) -> None:
        """Remove the socket and its folder: the worker ends."""
        with self._guard:
            folder, listening = self._folder, self._socket
            self._folder = self._socket = None
        if listening is not None:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)  # It wakes the thread.
            listening.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def _open(self) -> Path:
        for left in Path(Home.data_dir, ATTEMPTS).glob("steps-*") if Home.data_dir else ():
            if is_of_dead(left):
                shutil.rmtree(left, ignore_errors=True)
        folder = private_folder(f"steps-{os.getpid()}")
        try:
            listening = listening_in(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._folder, self._socket = folder, listening
        Thread(target=self._serve, args=(listening,), name="step-calls", daemon=True).start()
        return folder

    # --- On the thread ---------------------------------------------------------------------

    def _serve(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                if self._socket is not listening:
                    return
                continue
            Thread(target=self._attend, args=(connection,), name="step-call", daemon=True).start()

    def _attend(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(_PATIENCE_SECONDS)
            call = _received(connection)
            if call is not None:
                self._handle(connection, call)

    def _handle(self, connection: socket.socket, call: Json) -> None:
        begun = self._tries.get(str(call.get("token")))
        if begun is None:
            return
        try:
            answer = _answer(begun, call)
        except StackshiftError as refused:
            answer = {"error": refused.as_json()}
        except BaseException:  # What ends the function: the try is over, or about to be.
            return
        connection.sendall(dumps(answer).encode() + b"\n")


def _answer(begun: StepTry, call: Json) -> Json:
    match call.get("call"):
        case "heartbeat":
            begun.beat()
            return {}
        case "last":
            return {"last": begun.last}
        case "checkpoint" if "value" in call:
            noted = begun.checkpoint(call["value"], flush=bool(call.get("flush")))
            return {"recorded": noted.recorded}
    raise Usage(f"the program of a step has no call {call.get('call')!r}")


def _received(connection: socket.socket) -> Json | None:
    """The call that comes over `connection`; None for none."""
    if not is_own_user(peer_uid(connection)):
        return None
    data = b""
    while not data.endswith(b"\n"):
        part = connection.recv(_READ_BYTES)
        data += part
        if not part or len(data) > MAX_CALL_BYTES:
            return None
    try:
        call = loads(data)
    except (StackshiftError, ValueError):
        return None
    return call if isinstance(call, dict) else None
