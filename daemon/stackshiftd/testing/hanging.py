"""Reports where a hanging handler is, and interrupts it."""

from __future__ import annotations

import asyncio
import concurrent
import ctypes
import selectors
import sys
import threading
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import stackshift_jobs
import stackshiftd
from stackshift_jobs.handler.replay import Unwinding
from stackshiftd.testing.worker import LocalWorker
from stackshiftd.worker.execution import Execution
from stackshiftd.worker.looped import LoopedExecution

_OURS: Final = tuple(
    str(Path(str(module.__file__)).parent)
    for module in (stackshift_jobs, stackshiftd, asyncio, concurrent, selectors)
)
"""Folders of code that is not the user's."""


def hang_report(workers: Iterable[LocalWorker], seconds: float) -> str:
    """A line for each executing run, with the step and the line of code where it is."""
    lines = [_line(execution) for worker in list(workers) for execution in worker.executing]
    if not lines:
        return f"nothing happened for {seconds:g} s of real time, and no handler is executing"
    return "\n".join([f"nothing happened for {seconds:g} s of real time:", *lines])


def _line(execution: Execution) -> str:
    run = f"{execution.run} ({execution.order.job})"
    steps = ", ".join(repr(step) for step in list(execution.open))
    activity = f"is executing step {steps}" if steps else "is in its handler, outside of any step"
    places = _places(execution)
    at = f", at {places[0]}" if places else ""
    return f"  {run} {activity}{at}"


def _places(execution: Execution) -> list[str]:
    """The lines of the user's code that the execution is at, innermost first."""
    files = _files(execution)
    places = [_place(next(filter(_is_own, frames))) for frames in threads_in(files).values()]
    if isinstance(execution, LoopedExecution):
        functions = [running.task for running in list(execution.functions.values())]
        for task in [*filter(None, functions), *list(execution.loop.tasks)]:
            places += [_place(frame) for frame in _stack(task) if _is_own(frame)]
    return places


def threads_in(files: set[str]) -> dict[int, list[FrameType]]:
    """The other threads that are executing code in one of `files`, with their frames, innermost
    first."""
    threads: dict[int, list[FrameType]] = {}
    for thread, top in sys._current_frames().items():
        frames = [frame for frame, _ in traceback.walk_stack(top)]
        mine = thread == threading.get_ident()
        if not mine and any(frame.f_code.co_filename in files for frame in frames):
            threads[thread] = frames
    return threads


def interrupt(workers: Iterable[LocalWorker]) -> None:
    """Raise `Unwinding` in the hanging threads, which takes effect only in Python code.

    Without this the interpreter would wait for some of them when it exits.
    """
    for worker in list(workers):
        for execution in worker.executing:
            for thread in threads_in(_files(execution)):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(Unwinding)
                )


def _files(execution: Execution) -> set[str]:
    """The source files of the handler, and of the functions of its steps that are running."""
    functions = [execution.job.handler, *(step.op.fn for step in list(execution.open.values()))]
    codes = [getattr(function, "__code__", None) for function in functions]
    return {code.co_filename for code in codes if code is not None}


def _stack(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames of a task and of what it awaits, innermost first."""
    frames: list[FrameType] = []
    inner: Any = task.get_coro()
    while inner is not None:
        frame = getattr(inner, "cr_frame", None) or getattr(inner, "gi_frame", None)
        if frame is not None:
            frames.insert(0, frame)
        inner = getattr(inner, "cr_await", None) or getattr(inner, "gi_yieldfrom", None)
    return frames


def _is_own(frame: FrameType) -> bool:
    return not frame.f_code.co_filename.startswith(_OURS)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
