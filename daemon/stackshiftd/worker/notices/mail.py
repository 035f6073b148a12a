"""A message as mail: through the `sendmail` program, or a mail server."""

from __future__ import annotations

import getpass
import os
import shutil
import smtplib
import socket
import ssl
from email.message import EmailMessage
from email.utils import formatdate
from typing import Final
from urllib.parse import unquote, urlsplit

from stackshift_jobs.errors import NonRetryable
from stackshift_jobs.handler.command import run_command
from stackshift_jobs.programs.program import Program

SENDMAIL_PATHS: Final = ("/usr/sbin/sendmail", "/usr/lib/sendmail", "/sbin/sendmail")
SECONDS: Final = 30.0


def mail(
    to: str,
    sender: str | None,
    subject: str,
    text: str,
    message_id: str,
    server: str | None,
    password: str | None,
) -> None:
    """Send mail to the addresses of the URL `to` (`mailto:a@b.c,d@e.f`). Raises what delivering it
    raises, and `NonRetryable` if there is no way to deliver it."""
    message = EmailMessage()
    host = socket.getfqdn()
    message["From"] = sender or f"stackshift <{_user()}@{host}>"
    message["To"] = ", ".join(unquote(name) for name in urlsplit(to).path.split(","))
    message["Subject"] = subject
    message["Date"] = formatdate()
    # The same on each try, so that a reader's program shows one of two that arrive.
    message["Message-ID"] = f"<{message_id}@stackshift.{host}>"
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(text)
    if server is not None:
        _over_smtp(message, server, password)
        return
    sendmail = _sendmail()
    if sendmail is None:
        raise NonRetryable(
            "there is no sendmail program",
            hint='install one (msmtp, postfix), or set smtp = "smtp://HOST" in [notify.NAME]',
        )
    argv = (sendmail, "-oi", "-t")
    run_command(
        Program(argv, stdin=message.as_bytes(), timeout_ms=round(SECONDS * 1000)), check=True
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.geteuid())


def _sendmail() -> str | None:
    return next((path for path in SENDMAIL_PATHS if os.access(path, os.X_OK)), None) or (
        shutil.which("sendmail")
    )


def _over_smtp(message: EmailMessage, server: str, password: str | None) -> None:
    parts = urlsplit(server)
    host, context = parts.hostname or "", ssl.create_default_context()
    smtp: smtplib.SMTP
    if parts.scheme == "smtps":
        smtp = smtplib.SMTP_SSL(host, parts.port or 465, timeout=SECONDS, context=context)
    else:
        smtp = smtplib.SMTP(host, parts.port or 25, timeout=SECONDS)
    with smtp:
        smtp.ehlo()
        if parts.scheme == "smtp" and smtp.has_extn("starttls"):
            smtp.starttls(context=context)
            smtp.ehlo()
        if parts.username and password is not None:
            if not isinstance(smtp.sock, ssl.SSLSocket) and host not in ("localhost", "127.0.0.1"):
                raise NonRetryable(f"{host} takes no encrypted connection, so no password is sent")
            smtp.login(unquote(parts.username), password)
        smtp.send_message(message)
