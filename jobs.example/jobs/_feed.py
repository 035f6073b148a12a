"""Reading the CSV file as if it came over a bad line: the first request for a piece times out."""

from __future__ import annotations

import csv
from hashlib import sha256
from itertools import islice
from pathlib import Path

from jobs._files import OUT, write_atomically


def count_rows(file: str) -> int:
    """Rows below the heading."""
    with Path(file).open(newline="", encoding="utf-8") as lines:
        return sum(1 for _ in csv.DictReader(lines))


def read_rows(file: str, first: int, count: int, *, request: str) -> list[dict[str, str]]:
    """`count` rows from number `first` on. The first time that a `request` is made, it fails."""
    seen = OUT / "feed" / sha256(request.encode()).hexdigest()[:16]
    if not seen.exists():
        write_atomically(seen, b"")
        raise TimeoutError(f"no answer for rows {first} to {first + count - 1} of {file}")
    with Path(file).open(newline="", encoding="utf-8") as lines:
        return list(islice(csv.DictReader(lines), first, first + count))
