"""Recorded tracebacks, shortened: frames of the project, causes, and parts of groups."""

from __future__ import annotations

import asyncio
import json
import re
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from stackshift_cli.timeline.failure import exceptions, summary, where
from stackshift_jobs.handler.failures import MAX_TRACEBACK, Failure

HERE = str(Path(__file__).parent)


def fails() -> None:
    raise KeyError("x")


def has_a_cause() -> None:
    try:
        fails()
    except KeyError as bad:
        raise ValueError("two\nlines") from bad


def fails_while_handling() -> None:
    try:
        has_a_cause()
    except ValueError:
        raise TypeError("third")  # noqa: B904


def fails_in_a_library() -> None:
    json.loads("{")


async def _part(error: Exception) -> None:
    raise error


async def _group() -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_part(ValueError("one")))
        tasks.create_task(_part(TypeError("two")))


def fails_in_parts() -> None:
    asyncio.run(_group())


def fails_because_of_parts() -> None:
    try:
        asyncio.run(_group())
    except ExceptionGroup as bad:
        raise RuntimeError("all of it") from bad


def has_a_cause_made_for_it() -> None:
    cause = KeyError("x")
    cause.add_note("of row 3")
    raise RuntimeError("all of it") from cause


def recorded(function: Callable[[], None], text: Callable[[BaseException], str]) -> str:
    """The traceback of what `function` raises."""
    try:
        function()
    except Exception as bad:
        return text(bad)
    raise AssertionError("it raised nothing")


def whole(error: BaseException) -> str:
    """As Python prints it, with frames of whoever called."""
    return "".join(traceback.format_exception(error))


def by_worker(error: BaseException) -> str:
    """As a worker records it."""
    return Failure.of(error).traceback


BOTH = pytest.mark.parametrize("text", [whole, by_worker], ids=["whole", "worker"])


def short(function: Callable[[], None], text: Callable[[BaseException], str]) -> list[str]:
    """The summary, without the frames of this file that lead to `function`, and without lines'
    numbers."""
    lines = summary(recorded(function, text), HERE)
    lines = [re.sub(r":\d+ in", " in", line) for line in lines]
    own = f"test_failure.py in {function.__name__}"
    return lines[lines.index(own) :]


@BOTH
def test_cause_that_was_never_raised_is_named(text: Callable[[BaseException], str]) -> None:
    """It has no frames, and was left out. Its notes belong to it."""
    assert short(has_a_cause_made_for_it, text) == [
        "test_failure.py in has_a_cause_made_for_it",
        '  raise RuntimeError("all of it") from cause',
        "caused by KeyError: 'x' of row 3",
    ]


@BOTH
def test_causes_come_after_the_error(text: Callable[[BaseException], str]) -> None:
    """The nearest cause comes first, each with the frame that raised it."""
    assert short(fails_while_handling, text) == [
        "test_failure.py in fails_while_handling",
        '  raise TypeError("third")  # noqa: B904',
        "while handling ValueError: two lines",
        "  test_failure.py in has_a_cause",
        '    raise ValueError("two\\nlines") from bad',
        "caused by KeyError: 'x'",
        "  test_failure.py in fails",
        '    raise KeyError("x")',
    ]


@BOTH
def test_error_of_a_library_names_the_projects_line_and_where_it_arose(
    text: Callable[[BaseException], str],
) -> None:
    """The library's file is named as its package is imported, without its source."""
    assert short(fails_in_a_library, text) == [
        "test_failure.py in fails_in_a_library",
        '  json.loads("{")',
        "json/decoder.py in raw_decode",
    ]
    assert where(recorded(fails_in_a_library, text)).startswith("test_failure.py:")


@BOTH
def test_parts_of_a_group_are_told_apart(text: Callable[[BaseException], str]) -> None:
    """Each part with its own frame; what the group itself says is not lost."""
    lines = short(fails_in_parts, text)
    assert lines[-6:] == [
        "part ValueError: one",
        "  test_failure.py in _part",
        "    raise error",
        "part TypeError: two",
        "  test_failure.py in _part",
        "    raise error",
    ]
    assert "asyncio/taskgroups.py in __aexit__" in lines


@BOTH
def test_group_may_be_a_cause(text: Callable[[BaseException], str]) -> None:
    """The error is the one that was raised last, not a part of what caused it."""
    lines = short(fails_because_of_parts, text)
    assert lines[1] == '  raise RuntimeError("all of it") from bad'
    assert any(line.startswith("caused by ExceptionGroup: unhandled") for line in lines)


