"""How hypothesis looks for examples: the same ones each time, and however slow the machine is.

With STACKSHIFT_LONG=1 it looks for new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile(
    "stackshift", deadline=None, derandomize=os.environ.get("STACKSHIFT_LONG") != "1"
)
settings.load_profile("stackshift")
