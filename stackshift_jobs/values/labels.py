"""The labels of a run: texts by name, by which people find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.names import check_key, check_name

MAX_LABELS: Final = 32
"""Of one run."""


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """`labels` as they are recorded. Raises `Usage` for too many, and for a name or a text that
    cannot be one."""
    check_count(len(labels))
    for name, text in labels.items():
        check_name(name, "label")
        if not isinstance(text, str):
            raise Usage(
                f"the label {name!r} is {type(text).__name__}, not text", hint=f"str({text!r})"
            )
        if text:
            check_key(text, "a label's value")
    return dict(labels)


def check_count(count: int) -> None:
    """Raise `Usage` if so many labels are too many for one run."""
    if count > MAX_LABELS:
        raise Usage(f"there are {count} labels; the limit is {MAX_LABELS}")
