"""What the command line says: data on stdout, talk on stderr, errors in their one form.

    error[not_found]: no run ends in 9x2q
    hint: stackshift runs list

Everything that others have named or written passes `safe_text` on its way out. Nothing else in the
package writes to stderr, except the live picture that `render` draws.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from stackshift_jobs.errors import StackshiftError


def data(text: str) -> None:
    """A line of data."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """A line for the person."""
    sys.stderr.write(text + "\n")


def error(bad: StackshiftError, as_json: bool) -> int:
    """Say what went wrong; the exit status that it ends with."""
    from stackshift_cli.output.safe_text import safe

    say(f"error[{bad.code}]: {safe(bad.message)}")
    for line in bad.fields.get("difference") or ():
        say(f"  {safe(str(line))}")
    for module in bad.fields.get("failed_modules") or ():
        if isinstance(module, dict):
            say(f"  {safe(failed_module(module))}")
    if bad.hint:
        say(f"hint: {safe(bad.hint)}")
    if as_json:
        say(compact({"error": bad.as_json()}))
    return bad.exit_status


def failed_module(module: dict[str, Any]) -> str:
    """A module that did not import: `jobs/media.py:3: SyntaxError: invalid syntax`."""
    place = str(module.get("file") or module.get("module"))
    line = f":{module['line']}" if module.get("line") else ""
    return f"{place}{line}: {module.get('type')}: {module.get('message')}"


def compact(value: Any) -> str:
    """`value` as one line of JSON, ASCII only, so that nothing in it can move a terminal."""
    return json.dumps(value, separators=(",", ":"), default=str)


def shown(value: Any) -> str:
    """`value` as JSON for people: other scripts as they are."""
    from stackshift_cli.output.safe_text import safe

    return safe(json.dumps(value, ensure_ascii=False, default=str))
