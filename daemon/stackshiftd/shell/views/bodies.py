"""Bodies of runs (payloads, results) that are not in memory: read from the journal on demand."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Raw

from stackshiftd.core import records as r
from stackshiftd.core.records import Entry
from stackshiftd.core.state.entries import written_json
from stackshiftd.core.state.events import event_json, sent_json
from stackshiftd.core.state.state import Body, Run

_FIELDS = {
    r.RunCreated: "payload",
    r.StepCompleted: "result",
    r.StepCheckpointed: "value",
    r.ValueRecorded: "value",
    r.WaitEnded: "result",
    r.CallRefused: "error",
    r.RunCompleted: "result",
}


class Bodies:
    """Finds the JSON text of spilled bodies among the entries of their run."""

    def __init__(self, entries: Callable[[str], list[Entry]]) -> None:
        self._entries = entries

    def of(self, run: Run, body: Body) -> bytes:
        """The JSON text of `body`, which belongs to `run`. Raises as `reader` does."""
        return self.reader(run)(body)

    def reader(self, run: Run) -> Callable[[Body], bytes]:
        """A function from bodies of `run` to their JSON texts. It reads the run's entries once, not
        once per body: for a long run that takes long.

        The function raises `LookupError` if the body's record is no longer in the journal.
        """
        entries: dict[int, Entry] = {}

        def read(body: Body) -> bytes:
            if isinstance(body, bytes):
                return body
            if not entries:
                entries.update((entry.seq, entry) for entry in self._entries(run.id))
            entry = entries.get(body.seq)
            if entry is None:
                raise LookupError(f"record {body.seq} of {run.id} is not in the journal")
            return bytes(body_of(entry.record, run, body.seq))

        return read


def body_of(record: r.AnyRecord, run: Run, seq: int) -> Raw:
    """The body in `record`, which has the sequence number `seq` and belongs to `run`."""
    if isinstance(record, r.RunRetried):
        for name, step in run.calls.items():
            if getattr(step.body, "seq", 0) == seq and name in record.replaced:
                return record.replaced[name]
    if isinstance(record, r.WaitEnded) and (record.event or record.name):
        return Raw(event_json(record))
    if isinstance(record, r.EventReceived):
        return Raw(sent_json(record))
    if isinstance(record, r.StateSet):
        return Raw(written_json(record))
    body: Raw = getattr(record, _FIELDS[type(record)])
    return body
