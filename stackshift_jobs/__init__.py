"""StackShift's SDK: what job modules and applications import.

```python
import stackshift_jobs as stackshift
from stackshift_jobs import JobContext, Retry

@stackshift.job("resizeAvatar", queue="media", retry=Retry(max_attempts=5, backoff="2s"))
def resize_avatar(ctx: JobContext):
    image = ctx.step.run("download", download, ctx.payload["imageId"])
    return {"sizes": ctx.step.map("resize", lambda size: resize(image, size), [64, 256])}
```

It imports nothing outside the standard library, and loads each name when it is first used, so that
the command line, which shares this package, starts quickly.
"""

from __future__ import annotations

from stackshift_jobs.version import __version__

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any

    from stackshift_jobs.client.awaited import AsyncClient
    from stackshift_jobs.client.blocking import Client, RunHandle
    from stackshift_jobs.client.default import events, queue, runs, start, start_many, state
    from stackshift_jobs.errors import (
        BadConfiguration,
        Busy,
        ChildFailed,
        CommandFailed,
        Conflict,
        DaemonUnavailable,
        HeartbeatTimeout,
        InsideHandler,
        LockHeld,
        LockLost,
        NonRetryable,
        NotFound,
        PayloadRefused,
        ReplayError,
        RunCancelled,
        RunFailed,
        SecretUnavailable,
        StackshiftError,
        StepFailed,
        Usage,
    )
    from stackshift_jobs.handler.async_context import AsyncJobContext
    from stackshift_jobs.handler.cancelling import Cancelling
    from stackshift_jobs.handler.command import CommandResult
    from stackshift_jobs.handler.context import JobContext
    from stackshift_jobs.handler.current_step import step
    from stackshift_jobs.handler.undo import Undo
    from stackshift_jobs.registry import job
    from stackshift_jobs.retry import CancelRun, Retry, RetryAfter
    from stackshift_jobs.schedules import Schedule
    from stackshift_jobs.values.secrets import Secret
    from stackshift_jobs.values.stored import Event, SentEvent, StateChange, StateEntry

_HOME = {
    "AsyncClient": "client.awaited",
    "AsyncJobContext": "handler.async_context",
    "BadConfiguration": "errors",
    "Busy": "errors",
    "CancelRun": "retry",
    "Cancelling": "handler.cancelling",
    "ChildFailed": "errors",
    "Client": "client.blocking",
    "CommandFailed": "errors",
    "CommandResult": "handler.command",
    "Conflict": "errors",
    "DaemonUnavailable": "errors",
    "Event": "values.stored",
    "HeartbeatTimeout": "errors",
    "InsideHandler": "errors",
    "JobContext": "handler.context",
    "LockHeld": "errors",
    "LockLost": "errors",
    "NonRetryable": "errors",
    "NotFound": "errors",
    "PayloadRefused": "errors",
    "ReplayError": "errors",
    "Retry": "retry",
    "RetryAfter": "retry",
    "RunCancelled": "errors",
    "RunFailed": "errors",
    "Schedule": "schedules",
    "RunHandle": "client.blocking",
    "Secret": "values.secrets",
    "SecretUnavailable": "errors",
    "SentEvent": "values.stored",
    "StackshiftError": "errors",
    "StateChange": "values.stored",
    "StateEntry": "values.stored",
    "StepFailed": "errors",
    "Undo": "handler.undo",
    "Usage": "errors",
    "events": "client.default",
    "job": "registry",
    "queue": "client.default",
    "runs": "client.default",
    "start": "client.default",
    "start_many": "client.default",
    "state": "client.default",
    "step": "handler.current_step",
}
"""Public name → the module that defines it."""

__all__ = [
    "AsyncClient",
    "AsyncJobContext",
    "BadConfiguration",
    "Busy",
    "CancelRun",
    "Cancelling",
    "ChildFailed",
    "Client",
    "CommandFailed",
    "CommandResult",
    "Conflict",
    "DaemonUnavailable",
    "Event",
    "HeartbeatTimeout",
    "InsideHandler",
    "JobContext",
    "LockHeld",
    "LockLost",
    "NonRetryable",
    "NotFound",
    "PayloadRefused",
    "ReplayError",
    "Retry",
    "RetryAfter",
    "RunCancelled",
    "RunFailed",
    "RunHandle",
    "Schedule",
    "Secret",
    "SecretUnavailable",
    "SentEvent",
    "StackshiftError",
    "StateChange",
    "StateEntry",
    "StepFailed",
    "Undo",
    "Usage",
    "__version__",
    "events",
    "job",
    "queue",
    "runs",
    "start",
    "start_many",
    "state",
    "step",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
