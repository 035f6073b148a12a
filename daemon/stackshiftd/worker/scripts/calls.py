"""What the script of a shell job asks for, as calls on `ctx`: one after another, on the thread of
its handler, so that the order in which they are identified is the order in which they were made.

Identity, record, retries and waits are those of all handlers. A call that waits for long unwinds
the handler from here, which ends the script. Invariants: only who knows the execution's token is
heard; a call that was asked for in the wrong way changes nothing, and the script is told.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
from collections.abc import Callable
from json import dumps, loads
from typing import Any, Final, cast

from stackshift_jobs.calls.runs import StartOptions
from stackshift_jobs.errors import (
    BeingCancelled,
    ChildFailed,
    CommandFailed,
    StackshiftError,
    StepFailed,
    Usage,
)
from stackshift_jobs.handler import steps, waits
from stackshift_jobs.handler.cancelling import Cancelling
from stackshift_jobs.handler.command import run_command
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.handler.ops import Heartbeat, RecordedCall
from stackshift_jobs.handler.ports import drive
from stackshift_jobs.handler.requests import ask
from stackshift_jobs.programs.program import TAIL_BYTES, Program
from stackshift_jobs.retry import Retry
from stackshift_jobs.wire.peer import is_own_user, peer_uid
from stackshift_jobs.wire.script import MAX_CALL_BYTES, METHODS, STEP_VARIABLE
from stackshiftd.worker.scripts.folder import Folder, stdout_of

_READ_BYTES: Final = 1 << 16
_PATIENCE_SECONDS: Final = 5.0
"""How long a caller may take to say what it wants: it holds up all others."""
_NOT_RUN: Final = {
    "FileNotFoundError": 127,
    "PermissionError": 126,
    "OSError": 126,
    "TimeoutError": 124,
    "HeartbeatTimeout": 124,
}
"""The statuses of programs that did not come to their end, as shells and timeout(1) have them."""

Json = dict[str, Any]


class Calls:
    """A `stackshift_jobs.programs.program.Service` for the script of `ctx`'s run."""

    def __init__(self, ctx: JobContext[Any], folder: Folder) -> None:
        self._ctx = ctx
        self._pass = ctx._pass
        self._port = ctx._port
        self._folder = folder
        self._failure: BaseException | None = None
        """What the last call has raised, if it has."""
        self._status = 0
        """The exit status that the script was told for it."""

    @property
    def recorded(self) -> dict[str, RecordedCall]:
        """The calls on record, by identity."""
        return self._pass.recorded_calls

    @property
    def is_told(self) -> bool:
        """Was the script told that its run is being cancelled?"""
        return self._pass.is_told

    def failure_behind(self, exit_code: int) -> BaseException | None:
        """What made the script exit with `exit_code`: the failure of its last call, if it was told
        this status; else None."""
        self._catch_up()
        return self._failure if exit_code == self._status != 0 else None

    # --- For the program -------------------------------------------------------------------

    def attached(self, stdout: int) -> None:
        """See `Service.attached`."""
        self._folder.attach(stdout)

    def fileno(self) -> int:
        """See `Service.fileno`."""
        return self._folder.socket.fileno()

    def handle(self) -> None:
        """Answer one caller. Raises `Unwinding` if the pass ends with its call."""
        try:
            connection, _ = self._folder.socket.accept()
        except OSError:
            return
        with connection:
            connection.settimeout(_PATIENCE_SECONDS)
            descriptors: list[int] = []
            try:
                call = _received(connection, descriptors)
                if call is None or call.get("token") != self._folder.token:
                    return
                answer = self._answer(call, descriptors)
                with contextlib.suppress(OSError):  # It is gone; what it asked for is done.
                    connection.sendall(dumps(answer).encode() + b"\n")
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    # --- The calls -------------------------------------------------------------------------

    def _answer(self, call: Json, descriptors: list[int]) -> Json:
        self._failure, self._status = None, 0
        try:
            self._catch_up()
            kind = _KINDS.get(str(call.get("call")))
            if kind is None:
                raise Usage(f"a shell job has no call {call.get('call')!r}")
            return kind(self, call, descriptors)
        except StepFailed as failed:
            status = failed.exit_code or _NOT_RUN.get(failed.type, 1)
            self._failed(failed, 128 - status if status < 0 else status)
            problem = f"step {failed.step}: {failed.message}"
            return {"stdout": failed.stdout, "exit_code": self._status, "problem": problem}
        except Cancelling as cancelling:
            told = BeingCancelled(
                "the run is being cancelled", hint="what the script calls now is carried out"
            )
            self._failed(cancelling, told.exit_status)
            return {"error": told.as_json()}
        except StackshiftError as refused:
            self._failed(refused, refused.exit_status)
            return {"error": refused.as_json()}
        except (KeyError, TypeError, ValueError) as bad:
            wrong = Usage(f"the call {call.get('call')!r} is not understood: {bad!r}")
            self._failed(wrong, wrong.exit_status)
            return {"error": wrong.as_json()}

    def _failed(self, error: BaseException, status: int) -> None:
        self._failure, self._status = error, status

    def _catch_up(self) -> None:
        """Identify the steps that the wrapper has answered meanwhile."""
        for name in self._folder.answered():
            self._pass.identify(name, "run")
            self._failure, self._status = None, 0

    def _step(self, call: Json, descriptors: list[int]) -> Json:
        key = self._pass.identify(_text(call, "name"), "run")
        self._folder.made(key)
        program = Program(
            argv=tuple(_texts(call, "argv")),
            env={
                **call["env"],
                STEP_VARIABLE: key,
                "STACKSHIFT_STEP_KEY": self._ctx.step.key(key),
            },
            cwd=_text(call, "cwd"),
            stdin=descriptors[0] if descriptors else b"",
            timeout_ms=call.get("timeout_ms"),
            umask=call.get("umask"),
            is_whole_env=True,
        )
        retry = None
        if call.get("retry"):
            backoff_ms = call.get("backoff_ms")
            backoff = 1.0 if backoff_ms is None else backoff_ms / 1000
            retry = Retry(max_attempts=int(call["retry"]) + 1, backoff=backoff)
        made = steps.run_step(
            self._pass,
            key,
            _run,
            (program,),
            {},
            retry=retry,
            timeout_ms=None,
            clock=self._pass.clock.seconds,
            heartbeat=_heartbeat(call),
        )
        result = drive(made, self._port)
        answer = {"stdout": stdout_of(result), "exit_code": 0}
        if isinstance(result, dict) and result.get("cut"):
            answer["problem"] = (
                f"step {key}: only the last {TAIL_BYTES} bytes of its output are kept"
            )
        return answer

    def _sleep(self, call: Json, _descriptors: list[int]) -> Json:
        key = self._pass.identify(_text(call, "name"), "sleep")
        drive(steps.sleep(self._pass, key, int(call["delay_ms"]), None), self._port)
        return {"exit_code": 0}

    def _wait_event(self, call: Json, _descriptors: list[int]) -> Json:
        event = self._ctx.step.wait_for_any(
            [(_text(call, "event"), call.get("correlation_key"))],
            name=waits.name_of(_text(call, "event"), call.get("name")),
            timeout=None if call.get("timeout_ms") is None else call["timeout_ms"] / 1000,
            on_timeout=call.get("on_timeout") or "fail",
        )
        if event.timed_out:
            return {"event": None}
        received = event.received_at
        return {
            "event": {
                "id": event.id,
                "name": event.name,
                "correlation_key": event.correlation_key,
                "payload": event.payload,
                "received_at": received.isoformat() if received is not None else None,
            }
        }

    def _method(self, call: Json, _descriptors: list[int]) -> Json:
        """A method of the protocol, with its params, as a client calls it."""
        method, params = _text(call, "method"), dict(call["params"])
        if method == "run.start":
            return {"result": self._start(params, wait=False)}
        about = METHODS.get(method)
        if about is None:
            raise Usage(f"{method} cannot be called by the script of a job: call it in a step")
        subject = str(params.get(about, ""))
        key = self._pass.identify_call(method, subject)
        return {"result": drive(ask(self._pass, key, (method, params)), self._port)}

    def _call_job(self, call: Json, _descriptors: list[int]) -> Json:
        """Start a run and wait for its end."""
        try:
            return {"result": self._start(dict(call["params"]), wait=True)}
        except ChildFailed as failed:
            self._failed(failed, 7 if failed.status == "cancelled" else 1)
            return {"child": failed.run_id, "status": failed.status, "error": failed.error}

    def _start(self, params: Json, *, wait: bool) -> Any:
        job, payload = str(params.pop("job")), params.pop("payload", None)
        params.pop("full", None)
        for name in ("delay", "idempotency_ttl"):
            if (ms := params.pop(f"{name}_ms", None)) is not None:
                params[name] = ms / 1000
        options = cast(StartOptions, params)  # What is none is refused by the start.
        if wait:
            return self._ctx.step.call(job, payload, **options)
        child = self._ctx.step.start(job, payload, **options)
        return {"id": child, "reused": False, "status": None, "run": {"id": child}}


