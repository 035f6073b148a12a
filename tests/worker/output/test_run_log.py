"""The log of a run over many attempts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from stackshift_jobs.handler.replay import Pass
from stackshiftd.shell.views.log_lines import Page, log_page
from stackshiftd.shell.work import run_through
from stackshiftd.worker.output import log_lines, run_log, sent_log
from stackshiftd.worker.output.log_file import LogFile
from stackshiftd.worker.output.run_log import LogStore, RunLog
from stackshiftd.worker.output.sent_log import SentLog

Store = Callable[[Path], LogStore]
LIMIT, KEPT = 20_000, 10_000


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones."""
    monkeypatch.setattr(log_lines, "MAX_FILE_BYTES", LIMIT)
    monkeypatch.setattr(log_lines, "KEPT_BYTES", KEPT)


def attempt(folder: Path, number: int) -> None:
    """Print 20 lines in an attempt."""
    log = RunLog(LogFile(folder, "run_1", number), number, number, Pass({}))
    log.write("stdout", "".join(f"attempt {number}, line {n}\n" for n in range(20)))
    log.close()


def read(path: Path, after: int, limit: int, attempt: int | None = None) -> Page:
    """A page of a log."""
    pages: list[Page] = []
    run_through(log_page(path, after, limit, None, attempt), pages.append)
    return pages[0]


def test_log_of_a_run_that_is_tried_for_ever_is_bounded(tmp_path: Path) -> None:
    """Each attempt is bounded, and so are all together: the oldest output goes, and the log says
    so. Readers, who count lines, neither miss nor repeat one that is left."""
    path = tmp_path / "run_1.jsonl"
    seen: list[str] = []
    after = 0
    for number in range(1, 100):
        attempt(tmp_path, number)
        page = read(path, after, 1000)
        after = page.read
        seen += [line["message"] for line in page.lines]
        assert path.stat().st_size < LIMIT + 5000 + after
    assert seen == [f"attempt {a}, line {n}" for a in range(1, 100) for n in range(20)]
    whole = read(path, 0, 10_000).lines
    assert whole[0]["message"] == "… earlier output of this run was dropped"
    assert whole[0]["level"] == "WARNING"
    left = [line["message"] for line in whole[1:]]
    assert left == seen[-len(left) :]
    assert len(left) > 40
    assert [each.name for each in tmp_path.iterdir()] == ["run_1.jsonl"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_output_of_an_attempt_that_goes_on_is_not_dropped(tmp_path: Path) -> None:
    """What a replay prints again is still recognised after the oldest output was dropped."""
    for number in range(1, 6):
        attempt(tmp_path, number)
    path = tmp_path / "run_1.jsonl"
    raws = path.read_text().splitlines()
    # A line that is too long for what is kept makes the next look drop the rest.
    raws[0] = json.dumps(json.loads(raws[0]) | {"message": "x" * LIMIT})
    path.write_text("".join(f"{raw}\n" for raw in raws))
    attempt(tmp_path, 5)
    lines = read(path, 0, 10_000, 5).lines
    assert [line["message"] for line in lines] == [f"attempt 5, line {n}" for n in range(20)]


class _Beating:
    """A try whose output is its heartbeat."""

    output_beats = True

    def __init__(self) -> None:
        self.beats = 0

    def note_beat(self) -> None:
        self.beats += 1


@pytest.mark.parametrize(
    "store",
    [
        lambda folder: LogFile(folder, "run_1", 1, 1000),
        lambda _folder: SentLog(lambda _line: None, "run_1", 1, {}),
    ],
    ids=["file", "sent"],
)
def test_what_a_full_log_drops_is_not_taken_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    """Whoever prints millions of lines waits for none of those that are dropped, and neither do
    the other jobs of the process. That it prints still shows that it is alive."""
    monkeypatch.setattr(sent_log, "MAX_BYTES", 1000)
    log, begun = RunLog(store(tmp_path), 1, 1, Pass({})), _Beating()
    log.tries = {None: begun}
    log.write("stdout", "a line\n" * 10)

    def looked_at(*_line: object, **_more: object) -> NoReturn:
        raise AssertionError("a line was made for nothing")

    begun.beats = 0
    with monkeypatch.context() as patched:
        patched.setattr(run_log, "line_json", looked_at)
        patched.setattr(log, "catch_up", looked_at)
        log.write("stdout", "y\n" * 1000 + "rest")
        log.write_bytes("stderr", b"y\n" * 1000)
        log.take("stdout", None, 7, b"y\n" * 1000)
        log.record("INFO", "y")
    log.close()
    assert begun.beats == 4
