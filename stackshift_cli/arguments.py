"""The values given on the command line, as numbers, durations and pairs.

Both parsers hand over text; it becomes values here and nowhere else. A text that is not valid for
its option raises `Usage`, which names the option.
"""

from __future__ import annotations

from stackshift_jobs.errors import Usage

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any


class Globals:
    """The global options; None or False where the command line does not give them."""

    __slots__ = ("color", "json", "no_start", "project", "quiet", "verbose")

    def __init__(
        self,
        project: str | None = None,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        color: str | None = None,
        no_start: bool = False,
    ) -> None:
        self.project = project
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self.color = color
        self.no_start = no_start

    def but(self, *, json: bool, color: str | None) -> Globals:
        """The same options with another form of output and another use of colour."""
        return Globals(self.project, json, self.quiet, self.verbose, color, self.no_start)


class Given:
    """The values of one command's own parameters, by name (`max_attempts` for `--max-attempts`)."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """The text given for `name`, or None if it was not given."""
        value = self._values[name]
        return None if value is None else str(value)

    def word(self, name: str) -> str:
        """The text of a required argument."""
        return str(self._values[name])

    def texts(self, name: str) -> list[str]:
        """All texts given for `name`, which may be repeated, in their order."""
        return [str(value) for value in self._values[name]]

    def flag(self, name: str) -> bool:
        """Was the flag `name` given?"""
        return bool(self._values[name])

    def whole(self, name: str, low: int, high: int) -> int | None:
        """The whole number given for `name`, or None; raises `Usage` if it is not one, or not
        between `low` and `high`."""
        text = self.text(name)
        if text is None:
            return None
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
            raise Usage(f"{option(name)} takes a whole number, not {text!r}")
        number = int(text)
        if not low <= number <= high:
            raise Usage(f"{option(name)} {number} is out of range", hint=f"use {low} to {high}")
        return number

    def duration_ms(self, name: str) -> int | None:
        """The duration given for `name` in milliseconds, or None; raises `Usage` if it is not
        one."""
        text = self.text(name)
        if text is None:
            return None
        from stackshift_jobs.values.durations import milliseconds

        try:
            return milliseconds(text)
        except Usage as bad:
            raise Usage(f"{option(name)}: {bad.message}", hint=bad.hint) from bad

    def positive_ms(self, name: str, instead: str = "leave it out, or write 10m") -> int | None:
        """The same for a duration that cannot be 0; the hint says what to give `instead`."""
        ms = self.duration_ms(name)
        if ms == 0:
            raise Usage(f"{option(name)} cannot be 0", hint=instead)
        return ms

    def pairs(self, name: str) -> dict[str, str]:
        """The `K=V` texts given for `name` as an object; raises `Usage` if a key comes twice."""
        pairs: dict[str, str] = {}
        for key, value in (_pair(name, text) for text in self.texts(name)):
            check_new(pairs, key, option(name))
            pairs[key] = value
        return pairs

    def given(self) -> list[str]:
        """The names of all parameters that were given."""
        return [name for name, value in self._values.items() if value not in (None, False, [])]


def option(name: str) -> str:
    """How the option of the parameter `name` is spelled: `--max-attempts` for `max_attempts`."""
    return "--" + name.replace("_", "-")


def check_new(earlier: Container[str], key: str, flag: str) -> None:
    """Raise `Usage` if `key`, given for `flag`, is among the `earlier` ones: only one can count."""
    if key in earlier:
        raise Usage(f"{flag} is given more than once for {key!r}", hint="give it once")


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise Usage(f"{option(name)} takes K=V, not {text!r}")
    return key, value
