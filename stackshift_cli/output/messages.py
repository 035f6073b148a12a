"""The command line's messages: data on stdout, everything else on stderr, errors in one form.

    error[not_found]: no run ends in 9x2q
    hint: stackshift runs list

Names, payloads and errors, which others wrote, pass `safe_text` before they are printed. Nothing
else in the package writes to stderr, except the live picture of `render`, the progress line of a
batch and the question of `confirm`.
"""

from __future__ import annotations

import sys

from stackshift_jobs.errors import StackshiftError, import_error
from stackshift_jobs.values import json_text

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Any, Final

_WHOLE: Final = ("hint: ", "as cron: ")
"""How lines begin that have a command to be typed in them."""


def data(text: str) -> None:
    """Print a line of data on stdout."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Print a line for the person on stderr; on a terminal it is broken between words. A command
    that is to be typed stays in one piece: pasted in two, it would be two."""
    from stackshift_cli.output.terminal import is_terminal

    if is_terminal(sys.stderr) and not text.startswith(_WHOLE):
        from stackshift_cli.output.wrapping import sentence, width_of

        width = width_of(sys.stderr)
        text = "\n".join(sentence(line, width) for line in text.split("\n"))
    sys.stderr.write(text + "\n")


def moment(at: str) -> str:
    """The time `at` for such a line: by the local clock on a terminal, else as it is."""
    from stackshift_cli.output.terminal import is_terminal

    if not is_terminal(sys.stderr):
        return at
    from stackshift_cli.output.clock import Clock

    return Clock.now().moment(at)


def error(bad: StackshiftError, as_json: bool) -> int:
    """Print the error `bad` and its hint on stderr, with `as_json` also as a JSON object; return
    its exit status."""
    from stackshift_cli.errors import WatchedRunFailed
    from stackshift_cli.output.safe_text import safe

    say(f"error[{bad.code}]: {safe(_message(bad))}")
    for line in bad.lines if isinstance(bad, WatchedRunFailed) else ():
        say(f"  {safe(line)}")
    for line in bad.fields.get("difference") or ():
        say(f"  {safe(str(line))}")
    for module in bad.fields.get("failed_modules") or ():
        # The first is often part of the message, for programs that show nothing else.
        if isinstance(module, dict) and (line := failed_module(module)) not in bad.message:
            say(f"  {safe(line)}")
    if bad.hint:
        say(f"hint: {safe(bad.hint)}")
    if as_json:
        sys.stderr.write(compact({"error": bad.as_json()}) + "\n")
    return bad.exit_status


def _message(bad: StackshiftError) -> str:
    """What went wrong; on a terminal, the end of a lock is a time of the local clock."""
    expires_at = bad.fields.get("expires_at")
    if isinstance(expires_at, str):
        for written in (expires_at, f"{expires_at[:19]}Z"):
            if bad.message.endswith(f" until {written}"):
                return bad.message.removesuffix(written) + moment(expires_at)
    return bad.message


def failed_module(module: dict[str, Any]) -> str:
    """The line for a module that failed to import:
    `jobs/media.py:3: SyntaxError: invalid syntax`; for an error of ours, what it says."""
    place = str(module.get("file") or module.get("module"))
    line = f":{module['line']}" if module.get("line") else ""
    why = import_error(str(module.get("type")), str(module.get("message")))
    return f"{place}{line}: {why}"


_in_ascii: Final = json_text.encoder(ensure_ascii=True, allow_nan=True, default=str)
_in_any_script: Final = json_text.encoder(ensure_ascii=False, allow_nan=True, default=str)


def compact(value: Any) -> str:
    """`value` as one line of JSON. It is ASCII, so that nothing in it can control a terminal; a
    person at one that shows other scripts reads these as they are, without what could control
    it."""
    text = _in_ascii(value).replace("\x7f", "\\u007f")
    if "\\u" not in text:
        return text
    from stackshift_cli.output.terminal import is_terminal, shows_unicode

    if not (is_terminal(sys.stdout) and shows_unicode()):
        return text
    from stackshift_cli.output.safe_text import safe_json

    return safe_json(_in_any_script(value))


def shown(value: Any) -> str:
    """`value` as JSON for people: text in any script is shown as it is."""
    import json

    from stackshift_cli.output.safe_text import safe

    return safe(json.dumps(value, ensure_ascii=False, default=str))
