"""Secrets: text that is used and never recorded, and the output that must not show it.

A payload names a secret by a reference, `{"$env": "NAME"}` or `{"$file": "path"}`. The reference is
what is recorded; the worker puts a `Secret` in its place each time a handler is called. Invariants:

- JSON has no form for a `Secret`, so the one encoder refuses it wherever it is to be recorded. Only
  the payload of another run may hold one, as the reference that it came from.
- Whoever makes or reveals a `Secret` makes its text known to the execution that runs: its output
  is masked, and what it records is refused if the text is in it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.masking import Secrets

ENV: Final = "$env"
FILE: Final = "$file"

REFERENCE_SCHEMA: Final[dict[str, Any]] = {
    "title": "Secret",
    "description": 'A reference to a secret: {"$env": "NAME"} or {"$file": "path"}.',
    "type": "object",
    "properties": {ENV: {"type": "string"}, FILE: {"type": "string"}},
    "additionalProperties": False,
    "minProperties": 1,
    "maxProperties": 1,
}


class Reference(NamedTuple):
    """Where a secret is: `kind` is `$env` or `$file`, `name` a variable or a path."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"

    def as_json(self) -> dict[str, str]:
        """The reference as a payload holds it."""
        return {self.kind: self.name}


class Secret:
    """Text that must not be seen. `reveal()` returns it; printed or formatted, a secret shows where
    it came from instead: `[secret $env TOKEN]`. It cannot be recorded or pickled.

    The text of each secret that a handler makes or reveals is masked in what its run prints and
    raises, and refused in what it records.
    """

    __slots__ = ("_text", "reference")

    def __init__(self, text: str, reference: Reference | None = None) -> None:
        if not isinstance(text, str):
            raise Usage(f"a secret is text, not {type(text).__name__}")
        self._text = text
        self.reference = reference
        """Where it came from, if a payload named it."""
        current_secrets.get().add(text, str(self))

    def reveal(self) -> str:
        """The text."""
        current_secrets.get().add(self._text, str(self))
        return self._text

    def __str__(self) -> str:
        return f"[secret {self.reference}]" if self.reference is not None else "[secret]"

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __bool__(self) -> bool:
        return bool(self._text)

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __reduce_ex__(self, _protocol: object) -> Any:
        raise TypeError("a Secret cannot be pickled: pass on its reference, or what reveal() gives")

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> Any:
        from stackshift_jobs.values.pydantic_models import secret_schema

        return secret_schema(cls, 'must be {"$env": "NAME"} or {"$file": "path"}')

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: Any, _handler: Any) -> dict[str, Any]:
        return dict(REFERENCE_SCHEMA)


def reference_of(value: Any) -> Reference | None:
    """The reference that a JSON value is; None for any other value, such as an object that has more
    than this one key."""
    if type(value) is dict and len(value) == 1:
        [(kind, name)] = value.items()
        if kind in (ENV, FILE) and type(name) is str:
            return Reference(kind, name)
    return None


def with_secrets(value: Any, resolve: Callable[[Reference], Secret]) -> Any:
    """`value` (plain JSON), with what `resolve` returns in the place of each reference."""
    if type(value) is dict:
        reference = reference_of(value)
        if reference is not None:
            return resolve(reference)
        return {key: with_secrets(part, resolve) for key, part in value.items()}
    if type(value) is list:
        return [with_secrets(part, resolve) for part in value]
    return value


# --- Who knows of them ---------------------------------------------------------------------

PROCESS: Final = Secrets()
"""What all executions of this process know, for output that belongs to none of them."""
SHARED: Final = Secrets(PROCESS)
"""What was made outside of executions, such as by a job module when it is imported. Every execution
knows it too."""
current_secrets: Final[ContextVar[Secrets]] = ContextVar("stackshift_secrets", default=SHARED)
"""Gets the secrets that the running code makes."""


def of_execution() -> Secrets:
    """What a new execution knows: what was made outside of executions."""
    return Secrets(PROCESS, SHARED)
