"""A program from its start until nothing of it is left."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.processes import alive
from helpers.tools import DEAF, python, ready
from sdk.programs.conftest import pid_in
from stackshift_jobs.programs.ending import Remains
from stackshift_jobs.programs.processes import Mark, ProcessGroup
from stackshift_jobs.programs.program import TAIL_BYTES, Outcome, Program, run
from stackshift_jobs.programs.supervisor import PLAIN, Stop


class Watch:
    """A supervisor that notes what it is told."""

    def __init__(self, mark: Mark | None = None, grace_seconds: float = SECONDS) -> None:
        self.grace_seconds = grace_seconds
        self.mark = mark
        self.groups: list[ProcessGroup] = []
        self.output: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.refusal: BaseException | None = None
        self.ended_count = 0

    def admit(self, _stop: Stop) -> Mark | None:
        if self.refusal is not None:
            raise self.refusal
        return self.mark

    def variables(self, _stop: Stop) -> dict[str, str]:
        return {}

    def started(self, group: ProcessGroup) -> None:
        self.groups.append(group)

    def wrote(self, _stop: Stop, stream: str, data: bytes) -> None:
        self.output[stream] += data

    def ended(self, _stop: Stop) -> None:
        self.ended_count += 1


class Background:
    """A program that runs on a thread of its own."""

    def __init__(self, program: Program, watch: Watch) -> None:
        self.stop = Stop()
        self.result: Any = None
        self._thread = threading.Thread(target=self._work, args=(program, watch))
        self._thread.start()

    def _work(self, program: Program, watch: Watch) -> None:
        try:
            self.result = run(program, watch, self.stop)
        except BaseException as error:
            self.result = error

    def join(self) -> Any:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the program does not end"
        return self.result


def ran(code: str, watch: Watch | None = None, **options: Any) -> Outcome:
    """The outcome of a program that runs `code`."""
    return run(Program(tuple(python(code)), **options), watch or Watch(), Stop())


def test_program_leads_a_group_of_its_own_and_is_reported() -> None:
    """By the id and the start of its leader, before it has ended."""
    watch = Watch()
    outcome = ran("print(os.getpid(), os.getpgid(0), os.getsid(0))", watch)
    [group] = watch.groups
    assert outcome.stdout.split() == [b"%d" % group.id] * 3
    assert group.started
    assert watch.ended_count == 1


def test_output_is_passed_on_as_it_comes(tmp_path: Path) -> None:
    """It is there while the program runs, and each stream under its name."""
    gate = tmp_path / "gate"
    code = (
        "print('out', flush=True); print('err', file=sys.stderr, flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.005)\n"
        "print('last', end='')"
    )
    watch = Watch()
    program = Background(Program(tuple(python(code))), watch)
    wait_until(lambda: watch.output == {"stdout": b"out\n", "stderr": b"err\n"}, "output")
    gate.touch()
    assert program.join() == Outcome(0, b"out\nlast", b"err\n")
    assert watch.output["stdout"] == b"out\nlast"


def test_all_of_a_long_output_is_passed_on_and_its_end_kept() -> None:
    """More than any pipe holds, on both streams."""
    size = 3 << 20
    watch = Watch()
    outcome = ran(
        f"sys.stderr.write('e' * {size} + '!'); sys.stdout.write('o' * {size} + '!')", watch
    )
    assert [len(outcome.stdout), len(outcome.stderr)] == [TAIL_BYTES, TAIL_BYTES]
    assert (outcome.stdout[-2:], outcome.stderr[-2:]) == (b"o!", b"e!")
    assert {name: len(text) for name, text in watch.output.items()} == {
        "stdout": size + 1,
        "stderr": size + 1,
    }


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long output does not fill the folder of temporary files."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    ran("print('x' * 200_000)")
    assert list(tmp_path.iterdir()) == []


def test_standard_input_is_given_whole_or_left_unread() -> None:
    """Also if it is more than a pipe holds, and if the program does not care."""
    text = b"x" * (3 << 20)
    counted = ran("print(len(sys.stdin.buffer.read()))", stdin=text)
    assert int(counted.stdout) == len(text)
    assert ran("print('done')", stdin=text).stdout == b"done\n"
    assert ran("print(len(sys.stdin.buffer.read()))").stdout == b"0\n"


def test_program_runs_where_it_is_told_with_default_signals(tmp_path: Path) -> None:
    """What this process ignores, it does not."""
    code = "print(os.getcwd()); print(signal.getsignal(signal.SIGTERM).name)"
    outcome = ran(code, cwd=str(tmp_path))
    assert outcome.stdout.decode().split() == [str(tmp_path.resolve()), "SIG_DFL"]


def test_background_process_that_keeps_a_pipe_is_not_waited_for(
    tmp_path: Path, leftovers: list[int]
) -> None:
    """It is ended with the program; what it wrote before is read."""
    at = tmp_path / "child"
    child = python(f"print('child', flush=True)\n{ready(at)}\ntime.sleep(600)")
    code = (
        f"subprocess.Popen({child!r})\n"
        f"while not os.path.exists({str(at)!r}): time.sleep(0.005)\n"
        "print('parent')"
    )
    outcome = ran(code)
    leftovers.append(pid_in(at))
    assert outcome == Outcome(0, b"child\nparent\n", b"")
    assert not alive(leftovers[0])


def test_background_process_that_ignores_term_is_killed(
    tmp_path: Path, leftovers: list[int]
) -> None:
    """The grace is for the program; what it leaves behind has a second."""
    at = tmp_path / "child"
    child = python(f"{DEAF}\n{ready(at)}\ntime.sleep(600)")
    code = f"subprocess.Popen({child!r})\nwhile not os.path.exists({str(at)!r}): time.sleep(0.005)"
    assert ran(code, Watch(grace_seconds=2 * SECONDS)).exit_code == 0
    leftovers.append(pid_in(at))
    assert not alive(leftovers[0])


def test_process_that_left_the_group_is_found_by_its_mark(
    tmp_path: Path, leftovers: list[int]
) -> None:
    """Where the system shows marks; elsewhere it is lost."""
    at = tmp_path / "child"
    child = python(f"{ready(at)}\ntime.sleep(600)")
    code = (
        f"subprocess.Popen({child!r}, start_new_session=True)\n"
        f"while not os.path.exists({str(at)!r}): time.sleep(0.005)"
    )
    ran(code, Watch(Mark("STACKSHIFT_TEST", f"left-{os.getpid()}")))
    leftovers.append(pid_in(at))
    assert alive(leftovers[0]) == (sys.platform != "linux")


@pytest.mark.parametrize("code", ["", DEAF], ids=["polite", "deaf"])
def test_stop_ends_the_program_and_raises_its_reason(
    tmp_path: Path, code: str, leftovers: list[int]
) -> None:
    """With all that it has started, by force after the grace."""
    at = tmp_path / "child"
    child = python(f"{code}\n{ready(at)}\ntime.sleep(600)")
    watch = Watch(grace_seconds=0.2)
    program = Background(
        Program(tuple(python(f"{code}\nsubprocess.Popen({child!r})\ntime.sleep(600)"))), watch
    )
    leftovers.append(pid_in(at))
    reason = KeyError("no longer needed")
    program.stop.request(reason)
    program.stop.request(ValueError("the second reason does not count"))
    assert program.join() is reason
    assert not alive(leftovers[0])
    assert not watch.groups[0].is_led
    program.stop.request(reason)  # Which then does nothing.


def test_program_that_had_ended_before_the_stop_keeps_its_outcome(tmp_path: Path) -> None:
    """It has done all its work; only what it left behind is still being ended."""
    at = tmp_path / "child"
    child = python(f"{DEAF}\n{ready(at)}\ntime.sleep(600)")
    code = f"subprocess.Popen({child!r})\nwhile not os.path.exists({str(at)!r}): time.sleep(0.005)"
    watch = Watch()
    program = Background(Program(tuple(python(code))), watch)
    wait_until(lambda: watch.groups and not watch.groups[0].is_led, "the program to end")
    program.stop.request(KeyError("too late"))
    assert program.join() == Outcome(0, b"", b"")


def test_timeout_ends_a_program_that_ignores_term_by_force() -> None:
    """After the grace."""
    watch = Watch(grace_seconds=0.1)
    with pytest.raises(TimeoutError, match="ran longer than 50ms"):
        ran(f"{DEAF}\ntime.sleep(600)", watch, timeout_ms=50)
    assert not watch.groups[0].is_led


def test_program_killed_by_a_signal_says_so() -> None:
    """As a negative exit status."""
    assert ran("os.kill(os.getpid(), signal.SIGKILL)").exit_code == -signal.SIGKILL


def test_program_that_cannot_be_started_leaves_nothing_open() -> None:
    """The descriptors that were opened for it are closed, and the supervisor knows."""
    watch = Watch()
    before = sorted(os.listdir("/dev/fd"))  # noqa: PTH208  # names alone
    with pytest.raises(FileNotFoundError):
        run(Program(("/no/such/program",)), watch, Stop())
    assert sorted(os.listdir("/dev/fd")) == before  # noqa: PTH208
    assert watch.groups == []
    assert watch.ended_count == 1


def test_script_whose_interpreter_is_missing_is_not_said_to_be_missing(tmp_path: Path) -> None:
    """The system's error names the script, which is there."""
    script = tmp_path / "backup"
    script.write_text("#!/no/such/sh -e\ntrue\n")
    script.chmod(0o755)
    for program in (Program((str(script),)), Program(("./backup",), cwd=str(tmp_path))):
        with pytest.raises(FileNotFoundError, match=r"does not exist: #!/no/such/sh -e$"):
            run(program, Watch(), Stop())


