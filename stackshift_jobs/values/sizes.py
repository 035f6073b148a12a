"""Numbers of bytes for people."""

from __future__ import annotations

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def size_text(size_bytes: int) -> str:
    """With one decimal of the largest unit, rounded down: `12.3 MiB`, `64 MiB`, `17 B`."""
    for unit, size in _UNITS:
        if size_bytes >= size:
            tenths = size_bytes * 10 // size
            whole, part = divmod(tenths, 10)
            return f"{whole}.{part} {unit}" if part else f"{whole} {unit}"
    return f"{size_bytes} B"
