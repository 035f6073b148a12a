"""`[redact] payload`: what the daemon shows of payloads.

The journal holds a payload whole, because the worker needs it; so does the memory of the daemon.
All that is shown of one to anybody else goes through here.
"""

from __future__ import annotations

import json
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.values.redaction import redacted
from stackshift_jobs.values.strict_json import canonical, difference
from stackshiftd.core import records as r
from stackshiftd.core.records import Entry, entry_from_json, entry_json

HIDDEN: Final = "redacted values"


class Redaction:
    """What is shown of payloads: everything, except the values at `paths`."""

    def __init__(self, paths: tuple[str, ...] = ()) -> None:
        self._paths = paths

    def payload(self, payload: Raw) -> Raw:
        """A payload as it is shown."""
        if not self._paths:
            return payload
        # Not msgspec: it has no integers beyond 64 bits.
        shown = redacted(json.loads(bytes(payload)), self._paths)
        return Raw(json.dumps(shown, separators=(",", ":")).encode("ascii"))

    def entry(self, entry: Entry) -> bytes:
        """An entry as a timeline shows it; see `records.entry_json`."""
        return entry_json(self._shown(entry) if self._paths else entry)

    def difference(self, old: bytes, new: bytes) -> list[str]:
        """How two payloads differ, without the values that are not shown."""
        before, after = json.loads(old), json.loads(new)
        shown = redacted(before, self._paths), redacted(after, self._paths)
        lines = difference(*shown)
        differ = canonical(before) != canonical(after)
        return lines or ([HIDDEN] if differ else [])

    def _shown(self, entry: Entry) -> Entry:
        record = entry.record
        changes: dict[str, Any] = {}
        if isinstance(record, r.RunCreated | r.RunAttached | r.ScheduleDefined):
            changes["payload"] = self.payload(record.payload)
        if isinstance(record, r.RunCreated | r.RunRetried) and record.restored:
            restored = [self.entry(entry_from_json(line)) for line in record.restored]
            changes["restored"] = [Raw(line) for line in restored]
        if not changes:
            return entry
        return msgspec.structs.replace(entry, record=msgspec.structs.replace(record, **changes))
