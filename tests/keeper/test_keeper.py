"""The keeper as a daemon sees it: what it says on its pipe, and how it ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.processes import alive, wait_gone
from helpers.project import environment
from stackshiftd.core.records import NULL
from stackshiftd.keeper.code_store import MAX_BYTES
from stackshiftd.worker.frames import CallRecorded, Execute, Frame, Hello, encode
from stackshiftd.worker.host_frames import (
    HOST_PROTOCOL,
    Close,
    CodePart,
    Open,
    Pulse,
)

SILENCE_SECONDS: Final = 4.0
"""How long a keeper waits that is to stand still for longer, and not before."""


class Far:
    """A keeper in a process, and the daemon's end of its pipe."""

    def __init__(self, cache: Path, *more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "stackshiftd.worker", "--stdio", *more],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() | {"XDG_CACHE_HOME": str(cache)},
        )

    def say(self, *frames: Frame) -> None:
        """Send frames."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"".join(encode(frame) + b"\n" for frame in frames))
        self.process.stdin.flush()

    def hear(self, kind: str) -> dict[str, Any]:
        """The next frame of this kind; others are passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            frame: dict[str, Any] = msgspec.json.decode(line)
            if frame["type"] == kind:
                return frame
        raise AssertionError(f"no {kind}: {self.ended()}")

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it has said of that."""
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        return self.process.wait(SECONDS), said

    def hang_up(self) -> None:
        """Close the daemon's end."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@contextmanager
def started(cache: Path, *more: str) -> Iterator[Far]:
    """A keeper that has heard nothing yet, with `more` arguments."""
    made = Far(cache, *more)
    yield made
    made.process.kill()
    made.process.wait()
    for stream in (made.process.stdin, made.process.stdout, made.process.stderr):
        assert stream is not None
        with suppress(OSError):
            stream.close()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """One without arguments."""
    with started(tmp_path / "cache") as made:
        yield made


def opening(**changes: Any) -> Open:
    """The first frame of a daemon."""
    given: dict[str, Any] = {
        "protocol": HOST_PROTOCOL,
        "version": "0.1.0",
        "worker": "box/w1",
        "project": "shop",
    }
    return Open(**given | {"environment": {"PYTHONPATH": environment()["PYTHONPATH"]}} | changes)


def hello() -> Hello:
    """The settings of a worker."""
    return Hello("box/w1", "/here", ["jobs"], 4, "/here/logs", 1 << 20, 0.5, 1000, 0o22, 0)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory with a job that talks too much."""
    (tmp_path / "code/jobs").mkdir(parents=True)
    (tmp_path / "code/jobs/a.py").write_text(
        "import os\nimport stackshift_jobs as stackshift\n"
        'print(\'no frame\')\nos.write(1, b\'{"type":"Host.Ended","status":0}\\n\')\n'
        "@stackshift.job('a')\ndef a(ctx):\n    pass\n"
    )
    return tmp_path / "code"


def test_worker_is_started_in_its_code_and_passed_on(far: Far, code: Path) -> None:
    """What its modules print cannot be taken for frames; it greets as any worker."""
    far.say(opening(directory=str(code)), hello())
    assert far.hear("Host.Opened")["protocol"] == HOST_PROTOCOL
    started = far.hear("Host.Started")
    assert started["directory"] == str(code)
    greeting = far.hear("Greeting")
    assert greeting["pid"] == started["pid"]
    assert [job["name"] for job in greeting["jobs"]] == ["a"]
    far.say(Pulse(7))
    alive = far.hear("Host.Alive")
    assert alive["number"] == 7
    assert alive["resident_bytes"] > 1 << 20
    far.hang_up()
    assert far.ended()[0] == 0
    wait_gone([started["pid"]], "the worker")


def test_end_of_the_worker_is_told_with_what_it_wrote_last(far: Far, code: Path) -> None:
    """Then the keeper ends, too."""
    far.say(opening(directory=str(code)), hello())
    pid = far.hear("Greeting")["pid"]
    os.kill(pid, 11)
    ended = far.hear("Host.Ended")
    assert ended["status"] == -11
    assert far.ended()[0] == 0


def test_other_protocol_is_refused_by_name(far: Far) -> None:
    """With both versions, so that one knows what to install."""
    far.say(opening(protocol=99, version="9.9"), hello())
    refused = far.hear("Host.Refused")
    assert refused["kind"] == "protocol"
    assert f"the daemon is 9.9: their protocols are {HOST_PROTOCOL} and 99" in refused["why"]
    assert far.ended()[0] == 78


def test_silent_daemon_is_not_waited_for(far: Far, code: Path) -> None:
    """Neither by the keeper nor by its worker, though the pipe is open."""
    far.say(opening(directory=str(code), silence_seconds=4.0), hello())
    pid = far.hear("Greeting")["pid"]
    status, said = far.ended()
    assert status == 1
    assert "the daemon was silent for 4 s" in said
    wait_gone([pid], "the worker")


STEPS = """
import stackshift_jobs as stackshift
from pathlib import Path


@stackshift.job("plain")
def plain(ctx):
    ctx.step.run("first", str)
    ctx.step.run("second", Path("second").touch)


@stackshift.job("looped")
async def looped(ctx):
    await ctx.step.run("first", str)
    await ctx.step.run("second", Path("second").touch)


