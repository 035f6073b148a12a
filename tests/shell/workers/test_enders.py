"""The threads in which workers are ended leave signals to the main thread."""

from __future__ import annotations

import signal

from stackshiftd.shell.workers.enders import enders
from stackshiftd.stop_signals import NUMBERS


def test_threads_that_may_outlive_the_daemon_take_no_signal_to_stop() -> None:
    """One that arrives while the process replaces itself waits for the next one, if all threads
    leave it alone."""
    with enders(1) as executor:
        blocked = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert blocked >= set(NUMBERS)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(NUMBERS)