def test_script_that_names_no_interpreter_says_what_to_write(tmp_path: Path) -> None:
    """A shell would run it itself, and the system calls it an "Exec format error"."""
    script = tmp_path / "backup"
    script.write_text("true\n")
    script.chmod(0o755)
    told = r"^'./backup' is not a program .* has no #! line: .* run it as sh ./backup$"
    with pytest.raises(OSError, match=told):
        run(Program(("./backup",), cwd=str(tmp_path)), Watch(), Stop())


def test_program_that_is_not_found_says_where_it_was_looked_for() -> None:
    """Jobs have a PATH of their own; a path or a missing directory is named as it is."""
    with pytest.raises(
        FileNotFoundError, match=r"'no-such-tool' not found in PATH, which \[workers\] path sets"
    ):
        run(Program(("no-such-tool",)), Watch(), Stop())
    for program in (Program(("/no/such-tool",)), Program(("true",), cwd="/no/such")):
        with pytest.raises(FileNotFoundError, match=r"No such file or directory: '/no/such"):
            run(program, Watch(), Stop())


def test_refused_program_is_not_started(tmp_path: Path) -> None:
    """The supervisor's error is raised instead."""
    watch = Watch()
    watch.refusal = KeyError("stopping")
    at = tmp_path / "at"
    with pytest.raises(KeyError):
        ran(ready(at), watch)
    assert not at.exists()
    assert watch.ended_count == 1


def test_error_of_the_supervisor_does_not_leave_the_program_behind() -> None:
    """Whatever is raised while it runs, it is ended first."""

    class Broken(Watch):
        def wrote(self, _stop: Stop, _stream: str, _data: bytes) -> None:
            raise RuntimeError("no log")

    watch = Broken()
    with pytest.raises(RuntimeError):
        ran(f"{DEAF}\nprint('x', flush=True)\ntime.sleep(600)", watch)
    assert not watch.groups[0].is_led


def test_program_is_killed_if_processes_cannot_be_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its group is known without looking; the error is raised after that."""
    watch = Watch()

    def fails(_remains: Remains) -> set[int]:
        raise OSError("too many open files")

    monkeypatch.setattr(Remains, "find", fails)
    with pytest.raises(OSError, match="too many open files"):
        ran(f"{DEAF}\ntime.sleep(600)", watch, timeout_ms=50)
    assert not watch.groups[0].is_led


def test_without_a_worker_there_is_a_plain_supervisor() -> None:
    """A function that starts programs can be called by a test."""
    assert run(Program(tuple(python("print(1)"))), PLAIN, Stop()) == Outcome(0, b"1\n", b"")
