"""How a call is answered that clients and handlers make alike (`commands.Asking`).

A client gets the answer as the reply to its request. A handler gets it as the answer to its call,
and where the call has a `step` the answer is on record before it is given: what a pass was told,
every later pass is told again, refusals included (guarantee: handler writes).
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import StackshiftError
from stackshiftd.core import records as r
from stackshiftd.core.effects import Acknowledge, Answered, Decision, Effect
from stackshiftd.core.state.state import Run

encode: Final = msgspec.json.Encoder().encode


def refusal_json(error: StackshiftError, *, final: bool = False) -> Raw:
    """The refusal of a call, as it is recorded and told. `final`: it would be refused again."""
    return Raw(encode(error.as_json() | ({"final": True} if final else {})))


class Asker(msgspec.Struct, frozen=True):
    """Who asks: a run by a call of its handler (`step`), by a step's function (no `step`), or a
    client (no `run`)."""

    run: Run | None
    call: int
    step: str

    @property
    def id(self) -> str | None:
        return self.run.id if self.run is not None else None

    @property
    def attempt(self) -> int:
        return self.run.attempt if self.run is not None else 0

    def told(
        self,
        body: bytes,
        records: tuple[r.AnyRecord, ...] = (),
        effects: tuple[Effect, ...] = (),
    ) -> Decision:
        """The answer `body` (JSON), with what it makes happen."""
        if self.run is None:
            return Decision(records, effects, Answered(Raw(body)))
        return Decision(records, (Acknowledge(self.call, body=Raw(body)), *effects))

    def read(self, body: bytes) -> Decision:
        """The answer to a question that changes nothing."""
        if self.run is None or not self.step:
            return self.told(body)
        return self.told(body, (r.ValueRecorded(self.run.id, self.attempt, self.step, Raw(body)),))

    def refused(
        self,
        error: StackshiftError,
        records: tuple[r.AnyRecord, ...] = (),
        effects: tuple[Effect, ...] = (),
    ) -> Decision:
        """The refusal; `records` are what was found out on the way. A client's is raised: nothing
        has happened (so there are no records then)."""
        if self.run is None:
            assert not records
            raise error
        body = refusal_json(error)
        if self.step:
            records = (*records, r.CallRefused(self.run.id, self.attempt, self.step, body))
        return Decision(records, (Acknowledge(self.call, error=body), *effects))
