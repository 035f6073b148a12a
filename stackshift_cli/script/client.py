"""Asks the worker that runs our script to carry out a call; see `stackshift_jobs.wire.script`.

Where no answer comes, the execution is over: the script is being ended, or was left behind by a
worker that died. Then this waits for the signal that ends it as well, and does not return: the
script must not go on to its next command.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from typing import Any, Final, NoReturn

from stackshift_jobs.errors import DaemonUnavailable, Usage, from_json
from stackshift_jobs.wire.folder_socket import socket_address
from stackshift_jobs.wire.script import (
    SCRIPT_VARIABLE,
    STEP_VARIABLE,
    TOKEN_VARIABLE,
)

_LAST_SECONDS: Final = 60.0
"""How long it takes at the most until a script that was left behind is ended."""

Json = dict[str, Any]


def require_script(verb: str) -> None:
    """Raise `Usage` unless we were called by the script of a shell job, outside of its steps."""
    if (step := os.environ.get(STEP_VARIABLE)) is not None:
        raise Usage(
            f"{verb} was called inside step {step!r}",
            hint="a step is recorded as a whole: call it in the script",
        )
    if SCRIPT_VARIABLE not in os.environ:
        raise Usage(
            f"{verb} is for the scripts of shell jobs, and this is none",
            hint="stackshift start NAME runs the script with the comment `# stackshift: job NAME`",
        )


def answer_to(call: Json, *, passes_stdin: bool = False) -> Json:
    """The answer to `call`, once it is durable; with `passes_stdin` our standard input goes to the
    program that it runs. Raises the error with which it is refused."""
    folder = os.environ[SCRIPT_VARIABLE]
    line = json.dumps({"token": os.environ.get(TOKEN_VARIABLE, ""), **call}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            with socket_address(folder) as address:
                connection.connect(address)
            _send(connection, line, passes_stdin)
            with connection.makefile("rb") as reader:
                said = reader.readline()
    except OSError:
        said = b""
    if not said.endswith(b"\n"):
        _wait_for_the_end()
    answer: Json = json.loads(said)
    if "error" in answer and "child" not in answer:
        raise from_json(answer["error"])
    return answer


def call_method(method: str, params: Json) -> Any:
    """The result of a method of the protocol, as one call of the script."""
    return answer_to({"call": "method", "method": method, "params": params})["result"]


def is_script_output() -> bool:
    """Is our standard output that of the script itself? What a step prints is in the run's log
    already, and would be there twice."""
    try:
        ours = os.fstat(1)
        scripts = os.stat(f"{os.environ[SCRIPT_VARIABLE]}/stdout")  # noqa: PTH116
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (scripts.st_dev, scripts.st_ino)


def _send(connection: socket.socket, line: bytes, passes_stdin: bool) -> None:
    if not passes_stdin:
        connection.sendall(line)
        return
    sent = socket.send_fds(connection, [line], [0])
    if rest := line[sent:]:  # To send nothing fails where the answer was given meanwhile.
        connection.sendall(rest)


def _wait_for_the_end() -> NoReturn:
    sys.stdout.flush()
    time.sleep(_LAST_SECONDS)
    raise DaemonUnavailable(
        "the execution of this script is over, and nothing has ended it", hint="end it by hand"
    )
