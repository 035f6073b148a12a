"""How messages are delivered, to servers that take them, refuse them, hang and answer late
(guarantee: alerts)."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.deadline import wait_until
from helpers.receiver import Receiver, mail_server, receiver
from stackshift_jobs.errors import CommandFailed, NonRetryable
from stackshift_jobs.project.config import NotifySection
from stackshift_jobs.project.settings import Rate
from stackshift_jobs.retry import RetryAfter
from stackshiftd.worker.notices import delivery, http
from stackshiftd.worker.notices.delivery import Message, deliver

SUBJECT = "Bäcker failed: OSError: no flour"
MESSAGE = Message(
    "run_1", SUBJECT, f"{SUBJECT}\n\nwhat to type: <now> & here\n", {"alert": "failed"}
)


def terms(**fields: Any) -> NotifySection:
    """A `[notify.NAME]` with these settings."""
    unset = dict.fromkeys(("to", "command", "token", "sender", "smtp"))
    others = {"on": (), "jobs": (), "queues": (), "quiet_ms": 1, "max_attempts": 1}
    return NotifySection(**{**unset, **others, "rate": Rate(1, 1), **fields})


@pytest.fixture
def server() -> Iterator[Receiver]:
    """A server on this machine."""
    with receiver() as found:
        yield found


def to(server: Receiver, scheme: str, path: str = "/topic") -> str:
    """The URL of a place on the server."""
    return f"{scheme}://127.0.0.1:{server.port}{path}"


def test_ntfy_gets_title_text_and_token(server: Receiver) -> None:
    """The title as a header can hold it; the key is that of the message."""
    assert deliver(MESSAGE, terms(), to(server, "ntfy"), "tk_1") == "ntfy"
    [request] = server.received
    assert (request.path, request.key, request.body) == ("/topic", "run_1", MESSAGE.text)
    assert request.headers["Authorization"] == "Bearer tk_1"
    assert request.headers["Title"].startswith("=?utf-8?")


def test_ntfy_gets_no_more_than_it_takes(server: Receiver) -> None:
    """It would make a file of it; a character is not cut in two."""
    deliver(MESSAGE._replace(text="ü" * 4000), terms(), to(server, "ntfy"), None)
    assert server.received[0].body == "ü" * (delivery.MOST_NTFY_BYTES // 2)


def test_slack_gets_its_own_json(server: Receiver) -> None:
    """With its three special characters escaped."""
    deliver(MESSAGE, terms(), to(server, "slack", "/services/T/B/x"), None)
    [request] = server.received
    assert request.path == "/services/T/B/x"
    text = json.loads(request.body)["text"]
    assert text == f"{SUBJECT}\n```what to type: &lt;now&gt; &amp; here```"


def test_web_address_gets_all_fields(server: Receiver) -> None:
    """As JSON, with id, subject and text."""
    deliver(MESSAGE, terms(), to(server, "http", "/hook?a=1"), "secret")
    [request] = server.received
    assert request.path == "/hook?a=1"
    assert request.headers["Authorization"] == "Bearer secret"
    shown = {"id": "run_1", "subject": SUBJECT, "text": MESSAGE.text, "alert": "failed"}
    assert json.loads(request.body) == shown


def test_command_gets_the_json_on_standard_input(tmp_path: Path) -> None:
    """And in variables what a short script needs; one that fails is tried again."""
    file = tmp_path / "told"
    script = f'cat > {file}; echo "$STACKSHIFT_ALERT $STACKSHIFT_MESSAGE" >> {file}'
    assert deliver(MESSAGE, terms(command=("sh", "-c", script)), "", None) == "command"
    first, second = file.read_text().splitlines()
    assert json.loads(first)["subject"] == SUBJECT
    assert second == "failed run_1"
    with pytest.raises(CommandFailed):
        deliver(MESSAGE, terms(command=("false",)), "", None)
    with pytest.raises(NonRetryable):
        deliver(MESSAGE, terms(command=("no-such-program-here",)), "", None)


def test_mail_goes_through_a_server() -> None:
    """To all addresses; its id is the same on each try."""
    with mail_server() as (port, mails):
        settings = terms(smtp=f"smtp://127.0.0.1:{port}", sender="ops <ops@example.com>")
        for _ in range(2):
            deliver(MESSAGE, settings, "mailto:a@example.com,b@example.com", None)
        ids = [
            line for mail in mails for line in mail.splitlines() if line.startswith("Message-ID")
        ]
        assert len(ids) == 2
        assert ids[0] == ids[1]
        assert "To: a@example.com, b@example.com" in mails[0]
        assert "From: ops <ops@example.com>" in mails[0]


def test_mail_without_a_way_to_send_it_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says what to install."""
    monkeypatch.setattr("stackshiftd.worker.notices.mail.SENDMAIL_PATHS", ())
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NonRetryable, match="no sendmail"):
        deliver(MESSAGE, terms(), "mailto:a@example.com", None)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
