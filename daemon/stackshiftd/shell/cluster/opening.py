"""The first line of a connection between machines, which says what it is for, and the answer."""

from __future__ import annotations

from typing import Final

import msgspec


class Client(msgspec.Struct, frozen=True, tag_field="open", tag="client"):
    """What follows are the lines of a client, and the answers to them."""


class Offer(msgspec.Struct, frozen=True, tag_field="open", tag="worker"):
    """A worker of `queue` or, where that is "", for all queues without workers of their own. It
    takes `slots` runs at once; what follows are the frames of its keeper (`worker.host_frames`)."""

    queue: str
    slots: int


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What follows is as was wished; unless it is `refused`, and says why."""

    refused: str = ""


_decode_wish: Final = msgspec.json.Decoder(Client | Offer).decode
_decode_answer: Final = msgspec.json.Decoder(Answer).decode


def wish_in(line: bytes) -> Client | Offer:
    """What the first line of a connection says. Raises `ValueError`."""
    return _decode_wish(line)


def answer_in(line: bytes) -> Answer:
    """What the answer says. Raises `ValueError`."""
    return _decode_answer(line)


def line_of(message: Client | Offer | Answer) -> bytes:
    """The line that says it."""
    return msgspec.json.encode(message) + b"\n"
