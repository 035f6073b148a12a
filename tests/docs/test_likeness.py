"""What counts as the same output."""

from __future__ import annotations

import pytest

from docs.likeness import matches, missing

ID, OTHER = "run_01m81xeb3yyy3y8rkpge44w1yj", "run_01m81xvkg12rzgngmazdktg2rj"


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        (ID, OTHER),
        ("started stackshiftd (pid 12)", "started stackshiftd (pid 34567)"),
        ("✓ total    ████        2.1s", "✓ total  ██   ██████  812ms"),
        ("  STEP   0s    1s", "  STEP   0s       500ms"),
        ("error[conflict]: …", "error[conflict]: the key is taken"),
        ("queued 4m: media 4/4 busy", "queued 12s: media 4/4 busy"),
        ("✓ write   █  4ms", "✓ write    1.2s"),
        (
            "tick  @every 2s  UTC  18:20:06, in 2s",
            "tick  @every 2s  UTC  16:15:43, in 1s  1s ago  completed",
        ),
        ("6    21:23:29  incremented  2", "7    17:09:57  incremented  2"),
        ('{"crc":"d0567ae4","seq":24,"wm":23}', '{"crc":"00ff12ab","seq":31,"wm":30}'),
    ],
)
def test_what_varies_makes_no_difference(page: str, printed: str) -> None:
    """Ids, times, process ids and bars may differ."""
    assert matches(page, printed)


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("completed", "failed"),
        (f"{ID} completed", f"{ID} failed"),
        ("attempt 1/3", "attempt 2/3"),
        ("✓ write   █  4ms", "✗ write   █  4ms"),
        ("exit 5", "exit 6"),
        ("tick  UTC  18:20:06, in 2s", "tick  UTC  16:15:43, in 1s  1s ago  failed"),
    ],
)
def test_what_is_said_makes_a_difference(page: str, printed: str) -> None:
    """Words and numbers that mean something must be there."""
    assert not matches(page, printed)


def test_each_line_must_be_there_as_often_as_the_page_has_it() -> None:
    """A page may leave lines out, and may not show one twice that was printed once."""
    assert missing(["a", "c"], ["a", "b", "c"]) is None
    assert missing(["c", "", "a"], ["a", "b", "c"]) is None
    assert missing(["a", "d"], ["a", "b"]) == "d"
    assert missing(["a", "a"], ["a", "b"]) == "a"


def test_message_that_was_broken_between_words_is_one_line() -> None:
    """Its lines stand for one of the page; others do not go on."""
    printed = ["error[x]: one two", "  three", "  four", "hint: y", "  z"]
    assert missing(["error[x]: one two three four", "hint: y", "  z"], printed) is None
    assert missing(["error[x]: one two three four", "  three"], printed) == "  three"
    assert missing(["error[x]: one two three", "  four hint: y"], printed) == "  four hint: y"
