"""How requests that both clients and handlers make are answered (`commands.Asking`).

A client gets the answer as the reply to its request. A handler gets it as the answer to its call.
If the call has a `step`, the answer is recorded before it is given: every later pass gets the same
answer, refusals included (guarantee: handler writes).
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
    """The refusal of a call, as it is recorded and answered. `final`: it would be refused again."""
    return Raw(encode(error.as_json() | ({"final": True} if final else {})))


class Asker(msgspec.Struct, frozen=True):
    """The source of a request: a run, by a call of its handler (`step`) or from the function of a
    step (empty `step`); or a client (no `run`)."""

    run: Run | None
    call: int
    step: str

    @property
    def id(self) -> str | None:
        """The run's id; None for a client."""
        return self.run.id if self.run is not None else None

    @property
    def attempt(self) -> int:
        """The run's attempt; 0 for a client."""
        return self.run.attempt if self.run is not None else 0

    def answer(
        self,
        body: bytes,
        records: tuple[r.AnyRecord, ...] = (),
        effects: tuple[Effect, ...] = (),
    ) -> Decision:
        """Answer with `body` (JSON), and with the records and effects that it stands for."""
        if self.run is None:
            return Decision(records, effects, Answered(Raw(body)))
        return Decision(records, (Acknowledge(self.call, body=Raw(body)), *effects))

    def answer_read(self, body: bytes) -> Decision:
        """Answer a request that changes nothing; for a handler's call the answer is recorded."""
        if self.run is None or not self.step:
            return self.answer(body)
        return self.answer(
            body, (r.ValueRecorded(self.run.id, self.attempt, self.step, Raw(body)),)
        )

    def refuse(
        self,
        error: StackshiftError,
        records: tuple[r.AnyRecord, ...] = (),
        effects: tuple[Effect, ...] = (),
    ) -> Decision:
        """Refuse the request. For a handler, the refusal is recorded after `records`; for a client,
        `error` is raised, and there can be no records."""
        if self.run is None:
            assert not records
            raise error
        body = refusal_json(error)
        if self.step:
            records = (*records, r.CallRefused(self.run.id, self.attempt, self.step, body))
        return Decision(records, (Acknowledge(self.call, error=body), *effects))
