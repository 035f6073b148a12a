"""`step.command`: a program as a step, in a process group of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sdk.handler.passes import Ended, Record, play
from stackshift_jobs import CommandFailed, JobContext, StepFailed
from stackshift_jobs.handler.command import TAIL_BYTES

Context = JobContext[Any]


def python(code: str) -> list[str]:
    """The command that runs `code` with the interpreter of the tests."""
    return [sys.executable, "-c", code]


def ran(code: str, record: Record | None = None, **options: Any) -> Ended:
    """One pass of a handler that runs `code` as the command step `tool`."""
    return play(lambda ctx: ctx.step.command("tool", python(code), **options), record or Record())


def test_program_is_run_once_and_its_outcome_recorded() -> None:
    """The exit code and both streams are the same on every pass."""
    record = Record()
    code = "import sys; print('out'); print('err', file=sys.stderr)"
    expected = Ended({"exit_code": 0, "stdout": "out\n", "stderr": "err\n"})
    assert ran(code, record) == ran(code, record) == expected
    assert record.calls() == ["tool"]


def test_status_other_than_zero_fails_the_step_unless_it_is_not_checked() -> None:
    """The error contains what the program wrote."""
    code = "import sys; print('no such picture', file=sys.stderr); sys.exit(3)"
    failed = ran(code).error
    assert isinstance(failed, StepFailed)
    assert failed.type == "CommandFailed"
    assert "no such picture" in failed.message
    assert isinstance(failed.__cause__, CommandFailed)
    assert (failed.__cause__.exit_code, failed.__cause__.stderr) == (3, "no such picture\n")
    assert ran(code, check=False).value["exit_code"] == 3


def test_missing_program_fails_the_step() -> None:
    """The step fails with the system's error."""
    failed = play(lambda ctx: ctx.step.command("tool", ["/no/such/program"]), Record()).error
    assert isinstance(failed, StepFailed)
    assert failed.type == "FileNotFoundError"


def test_environment_is_added_to() -> None:
    """The variables that exist stay."""
    code = "import os; print(os.environ['ADDED'], 'PATH' in os.environ)"
    assert ran(code, env={"ADDED": "yes"}).value["stdout"] == "yes True\n"


def test_program_cannot_read_our_standard_input() -> None:
    """Its standard input is empty."""
    assert ran("import sys; print(repr(sys.stdin.read()))").value["stdout"] == "''\n"


def test_only_the_end_of_a_long_output_is_kept() -> None:
    """The end is where programs say what went wrong."""
    code = f"print('begin' + 'x' * {2 * TAIL_BYTES} + 'end')"
    told = ran(code).value["stdout"]
    assert len(told) == TAIL_BYTES
    assert told.endswith("end\n")


def test_output_that_is_not_text_is_still_returned() -> None:
    """Bytes that are not UTF-8 are replaced, so that JSON can hold the text."""
    code = "import sys; sys.stdout.buffer.write(b'a\\xffb')"
    assert ran(code).value["stdout"] == "a\ufffdb"


def test_timeout_kills_the_whole_group(tmp_path: Path) -> None:
    """So programs that it has started itself do not continue."""
    told = tmp_path / "grandchild"
    script = f"sleep 600 & echo $! > {told}.new; mv {told}.new {told}; wait"
    failed = play(
        lambda ctx: ctx.step.command("tool", ["sh", "-c", script], timeout="1s"), Record()
    ).error
    assert isinstance(failed, StepFailed)
    assert failed.type == "TimeoutError"
    assert "1000 ms" in failed.message
    pid = int(told.read_text())
    try:
        await_end(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def await_end(pid: int) -> None:
    """Wait, with a deadline, until the process is gone or a zombie that nobody waits for."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} outlived the timeout")
