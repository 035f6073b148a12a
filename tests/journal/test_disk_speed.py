"""Which disks the event loop waits for."""

from __future__ import annotations

import itertools

from stackshiftd.journal.disk_speed import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    PAUSE_SHARE,
    PROVEN,
    QUICK_SECONDS,
    DiskSpeed,
)


def commits(speed: DiskSpeed, seconds: float, now: float, until: float, gap: float = 0.01) -> int:
    """How many commits of so many seconds, with a gap between them, the loop waits for."""
    waits = 0
    while now < until:
        if speed.is_quick(now):
            speed.took(now, now + seconds)
            waits += 1
        now += seconds + gap
    return waits


def test_loop_waits_for_each_commit_of_a_quick_disk() -> None:
    """Also for one that takes a little longer now and then."""
    speed = DiskSpeed()
    now = 0.0
    for number in range(1000):
        assert speed.is_quick(now)
        took = QUICK_SECONDS * (5 if number % 50 == 0 else 0.3)
        speed.took(now, now + took)
        now += took


def test_loop_hardly_waits_for_a_slow_disk() -> None:
    """It is tried again, each time after a longer pause: a few times in an hour."""
    assert 0 < commits(DiskSpeed(), 3 * QUICK_SECONDS, 0.0, 3600.0) < 600


def test_one_commit_that_takes_long_is_enough_for_a_pause() -> None:
    """A short one, if the disk was quick until then."""
    speed = DiskSpeed()
    took = 11 * QUICK_SECONDS
    now = 0.0
    for _ in range(3):
        assert commits(speed, 0.0, now, now + 10.0) >= PROVEN
        began, now = now + 10.0, now + 10.0 + took
        speed.took(began, now)
        assert not speed.is_quick(now)
        now += PAUSE_SHARE * took
        assert speed.is_quick(now)


def test_loop_loses_little_time_with_a_disk_that_stands_still() -> None:
    """Not more than a fiftieth, whether it stands still for a moment or for a second each time."""
    for took in (0.02, 0.2, 1.0):
        assert commits(DiskSpeed(), took, 0.0, 60.0) * took <= 60.0 / PAUSE_SHARE + took


def test_pause_grows_while_the_disk_is_slow_but_not_for_ever() -> None:
    """The longest is a minute."""
    speed = DiskSpeed()
    now, pauses = 0.0, []
    for _ in range(20):
        speed.took(now, now + 11 * QUICK_SECONDS)
        began = now = now + 11 * QUICK_SECONDS
        while not speed.is_quick(now):
            now += FIRST_PAUSE_SECONDS / 2
        pauses.append(round(now - began, 2))
    assert all(
        after >= before - FIRST_PAUSE_SECONDS for before, after in itertools.pairwise(pauses)
    )
    assert LONGEST_PAUSE_SECONDS <= pauses[-1] <= LONGEST_PAUSE_SECONDS + FIRST_PAUSE_SECONDS
