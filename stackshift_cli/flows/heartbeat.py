"""`--heartbeat D` and `--output-beats`, of the commands that run the program of a step."""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_jobs.errors import Usage


def heartbeat_of(given: Given) -> int | None:
    """How long the program may give no sign of life, in milliseconds; None for ever. Raises
    `Usage`."""
    heartbeat_ms = given.positive_ms("heartbeat", "leave it out, or write 1m")
    if heartbeat_ms is None and given.flag("output_beats"):
        raise Usage("--output-beats requires --heartbeat", hint="--heartbeat 1m --output-beats")
    return heartbeat_ms
