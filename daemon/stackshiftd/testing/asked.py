"""A question of a test's, its answer, and the failure of a test that has none."""

from __future__ import annotations

from typing import Any

import msgspec

from stackshift_jobs.errors import StackshiftError, from_json


class TestFailure(AssertionError):
    """What fails a test: the message is all that there is to say."""

    __test__ = False


class Asked:
    """A question and, once it is there, its answer."""

    def __init__(self) -> None:
        self.answered = False
        self._answer: Any = None

    def __call__(self, answer: Any) -> None:
        self.answered = True
        self._answer = answer

    def result(self) -> Any:
        """The answer as it is read back from JSON; raises it if it is an error."""
        if isinstance(self._answer, StackshiftError):
            self._answer.fields.pop("rpc", None)
            raise from_json(self._answer.as_json())
        return msgspec.json.decode(msgspec.json.encode(self._answer))
