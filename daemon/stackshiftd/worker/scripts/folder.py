"""The private folder of one execution of a shell job, by which script and worker know each other.

    bin/stackshift      what the script calls
    payload.json        the run's payload
    calls               the socket on which the worker does what the script asks for
    recorded/NAME#N     the answer to the N-th call of a step that was on record when this began
    made/NAME#N         that this call was made, in this execution
    answered            the calls that were answered from `recorded`, in their order
    stdout              leads to the pipe that the script prints into

The wrapper in `bin` answers from `recorded` without asking anybody; `answered` tells the worker of
it. A folder belongs to one execution: the stray script of a lost one finds nobody at its socket,
and changes nothing but files that nobody reads.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from json import dump, dumps, loads
from pathlib import Path
from typing import Any, Final

from stackshift_jobs.handler.ops import RecordedCall
from stackshift_jobs.project.discovery import MAX_SOCKET_BYTES
from stackshift_jobs.values.secrets import Secret
from stackshift_jobs.wire.folder_socket import SOCKET, socket_address
from stackshift_jobs.wire.script import (
    DATA_DIR_VARIABLE,
    PROJECT_VARIABLE,
    SCRIPT_VARIABLE,
    STDOUT,
    TOKEN_VARIABLE,
)

ATTEMPTS: Final = "attempts"
"""The folder in the data directory that has those of all executions."""
_WRAPPER: Final = (Path(__file__).parent / "wrapper.sh").read_text()
_PLAIN: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,99})(?:#([0-9]+))?")
"""Names of steps that can be names of files, and that the wrapper takes."""


class Home:
    """Where the project is, and where its data goes; a test has neither."""

    project = ""
    data_dir = ""
    is_far = False
    """Is the daemon on another machine? Then no client here reaches it, and none may start one."""


class Folder:
    """A new folder for the execution `execution` of the run `run`; a context that removes it."""

    def __init__(self, run: str) -> None:
        self.path = _of_run(run)
        self.token = secrets.token_hex(16)
        self._read = 0
        try:
            for name in ("bin", "recorded", "made"):
                (self.path / name).mkdir(0o700)
            wrapper = self.path / "bin" / "stackshift"
            wrapper.write_text(_WRAPPER)
            wrapper.chmod(0o700)
            (self.path / "answered").touch(0o600)
            self.socket = listening_in(self.path)
            self.socket.setblocking(False)
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_raised: object) -> None:
        self.socket.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def write_payload(self, payload: Any) -> Path:
        """Write the payload, as JSON, for the script to read."""
        path = self.path / "payload.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            dump(payload, file, default=_revealed)
            file.write("\n")
        return path

    def record(self, calls: dict[str, RecordedCall]) -> None:
        """Write the answers to the steps that `calls` has."""
        for key, known in calls.items():
            named = _PLAIN.fullmatch(key)
            if named is None or known.kind != "run" or known.phase != "completed":
                continue
            stdout = stdout_of(loads(known.body or b"null"))
            if "\0" in stdout:  # No shell can print that.
                continue
            printed = f"printf %s {shlex.quote(stdout)}" if stdout else ":"
            name = f"{named[1]}#{named[2] or 1}"
            # Not to the log again, where it is already.
            unless = f'[ /proc/self/fd/1 -ef "$dir/{STDOUT}" ] || '
            (self.path / "recorded" / name).write_text(f"{unless}{printed}\n")

    def made(self, key: str) -> None:
        """Note that the script has made the call `key` otherwise than by the wrapper."""
        named = _PLAIN.fullmatch(key)
        if named is not None:
            (self.path / "made" / f"{named[1]}#{named[2] or 1}").touch()

    def answered(self) -> list[str]:
        """The names of the steps that the wrapper has answered since this was last asked, in their
        order."""
        lines = (self.path / "answered").read_text().splitlines()
        new, self._read = lines[self._read :], len(lines)
        return [line.rpartition("#")[0] for line in new]

    def attach(self, stdout: int) -> None:
        """Let the script's own standard output be recognised, where there is a `/proc`: what a step
        prints is in the log, and need not go there again. `stdout` is the pipe's other end."""
        with suppress(OSError):
            (self.path / STDOUT).symlink_to(f"/proc/{os.getpid()}/fd/{stdout}")

    def variables(self, path: str) -> dict[str, str]:
        """The variables by which the script finds all this, beside the programs in `path`."""
        found = {
            SCRIPT_VARIABLE: str(self.path),
            TOKEN_VARIABLE: self.token,
            "STACKSHIFT_PYTHON": sys.executable,
            "PATH": f"{self.path / 'bin'}{os.pathsep}{path}",
        }
        if Home.is_far:
            found["STACKSHIFT_NO_START"] = "1"
        elif Home.project:
            found |= {PROJECT_VARIABLE: Home.project, DATA_DIR_VARIABLE: Home.data_dir}
        return found


def stdout_of(result: Any) -> str:
    """What a step with this result has printed. The result may be one that a person has set."""
    if isinstance(result, dict) and isinstance(result.get("stdout"), str):
        return str(result["stdout"])
    return result if isinstance(result, str) else dumps(result) + "\n"


def remove_all(data_dir: Path) -> None:
    """Remove the folders of executions that were killed."""
    shutil.rmtree(data_dir / ATTEMPTS, ignore_errors=True)


def _of_run(run: str) -> Path:
    """A new folder for an execution of `run`. What one that was killed has left is removed: there
    are never two of one run."""
    if Home.data_dir:
        for left in Path(Home.data_dir, ATTEMPTS).glob(f"{run}.*"):
            shutil.rmtree(left, ignore_errors=True)
    return private_folder(run)


def is_of_dead(path: Path) -> bool:
    """Was the folder, called `NAME-PID.…`, made by a process that has ended?"""
    pid = path.name.partition(".")[0].rpartition("-")[2]
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError):
        return False
    return False


def private_folder(name: str) -> Path:
    """A new private folder in the data directory, or where the path of a socket in it would be too
    long, in that for temporary files. Its name begins with `name`."""
    if Home.data_dir:
        parent = Path(Home.data_dir, ATTEMPTS)
        path = parent / f"{name}.{secrets.token_hex(4)}"
        if sys.platform == "linux" or len(os.fsencode(path / SOCKET)) <= MAX_SOCKET_BYTES:
            parent.mkdir(0o700, parents=True, exist_ok=True)
            path.mkdir(0o700)
            return path
    return Path(tempfile.mkdtemp(prefix="stackshift-"))


def listening_in(folder: Path) -> socket.socket:
    """A socket in the private `folder` that takes calls. Raises `OSError`."""
    made = socket.socket(socket.AF_UNIX)
    try:
        if sys.platform == "linux":
            # It is bound with this mode, whatever the umask, which belongs to the handlers.
            os.fchmod(made.fileno(), 0o600)
        with socket_address(str(folder)) as address:
            made.bind(address)
        made.listen(128)
    except BaseException:
        made.close()
        raise
    return made


def _revealed(value: object) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} is not JSON")
