"""Bodies that memory does not hold: read from the journal when somebody needs them."""

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
    r.ValueRecorded: "value",
    r.WaitEnded: "result",
    r.CallRefused: "error",
    r.RunCompleted: "result",
}


class Bodies:
    """Finds the JSON of spilled bodies among the entries of their run."""

    def __init__(self, entries: Callable[[str], list[Entry]]) -> None:
        self._entries = entries

    def of(self, run: Run, body: Body) -> bytes:
        """The JSON text of `body`, which belongs to `run`."""
        return self.reader(run)(body)

    def reader(self, run: Run) -> Callable[[Body], bytes]:
        """What gives the JSON texts of several bodies of `run`. Its entries are read once, and not
        once for each: those of a long run take long."""
        found: dict[int, Entry] = {}

        def read(body: Body) -> bytes:
            if isinstance(body, bytes):
                return body
            if not found:
                found.update((entry.seq, entry) for entry in self._entries(run.id))
            entry = found.get(body.seq)
            if entry is None:
                raise LookupError(f"record {body.seq} of {run.id} is not in the journal")
            return bytes(body_of(entry.record, run, body.seq))

        return read


def body_of(record: r.AnyRecord, run: Run, seq: int) -> Raw:
    """The body that a record carries."""
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
