"""A request by a test and its answer, and the exception that fails a test."""

from __future__ import annotations

from typing import Any

import msgspec

from stackshift_jobs.errors import StackshiftError, from_json


class TestFailure(AssertionError):
    """Fails a test. The message says everything: a traceback into the daemon would add nothing."""

    __test__ = False


class Asked:
    """A request and, once it has come, its answer."""

    def __init__(self) -> None:
        self.answered = False
        self._answer: Any = None

    def __call__(self, answer: Any) -> None:
        """Store the answer: a result or a `StackshiftError`."""
        self.answered = True
        self._answer = answer

    def result(self) -> Any:
        """The answer after a round trip through JSON; an answer that is an error is raised."""
        if isinstance(self._answer, StackshiftError):
            self._answer.fields.pop("rpc", None)
            raise from_json(self._answer.as_json())
        return msgspec.json.decode(msgspec.json.encode(self._answer))
