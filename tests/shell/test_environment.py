"""The variables that workers get from a file."""

from __future__ import annotations

from pathlib import Path

from stackshiftd.shell.environment import read_env_file


def test_env_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors write one; it is no part of the first name."""
    file = tmp_path / ".env"
    file.write_bytes(b"\xef\xbb\xbfFIRST=1\nSECOND=\xc3\xa9\n")
    assert read_env_file(file) == {"FIRST": "1", "SECOND": "é"}
