"""The lives of a run, a lock, an event and a queue, as commands and what they lead to.

They are to be read: whoever changes a rule of the core sees here what else it changes.
`pytest tests/core/test_transcripts.py --rewrite` updates the answers; the difference is then
the change.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.transcript import rewritten

FILES = sorted((Path(__file__).parent / "testdata").glob("*.txt"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_transcript_is_what_the_core_says(file: Path, request: pytest.FixtureRequest) -> None:
    """Command by command: the same records, effects, replies and errors."""
    text = file.read_text(encoding="utf-8")
    now = rewritten(text)
    if request.config.getoption("--rewrite"):
        file.write_text(now, encoding="utf-8")
    else:
        assert now == text


def test_there_are_transcripts() -> None:
    """A folder that moved would leave nothing to compare."""
    assert {file.stem for file in FILES} >= {"run", "lock", "event", "queue"}
