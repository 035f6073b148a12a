"""What a daemon that follows says by itself to its clients, also if nobody leads."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any, Final

import pytest

from helpers.deadline import SECONDS
from stackshift_jobs.errors import DaemonUnavailable, NotFound
from stackshiftd.shell.cluster.streams import Streams
from stackshiftd.shell.server.connection import Connection
from stackshiftd.shell.server.jsonrpc import Request
from stackshiftd.shell.server.relay import Relays
from stackshiftd.shell.server.turns import Turns

MAX_LINE: Final = 2000
LINES: Final = {
    "not JSON": b"{",
    "empty": b"",
    "not UTF-8": b'"\xff"',
    "an array": b"[]",
    "no method": b'{"jsonrpc":"2.0","id":7}',
    "another version": b'{"jsonrpc":"1.0","id":7,"method":"daemon.status"}',
    "another version, no id": b'{"jsonrpc":"1.0","method":"daemon.status"}',
    "an unknown field": b'{"jsonrpc":"2.0","id":"x","method":"daemon.status","more":1}',
    "an odd id": b'{"jsonrpc":"2.0","id":[],"method":"daemon.status"}',
    "nested too deeply": b'{"jsonrpc":"2.0","id":7,"more":' + b"[" * 1500,
    "too long": b'"' + b"x" * MAX_LINE + b'"',
}


async def dial() -> Streams:
    """Nobody leads."""
    raise DaemonUnavailable("nobody leads")


async def answer(request: Request) -> Any:
    """As a daemon answers for itself; one of its methods has a mistake in it."""
    if request.method == "daemon.metrics":
        raise RuntimeError("a mistake")
    if request.method == "cluster.forget":
        raise NotFound("no such host")
    return {"role": "follows"}


class _Methods:
    """What a daemon that leads would serve; it is asked nothing here."""

    def opened(self, _connection: Connection) -> bool:
        return True

    def closed(self, _connection: Connection) -> None:
        return


def follower() -> asyncio.Protocol:
    """The end of a connection of a daemon that follows."""
    return Relays(dial, answer, MAX_LINE, 8).connect()


def leader() -> asyncio.Protocol:
    """The end of a connection of a daemon that leads."""
    methods: Any = _Methods()
    return Connection(methods, Turns(), MAX_LINE)


def said(make: Callable[[], asyncio.Protocol], *lines: bytes, answers: int = 1) -> list[bytes]:
    """The answers to these lines, from a connection that is made by `make`; there are so many."""

    async def talk() -> list[bytes]:
        ours, theirs = socket.socketpair()
        await asyncio.get_running_loop().create_unix_connection(make, sock=theirs)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(b"".join(line + b"\n" for line in lines))
        async with asyncio.timeout(SECONDS):
            heard = [await reader.readline() for _ in range(answers)]
            writer.write_eof()
            assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        return heard

    return asyncio.run(talk())


def asked(method: str, number: int | None) -> bytes:
    """The line of a request; without a number it is a notification."""
    request = {"jsonrpc": "2.0", "method": method} | ({} if number is None else {"id": number})
    return json.dumps(request).encode()


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_follower_refuses_a_line_as_the_leader_does(line: bytes) -> None:
    """In the same words, although nobody leads."""
    [refusal] = said(follower, line)
    assert [refusal] == said(leader, line)
    assert "error" in json.loads(refusal)


def test_mistake_of_ours_is_an_answer() -> None:
    """Whoever waits for it would wait for ever; what is asked next is answered."""
    lines = said(follower, asked("daemon.metrics", 1), asked("daemon.status", 2), answers=2)
    failed, status = map(json.loads, lines)
    assert (failed["id"], failed["error"]["message"]) == (1, "daemon.metrics failed in the daemon")
    assert status == {"jsonrpc": "2.0", "id": 2, "result": {"role": "follows"}}


@pytest.mark.parametrize("method", ["daemon.status", "cluster.forget", "run.list"])
def test_notification_has_no_answer(method: str) -> None:
    """Neither a result, nor an error, nor that nobody leads."""
    [only] = said(follower, asked(method, None), asked("daemon.status", 2))
    assert json.loads(only)["id"] == 2
