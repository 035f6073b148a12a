"""For all tests: programs that they start can be interrupted.

A suite that a shell has put into the background is started with SIGINT ignored, and what it starts
would inherit that: a Ctrl-C sent to it would then do nothing.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.default_int_handler)
