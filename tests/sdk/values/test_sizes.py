"""Numbers of bytes for people."""

from __future__ import annotations

from stackshift_jobs.values.sizes import size_text


def test_size_is_in_its_largest_unit() -> None:
    """With one decimal, unless that is 0; rounded down, so that no more is free than is said."""
    assert [size_text(size) for size in (0, 1023, 1024, 1100, 2047)] == [
        *("0 B", "1023 B", "1 KiB", "1 KiB", "1.9 KiB"),
    ]
    assert [size_text(1 << 20), size_text(16 << 20), size_text(5 << 29)] == [
        *("1 MiB", "16 MiB", "2.5 GiB"),
    ]
