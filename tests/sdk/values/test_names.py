"""Which names and keys are valid."""

from __future__ import annotations

from typing import Any

import pytest

from stackshift_jobs.errors import Usage
from stackshift_jobs.values.names import check_key, check_name


@pytest.mark.parametrize("name", ["a", "resizeAvatar", "email.verified", "Zoë", "a b", "x" * 128])
def test_printable_names_are_fine(name: str) -> None:
    """They have 1 to 128 characters, in any script."""
    assert check_name(name, "job") == check_name(name, "step") == name


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a\nb", "\x1b[2J", "a\u202eb", "\u200b", "\ud800", None, 7, b"a"]
)
def test_names_that_could_move_a_terminal_are_refused(name: Any) -> None:
    """Control and direction characters are refused, and so is anything that is not text."""
    with pytest.raises(Usage):
        check_name(name, "job")


@pytest.mark.parametrize("name", ["page#2", "resize[0]", "a=b", "]"])
def test_step_names_leave_room_for_occurrences_and_items(name: str) -> None:
    """Such a name is valid for a job, but not for a step."""
    assert check_name(name, "job") == name
    with pytest.raises(Usage, match="step"):
        check_name(name, "step")


@pytest.mark.parametrize("key", ["order:42", "ключ", "x" * 512, "a b/c#[1]=?"])
def test_keys_are_text_of_up_to_512_bytes(key: str) -> None:
    """Any text is valid."""
    assert check_key(key, "idempotency key") == key


@pytest.mark.parametrize(
    "key", ["", "x" * 513, "ключ" * 65, "a\tb", "\x7f", "\x85", "\x9b31m", "\ud800", None, 7]
)
def test_keys_with_control_characters_are_refused(key: Any) -> None:
    """So are those with the eighth bit: 0x9b begins a terminal command."""
    with pytest.raises(Usage):
        check_key(key, "idempotency key")
