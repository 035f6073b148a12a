"""Where a line of a run's log is from."""

from __future__ import annotations

import pytest

from stackshift_cli.output.log_lines import origin


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"step": "upload", "stream": "stdout", "level": ""}, "upload "),
        ({"step": "upload", "stream": "stderr", "level": None}, "upload stderr "),
        ({"step": None, "stream": "stderr"}, "stderr "),
        ({"step": "a\x1b", "stream": "log", "level": "WARNING"}, "a\\x1b WARNING "),
        ({"step": None, "stream": "log", "level": ""}, "log "),
        ({"step": None, "stream": "stdout"}, ""),
    ],
    ids=str,
)
def test_line_that_is_not_standard_output_says_so(line: dict[str, str], words: str) -> None:
    """By its stream, or by the level that it was logged with."""
    assert origin(line) == words
    assert origin(line | {"step": "x"}, with_step=False) == origin(line | {"step": ""})
