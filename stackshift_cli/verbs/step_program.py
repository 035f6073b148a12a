"""`checkpoint` and `heartbeat`: what the program of a step says to the worker that runs it."""

from __future__ import annotations

import json
import os
import socket
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.start_params import value_given
from stackshift_cli.output import messages
from stackshift_jobs.errors import Conflict, NotFound, Usage, from_json
from stackshift_jobs.wire.folder_socket import socket_address
from stackshift_jobs.wire.script import SCRIPT_VARIABLE
from stackshift_jobs.wire.step_program import CALLS_VARIABLE, TRY_TOKEN_VARIABLE

_SECONDS: Final = 600.0
"""How long an answer may take: a disk that is full holds up a checkpoint."""

Json = dict[str, Any]


def checkpoint(session: Session, given: Given) -> int:
    """`checkpoint VALUE`: record how far the step has come, and return when that is durable, or put
    off. `checkpoint`: print the last one; 4 if there is none."""
    text = given.text("value")
    if text is None:
        if given.flag("flush"):
            raise Usage("--flush requires a value", hint="stackshift checkpoint VALUE --flush")
        last = _answer_to({"call": "last"}, "checkpoint")["last"]
        if last is None:
            raise NotFound("this step has no checkpoint yet")
        raw = given.flag("raw") and isinstance(last, str)
        messages.data(last if raw else messages.compact(last))
        return 0
    call = {"call": "checkpoint", "value": value_given(text)[0], "flush": given.flag("flush")}
    answer = _answer_to(call, "checkpoint")
    if session.json:
        messages.data(messages.compact(answer))
    return 0


def heartbeat(_session: Session, _given: Given) -> int:
    """`heartbeat`: say that the step is alive."""
    _answer_to({"call": "heartbeat"}, "heartbeat")
    return 0


def _answer_to(call: Json, verb: str) -> Json:
    folder = os.environ.get(CALLS_VARIABLE)
    if folder is None:
        in_script = SCRIPT_VARIABLE in os.environ
        raise Usage(
            f"{verb} is for the programs of steps, and this is none",
            hint="stackshift step NAME -- COMMAND runs a program as a step of this script"
            if in_script
            else "stackshift exec -- COMMAND runs a program as one, and so does ctx.step.command",
        )
    line = json.dumps({"token": os.environ.get(TRY_TOKEN_VARIABLE, ""), **call}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            with socket_address(folder) as address:
                connection.connect(address)
            connection.sendall(line)
            with connection.makefile("rb") as reader:
                said = reader.readline()
    except OSError:
        said = b""
    if not said.endswith(b"\n"):
        raise Conflict(
            "this try of the step is over, so nothing more of it counts",
            hint="it was cancelled, or its time is up: end the program",
        )
    answer: Json = json.loads(said)
    if "error" in answer:
        raise from_json(answer["error"])
    return answer
