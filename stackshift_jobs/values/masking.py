"""The texts that output must not show, and where they are in it.

What is known of a text are its spellings: as it is, line by line, escaped as in a literal of Python
or JSON, and percent-encoded as a whole. Those shorter than `MIN_CHARS` are not masked: they would
be found in every number and word. All tables are bounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from json import dumps, loads
from threading import Lock
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import PayloadRefused

MIN_CHARS: Final = 6
"""The shortest text that is masked."""
MAX_LINES: Final = 500
"""Lines of one secret that are masked each by itself."""
MAX_SPELLINGS: Final = 4000
"""Spellings that one execution, or one process, knows; those not used for longest are forgotten."""
_CUT_CHARS: Final = 4
"""How much of the end of a secret is recognized where the beginning of a text was cut off."""


class _Span(NamedTuple):
    start: int
    end: int
    label: str


class Secrets:
    """The texts that must not be seen: of one execution, or of all (`wider`) that a process has.

    Used from any thread. What is added is never changed: readers see the old or the new table.
    """

    def __init__(self, wider: Secrets | None = None, known: Secrets | None = None) -> None:
        self._wider = wider
        self._adding = Lock()
        self._labels: dict[str, str] = known._labels if known is not None else {}
        self.refused: dict[str, bytes] = known.refused if known is not None else {}
        self._longest_first: tuple[str, ...] = known._longest_first if known is not None else ()
        self.when_first: Callable[[], object] | None = None
        """Called before the first text is added."""

    def add(self, text: str, label: str) -> None:
        """Mask `text` as `label`, and refuse values that contain it."""
        if self._wider is not None:
            self._wider.add(text, label)
        if text in self.refused and not self._is_crowded(text):
            return
        self._put(_spellings(text), label, refused=True)

    def hide(self, texts: Iterable[str], label: str) -> None:
        """Mask these texts as `label`; values may contain them."""
        spellings = [spelling for text in texts for spelling in _spellings(text)][:MAX_SPELLINGS]
        if self._wider is not None:
            self._wider._put(spellings, label, refused=False)
        self._put(spellings, label, refused=False)

    def _is_crowded(self, text: str) -> bool:
        """Must `text` be put first again, so that it is not forgotten as the oldest?"""
        return len(self._labels) > MAX_SPELLINGS // 2 and text != next(iter(self._labels))

    def _put(self, spellings: list[str], label: str, *, refused: bool) -> None:
        if not spellings:
            return
        with self._adding:
            first, self.when_first = self.when_first, None
            if first is not None:
                first()
            labels = dict.fromkeys(spellings, label) | self._labels
            while len(labels) > MAX_SPELLINGS:
                labels.popitem()  # Those that were added last, or again, stand first.
            kept = {each: text for each, text in self.refused.items() if each in labels}
            if refused:
                kept |= {each: dumps(each)[1:-1].encode() for each in spellings}
            self._labels, self.refused = labels, kept
            self._longest_first = tuple(sorted(labels, key=len, reverse=True))

    def forked(self) -> None:
        """Go on in a forked process, where other threads, which may hold the lock, are gone."""
        self._adding = Lock()
        self.when_first = None
        if self._wider is not None:
            self._wider.forked()

    def mask(self, text: str, *, is_tail: bool = False) -> str:
        """`text` with the label of each secret in its place. With `is_tail`, the beginning of
        `text` was cut off, perhaps in the middle of a secret."""
        if not self._longest_first:
            return text
        spans = self._spans(text)
        if is_tail and (cut := self._cut(text)) is not None:
            spans = _merged([cut, *spans])
        return _replaced(text, spans)

    def split(self, text: str) -> tuple[str, str]:
        """What can be shown of a text that goes on, and its end, which is to be held back: it may
        be the beginning of a secret."""
        if not self._longest_first:
            return text, ""
        spans = self._spans(text)
        # One that would begin within a secret is not whole any more once that is masked.
        rest = text[spans[-1].end :] if spans else text
        at = len(text) - max(_overlap(rest, each) for each in self._longest_first)
        return _replaced(text[:at], spans), text[at:]

    def found_in(self, text: str) -> str | None:
        """The label of a secret that `text` contains; None if there is none."""
        for each in self.refused:
            if each in text:
                return self._labels.get(each, "[secret]")
        return None

    def check(self, encoded: bytes) -> None:
        """Raise `PayloadRefused`, with the path, if the JSON text `encoded` contains a secret."""
        if not self.refused or not any(each in encoded for each in self.refused.values()):
            return
        for path, part in _parts(loads(encoded), "$"):
            # The digits of one number in another, such as a time, are no secret.
            text = part if isinstance(part, str) else dumps(part)
            label = self.found_in(text)
            if label is not None and (isinstance(part, str) or text in self.refused):
                raise PayloadRefused(
                    f"at {path}: it contains the text of {label}, which is never recorded",
                    hint="leave it out, or record a digest of it",
                    path=path,
                )

    # --- Finding them ----------------------------------------------------------------------

    def _spans(self, text: str) -> list[_Span]:
        """Where secrets are in `text`, in order; those that overlap are one."""
        spans = []
        for each in self._longest_first:
            at = text.find(each)
            while at >= 0:
                end = at + len(each)
                while text.startswith(each, end):
                    end += len(each)
                spans.append(_Span(at, end, self._labels.get(each, "[secret]")))
                at = text.find(each, end)
        return _merged(spans)

    def _cut(self, text: str) -> _Span | None:
        """The end of a secret with which `text` begins."""
        backwards = [
            (_overlap(text[: len(each)][::-1], each[::-1]), self._labels.get(each, "[secret]"))
            for each in self._longest_first
        ]
        length, label = max(backwards)
        return _Span(0, length, label) if length >= _CUT_CHARS else None


def _merged(spans: list[_Span]) -> list[_Span]:
    merged: list[_Span] = []
    for span in sorted(spans):
        if merged and span.start < merged[-1].end:
            last = merged[-1]
            merged[-1] = last._replace(end=max(last.end, span.end))
        else:
            merged.append(span)
    return merged


def _replaced(text: str, spans: list[_Span]) -> str:
    parts, at = [], 0
    for span in spans:
        parts += [text[at : span.start], span.label]
        at = span.end
    return "".join([*parts, text[at:]])


def _overlap(text: str, secret: str) -> int:
    """The length of the longest end of `text` that is the beginning of `secret`, not all of it."""
    at = text.find(secret[0], max(0, len(text) - len(secret) + 1))
    while at >= 0:
        if secret.startswith(text[at:]):
            return len(text) - at
        at = text.find(secret[0], at + 1)
    return 0


def _spellings(text: str) -> list[str]:
    """The text and each of its lines, also escaped, and the text percent-encoded; without those
    that are too short. The text itself comes first."""
    from urllib.parse import quote, quote_plus  # Only needed where there are secrets.

    written = []
    lines = text.splitlines()[:MAX_LINES]
    for part in (text, text.strip(), *(line.strip() for line in lines)):
        written += [part, repr(part)[1:-1], dumps(part)[1:-1]]
        written.append(dumps(part, ensure_ascii=False)[1:-1])
    written += [quote(text), quote(text, safe=""), quote_plus(text)]
    return [each for each in dict.fromkeys(written) if len(each) >= MIN_CHARS]


def _parts(value: Any, path: str) -> Iterator[tuple[str, str | int | float]]:
    """The texts, keys of objects and numbers in a JSON value, with their paths."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield path, key
            yield from _parts(part, f"{path}.{key}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _parts(part, f"{path}[{index}]")
    elif isinstance(value, str | int | float):
        yield path, value
