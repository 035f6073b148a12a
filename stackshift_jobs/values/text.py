"""Text that came from anywhere, made fit to be recorded and sent."""

from __future__ import annotations


def readable(text: str) -> str:
    """`text` as UTF-8 can hold it: half of a surrogate pair, which is what Python makes of bytes in
    file names and arguments that are not UTF-8, is escaped (`\\udce9`)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
