"""What the daemon refuses is called as it was typed."""

from __future__ import annotations

import pytest

from stackshift_cli.commands.catalogue import COMMANDS
from stackshift_cli.commands.typed_names import as_typed
from stackshift_jobs.errors import Usage

CALLED = {" ".join(command.path): command for command in COMMANDS}


@pytest.mark.parametrize(
    ("command", "refused", "told"),
    [
        ("start", "on_duplicate must be refuse", "--on-duplicate must be refuse"),
        ("start", "ttl_ms 0 is out of range", "--ttl 0 is out of range"),
        ("start", "max_attempts 0 is out of range", "--max-attempts 0 is out of range"),
        ("schedules add", "overlap must be allow", "--overlap must be allow"),
        ("schedules add", "jitter can be at most a day", "--jitter can be at most a day"),
        ("schedules add", "expect: 'x' is not one", "--expect: 'x' is not one"),
        ("schedules add", "'catch_up' is not a job", "'catch_up' is not a job"),
        ("start", "there is no queue named so", "there is no queue named so"),
        ("start", "queue media is paused", "queue media is paused"),
        ("runs list", "on_duplicate must be refuse", "on_duplicate must be refuse"),
    ],
)
def test_parameter_is_spelled_as_the_option(command: str, refused: str, told: str) -> None:
    """Where the command has that option; what was quoted stays as it is."""
    assert as_typed(Usage(refused), CALLED[command]).message == told


def test_hint_is_spelled_so_too_and_fields_are_kept() -> None:
    """Nothing else of the error changes."""
    refused = Usage("catch_up_for is given", hint='catch_up is "skip"', path="$")
    typed = as_typed(refused, CALLED["schedules add"])
    assert typed.as_json() == {
        "code": "usage",
        "message": "--catch-up-for is given",
        "hint": '--catch-up is "skip"',
        "path": "$",
    }
