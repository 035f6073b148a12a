"""`worker join`, up to where it needs a database."""

from __future__ import annotations

import pytest

from cli.conftest import Shell


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--processes", "0"), "--processes 0 is out of range"),
        (("--slots", "many"), "--slots takes a whole number"),
        (("--host", "a b"), "--host takes a name such as"),
    ],
)
def test_mistakes_are_told_before_anything_begins(
    shell: Shell, words: tuple[str, ...], said: str
) -> None:
    """With status 2."""
    told = shell("worker", "join", *words)
    assert told.code == 2
    assert said in told.stderr
