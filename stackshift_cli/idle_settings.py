"""Settings that are valid and have no effect in this version.

They load, so that a file written for a later version does; nothing here offers them, and who sets
one is told. The daemon says the same of those it finds in the file.
"""

from __future__ import annotations

from typing import Final

from stackshift_jobs.config import QUEUES, Key

_SECTIONS: Final = frozenset((QUEUES,))
_KEYS: Final = frozenset(("project.watch",))


def is_idle(key: Key) -> bool:
    """Has `key` no effect in this version?"""
    return key.section in _SECTIONS or key.path in _KEYS
