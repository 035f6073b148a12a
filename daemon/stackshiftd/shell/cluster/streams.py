"""Bytes from one connection to another."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK: Final = 1 << 16


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what is read, as fast as it is taken, until either end is gone; then close
    `writer`."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        return
    finally:
        writer.close()


async def join(first: Streams, second: Streams) -> None:
    """Make one connection of two; returns when either has ended, and closes the second one."""
    pumps = [
        asyncio.create_task(pump(first[0], second[1])),
        asyncio.create_task(pump(second[0], first[1])),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in pumps:
            each.cancel()
        second[1].close()


async def end(writer: asyncio.StreamWriter) -> None:
    """Close a connection, in whatever state it is."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
