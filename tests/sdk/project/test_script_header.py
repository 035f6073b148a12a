"""What the header of a shell job says, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackshift_jobs.project.script_header import HeaderError, check_runnable, read_header
from stackshift_jobs.retry import Retry
from stackshift_jobs.schedules import Schedule
from stackshiftd.worker.code_files import sources


def written(folder: Path, text: str, name: str = "job.sh") -> Path:
    """An executable file with this text."""
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_options_are_those_of_a_job(tmp_path: Path) -> None:
    """Several in a line or in lines of their own; other comments are what `jobs show` says."""
    header = read_header(
        written(
            tmp_path,
            """#!/bin/bash -e
# Backs up the shop.
#
# stackshift: job nightlyBackup
# stackshift: schedule 15 3 * * *  timezone Europe/Berlin  retry 3 backoff 10s  timeout 2h
# stackshift: queue disk  priority -2  concurrency_key "customer:{id}"
# stackshift: on_failure cleanUp  on-success tell

# Every night.
set -u
# stackshift: nothing
""",
        )
    )
    assert header is not None
    assert (header.name, header.line) == ("nightlyBackup", 4)
    assert header.doc == "Backs up the shop.\n\nEvery night."
    assert header.options == {
        "schedule": "15 3 * * *",
        "timezone": "Europe/Berlin",
        "retry": Retry(max_attempts=4, backoff=10),
        "timeout": 7200,
        "queue": "disk",
        "priority": -2,
        "concurrency_key": "customer:{id}",
        "on_failure": "cleanUp",
        "on_success": "tell",
    }


def test_job_has_several_schedules_and_each_line_its_own_terms(tmp_path: Path) -> None:
    """What stands in a schedule's line is said of it, what stands elsewhere of all."""
    text = """#!/bin/sh
# stackshift: job report  timezone Europe/Berlin  retry 1
# stackshift: schedule 0 9 * * 1-5  overlap queue
# stackshift: schedule weekend: 0 11 * * 0,6  jitter 10m  catch_up_for 6h
# stackshift: schedule often: @every 30m
"""
    header = read_header(written(tmp_path, text))
    assert header is not None
    assert header.options == {
        "timezone": "Europe/Berlin",
        "retry": Retry(max_attempts=2),
        "schedule": Schedule("0 9 * * 1-5", overlap="queue"),
        "schedules": {
            "weekend": Schedule("0 11 * * 0,6", jitter=600, catch_up_for=21600),
            "often": Schedule("@every 30m"),
        },
    }


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("@daily", "@daily"), ("@every 30m", "@every 30m"), ("0 9 * * 1-5", "0 9 * * 1-5")],
)
def test_schedule_takes_as_many_words_as_it_has(
    tmp_path: Path, schedule: str, expected: str
) -> None:
    """What follows it is the next option."""
    text = f"#!/bin/sh\n# stackshift: job a schedule {schedule} retry 0\n"
    header = read_header(written(tmp_path, text))
    assert header is not None
    assert header.options == {"schedule": expected, "retry": Retry(max_attempts=1)}


@pytest.mark.parametrize("comment", ["//", "--", ";;", "  ##"])
def test_any_comment_will_do(tmp_path: Path, comment: str) -> None:
    """The interpreter need not be a shell."""
    header = read_header(written(tmp_path, f"#!/usr/bin/env node\n{comment} stackshift: job a\n"))
    assert header is not None
    assert header.name == "a"


@pytest.mark.parametrize(
    "text",
    [
        "#!/bin/sh\necho hi\n",
        "#!/bin/sh\necho hi\n# stackshift: job a\n",
        "#!/bin/sh\necho '\n# stackshift: job a\n'\n",
        "\x7fELF\0# stackshift: job a\n",
        "",
    ],
)
def test_file_without_a_header_is_no_job_and_no_mistake(tmp_path: Path, text: str) -> None:
    """Helpers, data and programs may lie beside jobs."""
    written(tmp_path, text, "jobs.sh")
    assert read_header(tmp_path / "jobs.sh") is None
    assert list(sources(tmp_path, ["."])) == []


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("queue disk", 2, "the header names no job: # stackshift: job NAME"),
        ("job a\n#stackshift: retyr 3", 3, "unknown option 'retyr'; did you mean retry?"),
        ("job a\n# stackshift: zzz day", 3, "unknown option 'zzz'; one of: job, queue, retry"),
        ("job a job b", 2, "job is given twice"),
        ("job", 2, "job needs a value"),
        ("job a schedule 1 2 3", 2, "schedule needs a value of five fields"),
        ("job a retry\n# stackshift: 3", 2, "retry needs a value"),
        ("job a retry many", 2, "retry: 'many' is not a whole number"),
        ("job a retry -1", 2, "retry: -1 is out of range (use 0 to"),
        ("job a timeout soon", 2, "timeout: 'soon' is not a duration"),
        ("job a backoff 3s", 2, "backoff is given without retry"),
        ("job a timezone UTC", 2, "timezone is given without a schedule"),
        ("job a jitter 5m", 2, "jitter is given without a schedule"),
        ("job a schedule x: @daily schedule x: @hourly", 2, "schedule x is given twice"),
        ("job a schedule @daily schedule @hourly", 2, "schedule is given twice"),
        ("job a schedule x: @daily jitter 1m jitter 2m", 2, "jitter is given twice"),
        ("job a\n\n# stackshift: queue 'disk", 4, "no closing quotation"),
    ],
)
def test_mistake_has_its_line(tmp_path: Path, header: str, line: int, message: str) -> None:
    """And says what would be right."""
    file = written(tmp_path, f"#!/bin/sh\n# stackshift: {header}\nexit 0\n")
    with pytest.raises(HeaderError) as caught:
        read_header(file)
    assert (caught.value.filename, caught.value.lineno) == (str(file), line)
    assert message in str(caught.value.msg)


def test_file_that_cannot_be_executed_is_looked_into_only_if_it_is_called_a_script(
    tmp_path: Path,
) -> None:
    """Data may be large; a script of which the mode was forgotten is a mistake to be told."""
    text = "#!/bin/sh\n# stackshift: job a\n"
    for name in ("a.sh", "data.csv", "notes"):
        written(tmp_path, text, name).chmod(0o644)
    written(tmp_path, text, "program")
    assert [source.file.name for source in sources(tmp_path, ["."])] == ["a.sh", "program"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#!/bin/sh\r\n# stackshift: job a\r\n", "CR LF"),
        ("\ufeff#!/bin/sh\n# stackshift: job a\n", "byte order mark"),
    ],
)
def test_script_that_no_system_can_start_says_so(tmp_path: Path, text: str, message: str) -> None:
    """Its runs failed because the file was said not to be there, or it was no job at all."""
    file = tmp_path / "job.sh"
    file.write_bytes(text.encode())
    file.chmod(0o755)
    assert read_header(file) is not None
    with pytest.raises(HeaderError, match=message):
        check_runnable(file)