def test_frames_alone_are_the_error() -> None:
    """A worker records the frames alone if there is nothing else to say."""
    text = recorded(fails, by_worker)
    assert not text.startswith("Traceback")
    assert short(fails, by_worker) == ["test_failure.py in fails", '  raise KeyError("x")']


def test_only_the_last_frames_are_shown() -> None:
    """Three of the project's code; the same line again is one."""

    def deep(left: int) -> None:
        if left:
            deep(left - 1)
        else:
            fails()

    lines = summary(recorded(lambda: deep(40), whole), HERE)
    assert [re.sub(r":\d+ in", " in", line) for line in lines if not line.startswith(" ")] == [
        "test_failure.py in deep",
        "test_failure.py in deep",
        "test_failure.py in fails",
    ]


@pytest.mark.parametrize("cut", [1, 40, 400, 700])
def test_traceback_whose_beginning_is_cut_off_still_ends_in_the_error(cut: int) -> None:
    """Only the end of a long traceback is recorded, wherever that begins."""
    text = recorded(fails_while_handling, whole)[cut:]
    assert summary(text, HERE)[-1].strip() or not exceptions(text)
    assert where(text).startswith("test_failure.py:")
    assert len(text) < MAX_TRACEBACK


@pytest.mark.parametrize("text", ["", "Traceback…", "nothing\n\n+\n  |\n", "\x00 File\n" * 9])
def test_what_is_no_traceback_has_no_lines(text: str) -> None:
    """Whatever is recorded, nothing is raised."""
    assert (summary(text), where(text)) == ([], "")


def test_file_outside_the_project_is_named_whole() -> None:
    """Only what is below the project's directory is named from there."""
    text = '  File "/srv/shopping/a.py", line 3, in f\n    g()\n'
    assert summary(text, "/srv/shop") == ["/srv/shopping/a.py:3 in f", "  g()"]
    assert summary(text, "/srv/shopping") == ["a.py:3 in f", "  g()"]


def test_frames_of_ours_are_not_where_it_failed() -> None:
    """`sys.exit` in a step has no frame of Python: whoever called it is not the place."""
    packages = '  File "/venv/lib/python3.11/site-packages'
    ours = f'{packages}/stackshiftd/worker/threaded.py", line 351, in run\n'
    assert (summary(ours), where(ours)) == ([], "")
    theirs = f'{packages}/httpx/client.py", line 7, in get\n'
    assert where(ours + theirs) == "client.py:7"


def test_end_of_what_a_program_has_printed_is_shown() -> None:
    """A traceback in it is not taken for one of the project."""
    child = (
        'Traceback (most recent call last):\n  File "/c.py", line 7, in <module>\nOSError: no disk'
    )
    marked = "\n".join(f"> {line}" for line in child.splitlines())
    head = (
        'Traceback (most recent call last):\n  File "/shop/jobs/a.py", line 3, in call\n    run()\n'
    )
    text = f"{head}CalledProcessError: status 1\nstandard error of the program:\n{marked}\n"
    assert where(text) == "a.py:3"
    place = ["jobs/a.py:3 in call", "  run()"]
    assert summary(text, "/shop") == [*place, *marked.splitlines()[-3:]]


def test_what_the_program_of_a_cause_or_a_part_has_printed_is_shown() -> None:
    """Below the lines of that one."""
    frames = (
        'Traceback (most recent call last):\n  File "/shop/jobs/a.py", line 3, in call\n    run()\n'
    )
    program = f"{frames}CalledProcessError: status 1\nstandard error of the program:\n> no table\n"
    link = "The above exception was the direct cause of the following exception:"
    chain = f"{program}\n{link}\n\n{frames}BackupFailed: nightly\n"
    own = ["jobs/a.py:3 in call", "  run()"]
    said = "CalledProcessError: status 1 standard error of the program:"
    below = ["  jobs/a.py:3 in call", "    run()", "  > no table"]
    assert summary(chain, "/shop") == [*own, f"caused by {said}", *below]
    inside = "".join(f"    | {line}\n" for line in program.splitlines())
    group = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "/shop/jobs/a.py", line 9, in both\n'
        "  | ExceptionGroup: two (1 sub-exception)\n"
        f"  +-+---------------- 1 ----------------\n{inside}"
        "    +------------------------------------\n"
    )
    assert summary(group, "/shop")[-4:] == [f"part {said}", *below]