_KINDS: Final[dict[str, Callable[[Calls, Json, list[int]], Json]]] = {
    "step": Calls._step,
    "sleep": Calls._sleep,
    "wait-event": Calls._wait_event,
    "method": Calls._method,
    "call": Calls._call_job,
}


def _heartbeat(call: Json) -> Heartbeat | None:
    ms = call.get("heartbeat_ms")
    return None if ms is None else Heartbeat(int(ms), bool(call.get("output_beats")))


def _run(program: Program) -> Json:
    """The function of a step: its standard output is the result, the rest is in the log."""
    try:
        result = run_command(program, check=True)
    except CommandFailed as failed:
        failed.keeps_output = True
        raise
    done: Json = {"exit_code": 0, "stdout": result["stdout"]}
    if len(result["stdout"].encode()) >= TAIL_BYTES:
        done["cut"] = True
    return done


def _received(connection: socket.socket, descriptors: list[int]) -> Json | None:
    """The call that comes over `connection`; its descriptors are appended. None for none."""
    try:
        if not is_own_user(peer_uid(connection)):
            return None
        data = b""
        while not data.endswith(b"\n"):
            part, ancillary, _, _ = connection.recvmsg(_READ_BYTES, socket.CMSG_SPACE(4))
            for level, kind, sent in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    numbers = array.array("i")
                    numbers.frombytes(sent[: len(sent) - len(sent) % numbers.itemsize])
                    descriptors += numbers
            data += part
            if not part or len(data) > MAX_CALL_BYTES:
                return None
        call = loads(data)
    except (OSError, ValueError):
        return None
    return call if isinstance(call, dict) else None


def _text(call: Json, name: str) -> str:
    value = call.get(name)
    if not isinstance(value, str):
        raise Usage(f"the call {call.get('call')!r} has no {name}")
    return value


def _texts(call: Json, name: str) -> list[str]:
    value = call.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(w, str) for w in value):
        raise Usage(f"the call {call.get('call')!r} has no {name}")
    return value
