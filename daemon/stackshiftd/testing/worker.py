"""The worker for tests: the real one, on a thread of the test's process.

It uses the frames of all workers, over a socket pair. Two things differ: it is given its jobs,
instead of importing them as a process does; and it can die. To the daemon its death looks like that
of a process: the socket closes, and nothing sent later arrives. Its handlers are then unwound, as
at every wait, and another worker replaces it only when all of them have ended: two executions of a
run never overlap.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from stackshift_jobs.handler import ops
from stackshift_jobs.handler.replay import Unwinding
from stackshift_jobs.programs.processes import ProcessGroup
from stackshiftd.testing.crashes import AFTER_RECORD, BEFORE_RECORD, BEFORE_STEP, Crashes
from stackshiftd.worker import step_functions
from stackshiftd.worker.execution import Execution, Pace
from stackshiftd.worker.frames import Greeting, Hello
from stackshiftd.worker.loop.async_calls import Call
from stackshiftd.worker.loop_port import LoopPort
from stackshiftd.worker.looped import LoopedExecution
from stackshiftd.worker.process import Worker
from stackshiftd.worker.step_functions import Ended
from stackshiftd.worker.threaded import ThreadedExecution, ThreadPort

KILLED: Final = "killed"
"""The reason to unwind a pass when its worker dies."""
SIGNALLED: Final = -9
"""The exit status of a process that SIGKILL ended, as `Popen.poll` returns it."""
LEAVING_SECONDS: Final = 0.001
"""How often to check whether the handlers of a dead worker have ended."""


class Home:
    """What the workers of one test share."""

    def __init__(self, pace: Pace, greet: Callable[[], Greeting], patience: float) -> None:
        self.pace = pace
        self.greet = greet
        self.patience = patience
        """Seconds to wait for the handlers of a dead worker."""
        self.crashes = Crashes()
        self.workers: list[LocalWorker] = []
        self.broken: BaseException | None = None
        """An internal error on a worker's loop."""


class LocalWorker(Worker):
    """One worker, on the loop of its own thread."""

    def __init__(self, sock: socket.socket, home: Home) -> None:
        self.pace = home.pace
        self.dead = False
        self._home = home
        super().__init__(sock)

    def _enter(self, _hello: Hello) -> Greeting:
        return self._home.greet()

    def greet(self) -> bool:
        """As for a process; a worker that was never greeted has nothing to end but its threads."""
        if super().greet():
            return True
        self.dead = True
        self._over.set()
        return False

    def die(self) -> None:
        """Die now; may be called on any thread."""
        self.dead = True
        self._pipe.hang_up()

    def break_down(self, error: BaseException) -> None:
        """Let the test fail, and die."""
        self._home.broken = error
        self.die()

    def _gone(self) -> None:
        self.dead = True
        self._over.set()
        for execution in list(self._executions.values()):
            self._leave(execution, KILLED)
        self._stop_when_left()

    def _stop_when_left(self) -> None:
        if self._executions or self._threads.active:
            self._loop.call_later(LEAVING_SECONDS, self._stop_when_left)
        else:
            self._threads.close()
            self.step_calls.close()
            if self._hello is not None:
                self._functions.close()
            self._loop.stop()

    def strike(self, execution: Execution, step: str, when: str) -> None:
        """Die and raise `Unwinding` if a crash is armed at this place."""
        if self._home.crashes.strike(execution.order.job, step, when):
            execution.pass_.unwinding = KILLED
            self.die()
            raise Unwinding(KILLED)

    @property
    def executing(self) -> list[LoopedExecution | ThreadedExecution]:
        """The executions in progress."""
        return list(self._executions.values())

    def _thread_port(self, execution: ThreadedExecution) -> ThreadPort:
        return _MortalThreadPort(self, execution, self._pipe, self._calls, self._threads)

    def _loop_port(self, execution: LoopedExecution) -> LoopPort:
        return _MortalLoopPort(self, execution, self._pipe, self._calls, self._functions)


class _MortalThreadPort(ThreadPort):
    """A port that gives its worker the chance to die at each place."""

    def __init__(self, worker: LocalWorker, *rest: Any) -> None:
        super().__init__(*rest)
        self._worker = worker

    def perform(self, op: ops.Perform) -> Any:
        self._worker.strike(self._execution, op.step, BEFORE_STEP)
        return super().perform(op)

    def tell(self, op: ops.Tell) -> ops.Recorded:
        if isinstance(op, ops.RecordBegin):
            return super().tell(op)  # Neither before the step nor at its record.
        self._worker.strike(self._execution, op.step, BEFORE_RECORD)
        recorded = super().tell(op)
        self._worker.strike(self._execution, op.step, AFTER_RECORD)
        return recorded


class _MortalLoopPort(LoopPort):
    """The same for `async def` handlers. What dies asks for nothing more; the worker's end drops
    its pass."""

    def __init__(self, worker: LocalWorker, execution: LoopedExecution, *rest: Any) -> None:
        super().__init__(execution, *rest)
        self._worker = worker
        self._mortal = execution

    def _strikes(self, step: str, when: str) -> bool:
        try:
            self._worker.strike(self._mortal, step, when)
        except Unwinding:
            return True
        return False

    def perform(self, call: Call, op: ops.Perform) -> Ended | None:
        return None if self._strikes(op.step, BEFORE_STEP) else super().perform(call, op)

    def tell(self, call: Call, op: ops.Tell) -> None:
        if isinstance(op, ops.RecordBegin) or not self._strikes(op.step, BEFORE_RECORD):
            super().tell(call, op)

    def is_heard(self, call: Call) -> bool:
        begins = isinstance(call.op, ops.RecordBegin)
        return begins or not self._strikes(call.key, AFTER_RECORD)


class LocalProcess:
    """A `pool.Process` that is a thread of this process."""

    def __init__(self, home: Home, theirs: socket.socket) -> None:
        self.pid = os.getpid()
        self._home = home
        self._sock = theirs.dup()
        self._loop = asyncio.new_event_loop()
        self._worker = LocalWorker(self._sock, home)
        step_functions.install(self._loop, self._worker.break_down)
        self._loop.set_exception_handler(self._broke)
        home.workers.append(self._worker)
        self._thread = threading.Thread(target=self._run, name="stackshift-worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            if self._worker.greet():
                self._worker.serve(self._loop)
                self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
        finally:
            self._home.workers.remove(self._worker)
            asyncio.set_event_loop(None)
            self._loop.close()
            self._sock.close()

    def _broke(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception) and context.get("task") is None:
            self._home.broken = error
        loop.default_exception_handler(context)

    def death_fd(self) -> None:
        """None: its death is the end of its connection."""

    def poll(self) -> int | None:
        """The exit status once the worker is dead, else None."""
        return SIGNALLED if self._worker.dead else None

    def wait(self) -> int:
        """Wait until all handlers have ended, and return the exit status.

        A handler that does not end within the patience is left behind, its connection closed.
        """
        self._thread.join(self._home.patience)
        return SIGNALLED

    def cpu_seconds(self) -> float:
        """0: it is not known how much of this process is the worker's."""
        return 0.0

    def resident_bytes(self) -> int:
        """0, as for `cpu_seconds`."""
        return 0

    def kill(self) -> None:
        """Make the worker die, as SIGKILL does to a process."""
        self._worker.die()

    def last_words(self) -> dict[str, bytes]:
        """Nothing: what a test prints is the test's."""
        return {}

    def end_programs(self, _programs: Iterable[ProcessGroup], _grace_seconds: float) -> None:
        """Wait until all handlers have ended; their programs end with them."""
        self.wait()
