"""Delivering a message: to ntfy, Slack, a web address, by mail, or to a program.

A server that refuses for good (a wrong token, a topic that does not exist) fails the message at
once, which puts it into the dead letter where `doctor` sees it; everything else is tried again.
Each try of one message carries the same key, by which a receiver can tell that it had it.
"""

from __future__ import annotations

from json import dumps
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from stackshift_jobs.errors import CommandFailed, NonRetryable
from stackshift_jobs.handler.command import run_command
from stackshift_jobs.programs.program import Program
from stackshift_jobs.project.config import NotifySection
from stackshift_jobs.retry import RetryAfter
from stackshift_jobs.values.durations import MAX_DURATION_MS
from stackshiftd.worker.notices.http import Answer, post
from stackshiftd.worker.notices.mail import mail

SECONDS: Final = 20.0
"""How long a server may take."""
COMMAND_MS: Final = 60_000
FINAL_STATUS: Final = frozenset((400, 401, 403, 404, 405, 410, 413, 415, 422))
MOST_NTFY_BYTES: Final = 3500
"""ntfy makes a file of a message over 4096 bytes."""
MOST_SLACK: Final = 3500
LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))
_TAGS: Final = {
    "failed": "x",
    "late": "hourglass",
    "missing": "question",
    "recovered": "white_check_mark",
}


class Message(NamedTuple):
    """What is delivered. `key` is the same on each try; `fields` are what programs read."""

    key: str
    subject: str
    text: str
    fields: dict[str, Any]


def deliver(message: Message, terms: NotifySection, to: str, token: str | None) -> str:
    """Deliver a message; blocks. `to` is the destination, empty for a command. Returns in a word
    what took it. Raises `NonRetryable`, or whatever it is worth trying again after."""
    if terms.command is not None:
        return _run(message, terms.command)
    scheme = urlsplit(to).scheme
    if scheme == "mailto":
        sender, server = terms.sender, terms.smtp
        mail(to, sender, message.subject, message.text, message.key, server, token)
        return "mail"
    if scheme == "ntfy":
        _check(_ntfy(message, to, token))
    elif scheme == "slack":
        _check(_slack(message, to))
    elif scheme in ("https", "http"):
        _check(_web(message, to, token))
    else:
        raise NonRetryable(
            "the destination is none that can be sent to", hint="man stackshift.toml"
        )
    return scheme


def _ntfy(message: Message, to: str, token: str | None) -> Answer:
    parts = urlsplit(to)
    headers = {
        "Title": _header(message.subject),
        "Priority": "low" if message.fields["alert"] == "recovered" else "default",
        "Tags": _TAGS.get(message.fields["alert"], "information_source"),
        "Idempotency-Key": message.key,
        "Content-Type": "text/plain; charset=utf-8",
    }
    token = token or (unquote(parts.username) if parts.username else None)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    body = message.text.encode()[:MOST_NTFY_BYTES].decode("utf-8", "ignore").encode()
    return post(_address(to) + parts.path, body, headers, SECONDS)


def _slack(message: Message, to: str) -> Answer:
    parts = urlsplit(to)
    first, _, rest = message.text.partition("\n")
    body = {"text": f"{_escaped(first)}\n```{_escaped(rest.strip())[:MOST_SLACK]}```"}
    return post(
        _address(to) + parts.path,
        dumps(body).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": message.key},
        SECONDS,
    )


def _web(message: Message, to: str, token: str | None) -> Answer:
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.key}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return post(to, _json(message), headers, SECONDS)


def _json(message: Message) -> bytes:
    return dumps(
        {"id": message.key, "subject": message.subject, "text": message.text, **message.fields}
    ).encode()


def _run(message: Message, command: tuple[str, ...]) -> str:
    env = {
        "STACKSHIFT_ALERT": message.fields["alert"],
        "STACKSHIFT_SUBJECT": message.subject,
        "STACKSHIFT_MESSAGE": message.key,
    }
    program = Program(command, env=env, stdin=_json(message) + b"\n", timeout_ms=COMMAND_MS)
    try:
        run_command(program, check=True)
    except FileNotFoundError as bad:
        raise NonRetryable(f"the command cannot be run: {bad}") from bad
    except CommandFailed:
        raise
    return "command"


def _address(to: str) -> str:
    """The server of a destination. On this machine it is spoken to in the clear."""
    parts = urlsplit(to)
    host = parts.hostname or ""
    scheme = "http" if host in LOOPBACK else "https"
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}" + (f":{parts.port}" if parts.port else "")


def _check(answer: Answer) -> None:
    """Raise what an answer that refuses a message means."""
    if 200 <= answer.status < 300:
        return
    said = " ".join(answer.text.split())[:200]
    text = f"the server answered {answer.status}" + (f": {said}" if said else "")
    if answer.status in FINAL_STATUS:
        raise NonRetryable(text, hint="correct [notify] in stackshift.toml, then: dead retry")
    if 300 <= answer.status < 400:
        raise NonRetryable(f"{text}: it redirects", hint="write the URL that it redirects to")
    seconds = answer.retry_after or ""
    if seconds.isdecimal() and 0 < int(seconds) * 1000 <= MAX_DURATION_MS:
        raise RetryAfter(f"{int(seconds)}s", message=text)
    raise OSError(text)


def _header(line: str) -> str:
    """A line as a header can hold it (RFC 2047 for what is not ASCII, which ntfy decodes)."""
    if line.isascii():
        return line
    from email.header import Header

    return Header(line, "utf-8", maxlinelen=10_000).encode()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
