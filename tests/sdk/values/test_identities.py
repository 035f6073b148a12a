"""What the identity of a call says: its branch, and what it is there."""

from __future__ import annotations

import pytest

from stackshift_jobs.values.identities import (
    branch_of,
    is_lock,
    is_step,
    is_timer,
    own_part,
    timer_delay,
)


@pytest.mark.parametrize(
    ("identity", "branch", "own"),
    [
        ("fetch", (), "fetch"),
        ("page#2", (), "page#2"),
        ("resize[0]", (), "resize[0]"),
        ("index/fetch", ("index",), "fetch"),
        ("index#2/fetch#3", ("index#2",), "fetch#3"),
        ("inner/leaf#12/do", ("inner", "leaf#12"), "do"),
        ("index/resize[0]", ("index",), "resize[0]"),
        ("größe/messen", ("größe",), "messen"),
        ("index//etc", ("index",), "/etc"),
        ("index/[now]", ("index",), "[now]"),
        ("index/[state.list p/]@2", ("index",), "[state.list p/]@2"),
        ("index#2/[lock a/b/c].left#2", ("index#2",), "[lock a/b/c].left#2"),
        ("[lock a/b]", (), "[lock a/b]"),
        ("[state.get a/b]#2", (), "[state.get a/b]#2"),
    ],
)
def test_branch_and_own_part_make_up_the_identity(
    identity: str, branch: tuple[str, ...], own: str
) -> None:
    """What stands in brackets is never taken for a branch."""
    assert (branch_of(identity), own_part(identity)) == (branch, own)
    assert "/".join((*branch, own)) == identity


@pytest.mark.parametrize(
    "name",
    [
        "/",
        "/etc/passwd",
        "a/",
        "a/#2",
        "a/[0]",
        "https://example.org/x",
        "part 1/2",
        "1/2",
        "a-b/c",
        "a#0/b",
        "a#/b",
        "a#2#3/b",
    ],
)
def test_slash_after_anything_but_a_function_s_name_is_part_of_the_name(name: str) -> None:
    """A branch is an identifier, perhaps with its occurrence, and something follows it."""
    assert (branch_of(name), own_part(name)) == ((), name)


def test_calls_that_are_not_steps_are_recognized_in_every_branch() -> None:
    """Steps, locks and timers of the main branch and of others are told apart alike."""
    for prefix in ("", "index/", "inner/leaf#2/"):
        assert [is_step(prefix + each) for each in ("a", "a[0]", "[now]", "[lock k]")] == [
            True,
            True,
            False,
            False,
        ]
        assert is_lock(prefix + "[lock k]") and not is_lock(prefix + "[lock.extend k]")
        assert is_timer(prefix + "[timer 5.0s]#2") and not is_timer(prefix + "timer")
        assert timer_delay(prefix + "[timer 1h00m]#2") == "1h00m"
