"""`stackshift start JOB …` at the speed that shell loops need.

For a plain command line and a project whose daemon runs: parse with the small parser, one request
over the socket, print the id. Whatever is not plain goes to Typer, before anything has been said or
sent; the meaning is the same, since both share `table`, `request` and `started`.
"""

from __future__ import annotations

from stackshift_cli import user_config
from stackshift_cli.given import Given, Globals
from stackshift_cli.plain import parse
from stackshift_cli.table import START


def start(argv: list[str]) -> int | None:
    """Start the run that `argv` asks for; the exit status, or None if this is not ours to do."""
    parsed = parse(argv, START)
    if parsed is None or any(parsed.values[name] for name in ("wait", "follow", "batch")):
        return None
    options = Globals(**parsed.globals)
    if options.color not in (None, "auto", "always", "never"):
        return None
    if user_config.may_want_json():
        return None
    from stackshift_cli.session import Session
    from stackshift_cli.started import start_one

    return start_one(Session(options), Given(parsed.values))
