"""The frames that workers are given: their settings, and what a run's record says.

Pure: the same frames dispatch a run, and let a test or a reload rehearse what its handler would do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec import Raw

from stackshift_jobs.project.config import Config
from stackshift_jobs.values.redaction import with_follow_ups
from stackshiftd.core.records import NULL
from stackshiftd.core.state.state import Body, Phase, Run
from stackshiftd.worker.frames import Cancel, EarlierTries, Execute, Hello, Recall


def hello(config: Config, logs: Path, worker: str, beat_seconds: float) -> Hello:
    """The first frame for a worker of this name."""
    return Hello(
        worker=worker,
        project=str(config.root),
        jobs=list(config.project.jobs),
        slots=config.workers.slots,
        logs=str(logs),
        payload_bytes=config.limits.payload_bytes,
        beat_seconds=beat_seconds,
        grace_ms=config.workers.grace_ms,
        umask=config.workers.umask,
        nice=config.workers.nice,
        data_dir=str(config.data_dir),
        secret_env=config.secrets.env,
        secret_files=config.secrets.files,
        redact=with_follow_ups(config.redact.payload),
    )


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
            undo=call.undo,
            undone=call.undone,
        )
        for name, call in run.calls.items()
        if call.phase is not Phase.WITHDRAWN
    ]


def earlier_tries(run: Run, read: Callable[[Body], bytes]) -> list[EarlierTries]:
    """A frame for each step of `run` that was tried and has no result. `read` is as for
    `recalls`."""
    return [
        EarlierTries(
            run.id,
            step,
            tries.ended,
            raw(tries.checkpoint.body if tries.checkpoint is not None else None, read),
        )
        for step, tries in run.tries.items()
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
        labels=run.labels if run.first_labels is None else run.first_labels,
        key=run.key,
        scheduled_at_us=run.scheduled_us,
        attempt_us=run.attempt_us,
        cancel=_cancel(run),
        undoes=run.undoing is not None,
        unsure=_unsure(run),
    )


def _unsure(run: Run) -> dict[str, int]:
    """The steps without a result that are to be undone, with their places in the order."""
    if run.undoing is None:
        return {}
    return {step: tries.unsure_seq for step, tries in run.tries.items() if tries.unsure_seq}


def _cancel(run: Run) -> Cancel | None:
    """What a handler has to know of its run, if that is cancelled gently."""
    known = run.cancelling
    if known is None:
        return None
    return Cancel(run.id, run.token, known.raised_seq, known.raised_us, known.raised_at)


def raw(body: Body | None, read: Callable[[Body], bytes]) -> Raw:
    """A body as frames have it; null if there is none."""
    return NULL if body is None else Raw(read(body))
