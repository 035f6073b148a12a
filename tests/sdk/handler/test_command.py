"""`step.command`: a program as a step, in a process group of its own. What becomes of a program is
tested with `programs`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.deadline import until
from sdk.handler.passes import Ended, Record, play, play_either
from stackshift_jobs import CommandFailed, JobContext, StepFailed, Usage
from stackshift_jobs.handler.command import CommandResult, program_of, run_command_awaited
from stackshift_jobs.programs.program import TAIL_BYTES

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


def test_timeout_ends_the_program() -> None:
    """The step fails with a message that says how long it was given."""
    failed = ran("import time; time.sleep(600)", timeout="100ms").error
    assert isinstance(failed, StepFailed)
    assert failed.type == "TimeoutError"
    assert "100ms" in failed.message


def test_standard_input_is_text_or_bytes() -> None:
    """Text is given as UTF-8."""
    code = "import sys; print(sys.stdin.buffer.read())"
    assert ran(code, stdin="é").value["stdout"] == "b'\\xc3\\xa9'\n"
    assert ran(code, stdin=b"\xff").value["stdout"] == "b'\\xff'\n"


def test_working_directory_can_be_chosen(tmp_path: Path) -> None:
    """As text or as a path; the words of the command may be paths too."""
    script = tmp_path / "where"
    script.write_text("#!/bin/sh\npwd\n")
    script.chmod(0o700)
    record = Record()
    for name, cwd in (("text", str(tmp_path)), ("path", tmp_path)):
        ended = play(lambda ctx, n=name, c=cwd: ctx.step.command(n, [script], cwd=c), record)  # type: ignore[misc]
        assert ended.value["stdout"].strip() == str(tmp_path.resolve())


@pytest.mark.parametrize(
    ("argv", "options", "message"),
    [
        ("ls -l", {}, "list of a program and its arguments"),
        (b"ls", {}, "list of a program and its arguments"),
        (["sleep", 1], {}, "text or paths, not 1 in ['sleep', 1]"),
        ([], {}, "at least the name of a program"),
        (["env"], {"env": {"N": 1}}, "the variable N in env is not text"),
        (["cat"], {"stdin": 1}, "stdin is text or bytes, not int"),
    ],
    ids=["text", "bytes", "number", "nothing", "variable", "stdin"],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_is_not_a_command_is_refused(
    kind: str, argv: Any, options: dict[str, Any], message: str
) -> None:
    """At once and for good, with what is wrong: trying again would not help."""
    record = Record()
    ended = play_either(kind, lambda ctx: ctx.step.command("tool", argv, **options), record)
    assert isinstance(ended.error, Usage)
    assert message in ended.error.message
    assert record.calls() == []


def test_awaited_program_does_not_block_the_loop(tmp_path: Path) -> None:
    """Others of its loop go on while it runs; so this one is let go on by another."""
    gate = tmp_path / "gate"
    waits = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.005)"
    program = program_of(python(waits), None, None, None, None)

    async def both() -> CommandResult:
        async def open_gate() -> None:
            gate.touch()

        result, _ = await asyncio.gather(run_command_awaited(program, True), open_gate())
        return result

    assert asyncio.run(both()) == {"exit_code": 0, "stdout": "", "stderr": ""}


def test_awaited_program_raises_what_the_blocking_one_does() -> None:
    """`CommandFailed`, and the error of a program that cannot be started."""
    failing = program_of(python("import sys; sys.exit(3)"), None, None, None, None)
    with pytest.raises(CommandFailed, match="exited with 3"):
        asyncio.run(run_command_awaited(failing, True))
    assert asyncio.run(run_command_awaited(failing, False))["exit_code"] == 3
    with pytest.raises(FileNotFoundError):
        asyncio.run(
            run_command_awaited(program_of(["/no/such/program"], None, None, None, None), True)
        )


def test_cancelled_task_leaves_when_its_program_has_ended(tmp_path: Path) -> None:
    """A program that takes its time to clean up is waited for, however often the task is
    cancelled; nothing of it then runs beside whatever comes next."""
    told = tmp_path / "told"
    code = (
        "import os, pathlib, signal, sys, time\n"
        f"told = pathlib.Path({str(told)!r})\n"
        "def clean(*_):\n"
        "    with told.open('a') as file: file.write('TERM\\n')\n"
        "    while not told.with_suffix('.go').exists(): time.sleep(0.005)\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, clean)\n"
        "told.with_suffix('.pid').write_text(str(os.getpid()))\n"
        "time.sleep(600)"
    )
    program = program_of(python(code), None, None, None, None)

    async def cancel() -> None:
        task = asyncio.create_task(run_command_awaited(program, True))
        await until(told.with_suffix(".pid").exists, "the program to begin")
        task.cancel()
        await until(told.exists, "TERM to arrive")
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        told.with_suffix(".go").touch()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert told.read_text() == "TERM\n"
