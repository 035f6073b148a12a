"""Signals to stop arrive in the main thread, or nowhere."""

from __future__ import annotations

import signal

from stackshiftd.stop_signals import NUMBERS, executor_without_them


def test_threads_that_may_outlive_the_daemon_take_no_signal_to_stop() -> None:
    """One that arrives while the process replaces itself waits for the next one, if all threads
    leave it alone."""
    with executor_without_them(1, "ending") as executor:
        blocked = executor.submit(signal.pthread_sigmask, signal.SIG_BLOCK, ()).result()
    assert blocked >= set(NUMBERS)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(NUMBERS)
