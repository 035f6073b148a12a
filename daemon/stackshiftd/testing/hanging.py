"""What to say of a handler that does not come to an end."""

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


def told_of(workers: Iterable[LocalWorker], seconds: float) -> str:
    """A sentence for each run that executes, with the step and the line where it stands."""
    told = [_told(execution) for worker in list(workers) for execution in worker.executing]
    if not told:
        return f"nothing has happened for {seconds:g} s, and no handler executes"
    return "\n".join([f"nothing has happened for {seconds:g} s of real time:", *told])


def _told(execution: Execution) -> str:
    who = f"{execution.run} ({execution.order.job})"
    steps = ", ".join(repr(step) for step in list(execution.open))
    doing = f"executes step {steps}" if steps else "is in its handler, outside of any step"
    places = _places(execution)
    at = f", at {places[0]}" if places else ""
    return f"  {who} {doing}{at}"


def _places(execution: Execution) -> list[str]:
    """Where code of the user's stands that belongs to the execution, innermost first."""
    files = _files(execution)
    found = [_place(next(filter(_is_own, frames))) for frames in threads_in(files).values()]
    if isinstance(execution, LoopedExecution):
        for task in list(execution.tasks):
            found += [_place(frame) for frame in _stack(task) if _is_own(frame)]
    return found


def threads_in(files: set[str]) -> dict[int, list[FrameType]]:
    """Other threads that stand in one of these files, with their frames, innermost first."""
    found: dict[int, list[FrameType]] = {}
    for thread, top in sys._current_frames().items():
        frames = [frame for frame, _ in traceback.walk_stack(top)]
        mine = thread == threading.get_ident()
        if not mine and any(frame.f_code.co_filename in files for frame in frames):
            found[thread] = frames
    return found


def interrupt(workers: Iterable[LocalWorker]) -> None:
    """Have the threads that hang unwind where they stand, if they stand in Python: the
    interpreter waits for some of them at its end."""
    for worker in list(workers):
        for execution in worker.executing:
            for thread in threads_in(_files(execution)):
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread), ctypes.py_object(Unwinding)
                )


def _files(execution: Execution) -> set[str]:
    """Of the handler, and of the functions of its steps that are under way."""
    functions = [execution.job.handler, *(each.op.fn for each in list(execution.open.values()))]
    codes = [getattr(function, "__code__", None) for function in functions]
    return {code.co_filename for code in codes if code is not None}


def _stack(task: asyncio.Task[Any]) -> list[FrameType]:
    """The frames of what a task awaits, innermost first."""
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