@stackshift.job("awaited")
async def awaited(ctx):
    async def second():
        Path("second").touch()

    await ctx.step.run("first", str)
    await ctx.step.run("second", second)
"""


@pytest.mark.parametrize("job", ["plain", "looped", "awaited"])
def test_host_that_stood_still_begins_nothing_more(far: Far, code: Path, job: str) -> None:
    """Neither the worker, which has the answer that it waited for, nor the keeper, which finds that
    the daemon has gone on talking (guarantee: silent hosts)."""
    (code / "jobs/a.py").write_text(STEPS)
    far.say(opening(directory=str(code), silence_seconds=SILENCE_SECONDS), hello())
    pid = far.hear("Greeting")["pid"]
    far.say(Execute("run_1", 1, job, "default", 1, NULL))
    first = far.hear("CompleteStep")
    os.kill(pid, signal.SIGSTOP)
    far.say(CallRecorded(first["call"]), Pulse(1))
    far.hear("Host.Alive")
    far.process.send_signal(signal.SIGSTOP)
    until = time.monotonic() + 1.5 * SILENCE_SECONDS
    wait_until(lambda: time.monotonic() > until, "the lease to end")
    far.say(Pulse(2))
    os.kill(pid, signal.SIGCONT)
    wait_gone([pid], "the worker")
    assert not (code / "second").exists()
    far.process.send_signal(signal.SIGCONT)
    status, said = far.ended()
    assert status == 1
    assert "the daemon was silent" in said


def test_code_is_asked_for_and_must_be_whole(far: Far, tmp_path: Path) -> None:
    """What is not what was announced is not used, and not kept."""
    far.say(opening(digest="0" * 64), hello())
    assert far.hear("Host.WantsCode")["digest"] == "0" * 64
    far.say(CodePart(b"half of "), CodePart(b"something", last=True))
    refused = far.hear("Host.Refused")
    assert refused["kind"] == "code"
    assert "is not what the daemon announced" in refused["why"]
    assert far.ended()[0] == 78
    assert not (tmp_path / "cache/stackshift/code" / ("0" * 64)).exists()


def test_too_much_code_is_refused(far: Far) -> None:
    """Before all of it is there."""
    far.say(opening(digest="0" * 64), hello())
    far.hear("Host.WantsCode")
    part = CodePart(b"x" * (8 << 20))
    try:
        for _ in range(MAX_BYTES // len(part.data) + 1):
            far.say(part)
    except BrokenPipeError:
        pass
    assert far.hear("Host.Refused")["why"] == "the code is larger than 64 MiB"


def test_preparation_ends_with_the_daemon(far: Far, tmp_path: Path, code: Path) -> None:
    """A long one is not left behind."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        tar.add(code / "jobs/a.py", "jobs/a.py")
    data = written.getvalue()
    file = tmp_path / "pid"
    command = ("sh", "-c", f"echo $$ > {file}; exec sleep 600")
    far.say(opening(digest=sha256(data).hexdigest(), prepare=command, path=("/bin",)), hello())
    far.hear("Host.WantsCode")
    far.say(CodePart(data, last=True))
    far.hear("Host.Prepares")
    wait_until(lambda: file.exists() and file.read_text().strip(), "the preparation to begin")
    far.hang_up()
    assert far.ended()[0] == 0
    wait_gone([int(file.read_text())], "the preparation")


def test_daemon_that_speaks_otherwise_is_refused(far: Far) -> None:
    """Though not even its first frame can be read."""
    assert far.process.stdin is not None
    far.process.stdin.write(b'{"type":"Host.Open","greeting":"hello"}\n')
    far.process.stdin.flush()
    refused = far.hear("Host.Refused")
    assert refused["kind"] == "protocol"
    assert "cannot read it" in refused["why"]
    assert far.ended()[0] == 78


def test_keeper_of_a_project_has_its_code_and_settings(tmp_path: Path, code: Path) -> None:
    """Whatever the daemon says of them."""
    (code / "stackshift.toml").write_text('[project]\nenv_file = "own.env"\n')
    (code / "own.env").write_text(f"PLACE=here\nPYTHONPATH={environment()['PYTHONPATH']}\n")
    (code / "jobs/a.py").write_text(
        "import os\nimport stackshift_jobs as stackshift\n"
        "@stackshift.job(os.environ['PLACE'])\ndef a(ctx):\n    pass\n"
    )
    with started(tmp_path / "cache", "--project", str(code)) as far:
        far.say(opening(environment={"PLACE": "there"}), hello())
        assert far.hear("Host.Started")["directory"] == str(code)
        assert [job["name"] for job in far.hear("Greeting")["jobs"]] == ["here"]


def test_keeper_that_is_to_end_says_so_and_goes_on(far: Far, code: Path) -> None:
    """Until the daemon has no more use for its worker; then all has ended before the pipe has."""
    far.say(opening(directory=str(code)), hello())
    pid = far.hear("Greeting")["pid"]
    far.process.terminate()
    far.hear("Host.Leaves")
    far.say(Pulse(1))
    far.hear("Host.Alive")
    far.say(Close())
    assert far.process.stdout is not None
    assert far.process.stdout.read() == b""
    assert not alive(pid)
    assert far.ended()[0] == 0
