"""Steps and attempts of a run, told from its records: what `runs show` draws.

A pure reading of entries in order; the same for a run in flight and one of last month.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from stackshift_jobs.errors import BY_CODE, StackshiftError
from stackshift_jobs.values.durations import from_rfc3339, rfc3339
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import written_json
from stackshiftd.core.state.events import sent_json
from stackshiftd.core.why import events_text


def detail(entries: list[Entry]) -> dict[str, Any]:
    """`steps`, `attempts` and `timeline` of the run object, as JSON values."""
    teller = _Teller()
    for entry in entries:
        teller.take(entry)
    return {
        "steps": list(teller.steps.values()),
        "attempts": teller.attempts,
        "timeline": [msgspec.Raw(r.entry_json(entry)) for entry in entries],
    }


def error_object(error: r.Error | None) -> dict[str, str] | None:
    """`{type, message, traceback}`."""
    if error is None:
        return None
    return {"type": error.type, "message": error.message, "traceback": error.traceback}


class _Teller:
    def __init__(self) -> None:
        self.steps: dict[str, dict[str, Any]] = {}
        self.attempts: list[dict[str, Any]] = []

    def take(self, entry: Entry) -> None:
        record = entry.record
        at = rfc3339(entry.at_us)
        match record:
            case r.AttemptStarted():
                self.attempts.append(
                    {
                        "number": record.attempt,
                        "outcome": None,
                        "started_at": at,
                        "finished_at": None,
                        "error": None,
                        "code": record.code,
                    }
                )
            case r.AttemptResumed() if self.attempts:
                self.attempts[-1]["code"] = record.code
            case r.AttemptFailed():
                self._end_attempt("failed", at, record.error)
                if record.step is not None and record.step in self.steps:
                    self.steps[record.step]["status"] = "failed"
            case r.RunCompleted():
                self._end_attempt("completed", at)
            case r.RunFailed():
                self._end_attempt("failed", at, record.error)
                if record.step is not None and record.step in self.steps:
                    self.steps[record.step] |= {
                        "status": "failed",
                        "result": None,
                        "error": error_object(record.error),
                    }
            case r.RunCancelled():
                self._end_attempt("cancelled", at)
                for step in self.steps.values():
                    if step["status"] in ("running", "waiting", "retrying"):
                        step |= {"status": "cancelled", "finished_at": at}
            case r.RunRetried():
                for name in record.forgotten:
                    self.steps.pop(name, None)
                for name, value in record.replaced.items():
                    self._step(name, "run", at)
                    self.steps[name] |= {"status": "completed", "result": value, "error": None}
            case r.StepStarted():
                self._step(record.step, "run", at)["status"] = "running"
            case r.StepCompleted():
                began = _before(entry.at_us, record.duration_ms)
                step = self._step(record.step, "run", began)
                step |= {
                    "status": "completed",
                    "attempts": record.tried,
                    "result": record.result,
                    "error": None,
                }
                self._finish(step, at, entry.at_us)
            case r.StepFailed():
                began = _before(entry.at_us, record.duration_ms)
                step = self._step(record.step, "run", began)
                step |= {
                    "status": "retrying" if record.retry_at else "failed",
                    "attempts": record.tried,
                    "error": error_object(record.error),
                }
                if not record.retry_at:
                    self._finish(step, at, entry.at_us)
            case r.ValueRecorded():
                step = self._step(record.step, "value", at)
                step |= {"status": "completed", "result": record.value}
                self._finish(step, at, entry.at_us)
            case r.ChildStarted():
                step = self._step(record.step, "start", at)
                step |= {"status": "completed", "result": record.child}
                self._finish(step, at, entry.at_us)
            case r.WaitStarted():
                step = self._step(record.step, _KINDS.get(record.wait, "call"), at)
                step |= {"status": "waiting", "detail": _waited_for(record)}
            case r.WaitEnded():
                self._end_wait(record, at, entry.at_us)
            case r.CallRefused():
                told = msgspec.json.decode(record.error)
                step = self._step(record.step, "value", at)
                step |= {
                    "status": "failed",
                    "error": {
                        "type": BY_CODE.get(told["code"], StackshiftError).__name__,
                        "message": told["message"],
                        "traceback": "",
                    },
                }
                self._finish(step, at, entry.at_us)
            case r.LockAcquired() if record.run is not None:
                step = self._step(record.step, "lock", at)
                step |= {"status": "completed", "detail": f"lock {record.key}"}
                step["result"] = entry.seq
                self._finish(step, at, entry.at_us)
            case r.StateSet() if record.step:
                self._wrote(record.step, at, entry.at_us, msgspec.Raw(written_json(record)))
            case r.StateDeleted() if record.step:
                self._wrote(record.step, at, entry.at_us, True)
            case r.LockExtended() if record.step:
                self._wrote(record.step, at, entry.at_us, record.expires_at)
            case r.EventReceived() if record.step:
                self._wrote(record.step, at, entry.at_us, msgspec.Raw(sent_json(record)))

    def _step(self, name: str, kind: str, at: str) -> dict[str, Any]:
        return self.steps.setdefault(
            name,
            {
                "name": name,
                "kind": kind,
                "status": "running",
                "attempts": 1,
                "started_at": at,
                "finished_at": None,
                "duration_ms": None,
                "result": None,
                "error": None,
                "detail": None,
            },
        )

    def _wrote(self, name: str, at: str, at_us: int, result: Any) -> None:
        """A write of state, or a sent event, and what it gave."""
        step = self._step(name, "value", at)
        step |= {"status": "completed", "result": result}
        self._finish(step, at, at_us)

    def _end_wait(self, record: r.WaitEnded, at: str, at_us: int) -> None:
        step = self.steps.get(record.step)
        if step is None:
            return
        if step["status"] == "retrying":
            step["status"] = "running"
            return
        failed = record.status in ("failed", "cancelled")
        step |= {
            "status": record.status if failed else "completed",
            "result": record.result,
            "error": error_object(record.error),
        }
        if record.status == "timed_out" and step["kind"] == "lock":
            told = msgspec.json.decode(record.result)
            step |= {
                "status": "failed",
                "result": None,
                "error": {"type": "LockHeld", "message": told["message"], "traceback": ""},
            }
        elif record.status == "timed_out":
            step["detail"] = f"timed out: {step['detail']}"
        self._finish(step, at, at_us)

    def _finish(self, step: dict[str, Any], at: str, at_us: int) -> None:
        step["finished_at"] = at
        step["duration_ms"] = max(0, (at_us - from_rfc3339(step["started_at"])) // 1000)

    def _end_attempt(self, outcome: str, at: str, error: r.Error | None = None) -> None:
        if self.attempts and self.attempts[-1]["outcome"] is None:
            self.attempts[-1] |= {
                "outcome": outcome,
                "finished_at": at,
                "error": error_object(error),
            }


_KINDS: Final = {"sleep": "sleep", "event": "event", "lock": "lock"}


def _waited_for(record: r.WaitStarted) -> str | None:
    """`event avatar.approved [img_123]`, `lock index:customer_1`."""
    if record.wait == "event":
        return events_text(record.events)
    return f"lock {record.lock}" if record.wait == "lock" else None


def _before(at_us: int, duration_ms: int) -> str:
    return rfc3339(at_us - duration_ms * 1000)