def test_refusal_for_good_is_not_tried_again(server: Receiver, status: int) -> None:
    """With what the server says."""
    server.answers = [status]
    with pytest.raises(NonRetryable, match=f"answered {status}"):
        deliver(MESSAGE, terms(), to(server, "ntfy"), None)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503])
def test_refusal_for_now_is_tried_again(server: Receiver, status: int) -> None:
    """By the step's or the run's own policy."""
    server.answers = [status]
    with pytest.raises((OSError, RetryAfter), match=f"answered {status}"):
        deliver(MESSAGE, terms(), to(server, "ntfy"), None)


def test_redirect_is_not_followed(server: Receiver) -> None:
    """It would turn the message into a question, and may lead anywhere."""
    server.answers = [302]
    with pytest.raises(NonRetryable, match="redirects"):
        deliver(MESSAGE, terms(), to(server, "http"), None)
    assert len(server.received) == 1


def test_server_that_hangs_is_given_up(server: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """In time; the message is tried again, with the same key."""
    monkeypatch.setattr(delivery, "SECONDS", 0.05)
    server.hang()
    with pytest.raises(TimeoutError):
        deliver(MESSAGE, terms(), to(server, "ntfy"), None)
    wait_until(lambda: len(server.received) == 1, "what was given up reaches the server")
    monkeypatch.setattr(delivery, "SECONDS", 20.0)
    server.go_on()
    deliver(MESSAGE, terms(), to(server, "ntfy"), None)
    assert [request.key for request in server.received] == ["run_1", "run_1"]


def test_server_that_drips_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its bytes comes in time, and the answer never does. No more than so many requests are
    left behind by such servers."""
    monkeypatch.setattr(delivery, "SECONDS", 0.1)
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
        threading.Thread(target=drip, args=(listening, over), daemon=True).start()
        try:
            for _ in range(http.MOST_LEFT):
                with pytest.raises(TimeoutError):
                    deliver(MESSAGE, terms(), url, None)
            with pytest.raises(http.TooManyRequests):
                deliver(MESSAGE, terms(), url, None)
        finally:
            over.set()
    wait_until(lambda: all(each.name != "http" for each in threading.enumerate()), "threads to end")


def drip(listening: socket.socket, over: threading.Event) -> None:
    """Send a byte of an answer to each client now and then, until it is `over`."""
    clients = [listening.accept()[0] for _ in range(1)]
    listening.settimeout(0.01)
    while not over.wait(0.02):
        with contextlib.suppress(TimeoutError, OSError):
            clients.append(listening.accept()[0])
        for client in clients:
            with contextlib.suppress(OSError):
                client.send(b"H")
    for client in clients:
        client.close()


def test_server_that_is_not_there_is_tried_again() -> None:
    """It may be, later."""
    with receiver() as server:
        gone = to(server, "ntfy")
    with pytest.raises(OSError, match="refused"):
        deliver(MESSAGE, terms(), gone, None)
