"""One HTTP request that is over in time, whatever the server does.

The time limits of sockets are for each read, so a server that sends a byte now and then holds a
request for ever. Here the request is made on a thread of its own, which is left behind when the
time is over; the number of threads left behind is bounded. No redirect is followed: it would turn
what is posted into a question.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from threading import Event, Semaphore, Thread
from typing import Any, Final, NamedTuple

MOST_LEFT: Final = 16
"""Requests under way or left behind at a time, in one process."""
MOST_READ: Final = 2048
"""Bytes of an answer that are read: the beginning of what it says if it refuses."""


class Answer(NamedTuple):
    """What a server answered: its status, the beginning of what it said, and `Retry-After`."""

    status: int
    text: str
    retry_after: str | None


class TooManyRequests(OSError):
    """Too many requests are under way or were left behind by servers that do not answer."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


_left: Final = Semaphore(MOST_LEFT)


def post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
    """Post `body` to `url`; blocks for at most `seconds`.

    Raises `TimeoutError` if there is no answer by then (whether it has arrived is not known),
    `TooManyRequests`, and `OSError` if the server cannot be reached.
    """
    outcome: list[Answer | OSError] = []
    done = Event()

    def end(answer: Answer | OSError) -> None:
        outcome.append(answer)
        done.set()

    begin(url, body, headers, seconds, end)
    if not done.wait(seconds):
        raise TimeoutError(f"no answer within {seconds:g} s")
    [answer] = outcome
    if isinstance(answer, OSError):
        raise answer
    return answer


async def post_awaited(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
    """The same without blocking the loop."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Answer | OSError] = loop.create_future()

    def settle(answer: Answer | OSError) -> None:
        if not ended.done():
            ended.set_result(answer)

    def end(answer: Answer | OSError) -> None:
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any more.
            loop.call_soon_threadsafe(settle, answer)

    begin(url, body, headers, seconds, end)
    try:
        answer = await asyncio.wait_for(ended, seconds)
    except TimeoutError:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def begin(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    seconds: float,
    end: Callable[[Answer | OSError], None],
) -> None:
    """Make the request on a thread, which calls `end` with how it ended, perhaps much later. Raises
    `TooManyRequests`."""
    if not _left.acquire(blocking=False):
        raise TooManyRequests(f"{MOST_LEFT} requests are waiting for servers that do not answer")

    def run() -> None:
        try:
            answer: Answer | OSError = _post(url, body, headers, seconds)
        except OSError as bad:
            answer = bad
        except Exception as bad:  # What is sent back may be no HTTP at all.
            answer = OSError(f"{type(bad).__name__}: {bad}")
        finally:
            _left.release()
        end(answer)

    Thread(target=run, name="http", daemon=True).start()


def _post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
    request = urllib.request.Request(url, body, dict(headers), method="POST")
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=seconds) as response:
            return Answer(response.status, _said(response), response.headers.get("Retry-After"))
    except urllib.error.HTTPError as refused:
        with refused:
            return Answer(refused.code, _said(refused), refused.headers.get("Retry-After"))
    except urllib.error.URLError as bad:
        if isinstance(bad.reason, OSError):
            raise bad.reason from None
        raise OSError(str(bad.reason)) from None


def _said(response: Any) -> str:
    return str(response.read(MOST_READ).decode("utf-8", "replace"))
