"""The frames that start an execution: what a run's record says, as its worker is told it.

Pure: the same frames dispatch a run, and let a test or a reload rehearse what its handler would do.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from stackshiftd.core.records import NULL
from stackshiftd.core.state.state import Body, Phase, Run
from stackshiftd.worker.frames import Execute, Recall


def recalls(run: Run, read: Callable[[Body], bytes]) -> list[Recall]:
    """A frame for each recorded call of `run`, except those that it has withdrawn. `read` returns
    the JSON text of a body, and what it raises is raised."""
    return [
        Recall(
            run=run.id,
            step=name,
            kind=call.kind.value,
            phase=call.phase.value,
            body=raw(call.body, read),
            error=call.error,
            tried=call.tried,
            due_us=call.due_us,
            child=call.child or "",
            child_status=call.child_status,
            input=call.input,
            seq=call.seq,
            at_us=call.at_us,
            released_seq=call.released_seq,
            job=call.job,
        )
        for name, call in run.calls.items()
        if call.phase is not Phase.WITHDRAWN
    ]


def execute(run: Run, read: Callable[[Body], bytes]) -> Execute:
    """The frame that starts the execution `run.token` of `run`, after its recalls. `read` is as for
    `recalls`."""
    return Execute(
        run=run.id,
        token=run.token,
        job=run.job,
        queue=run.queue,
        attempt=run.attempt,
        payload=Raw(read(run.payload)),
        labels=run.labels,
        key=run.key,
        scheduled_at_us=run.scheduled_us,
        attempt_us=run.attempt_us,
    )


def raw(body: Body | None, read: Callable[[Body], bytes]) -> Raw:
    """A body as frames have it; null if there is none."""
    return NULL if body is None else Raw(read(body))
