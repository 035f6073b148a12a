"""`ctx.state` and `ctx.events`: requests that a client can make too, recorded with their results.

A write by the handler, and the fact that this call made it, are one record: it happens exactly
once, however often the handler is replayed. Within a step's function (where the identity of a call
is empty) it acts at once and is not recorded. The params and results are those of the protocol: see
`calls.state` and `calls.events`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final

from stackshift_jobs.calls.drive import Call
from stackshift_jobs.handler.locks import guard, inside
from stackshift_jobs.handler.ops import Ask, Steps
from stackshift_jobs.handler.outcomes import granted, read, recalled
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.steps import Limits
from stackshift_jobs.values.strict_json import dumps

_VALUES: Final = ("value", "payload")
"""Params that contain a value of the user's."""


def ask(pass_: Pass, key: str, call: Call) -> Steps:
    """The result of `call`, as read from JSON. Raises its error if the call is refused."""
    known = recalled(pass_, key) if key else None
    if known is not None:
        return read(known.body)
    method, params = call
    text = encode(pass_, params)
    if inside.get():
        yield from guard(pass_, key)
    return read(granted(key, (yield Ask(key, method, text))).body)


def given(made: Steps, give: Callable[[Any], Any]) -> Steps:
    """The result of a call, converted by `give`."""
    return give((yield from made))


def labelling(
    pass_: Pass, key: str, labels: dict[str, str], note: Callable[[dict[str, str]], None]
) -> Steps:
    """Give the run `labels`; `note` gets them, if that is on record as a call of the handler."""
    yield from ask(pass_, key, ("run.label", {"labels": labels}))
    if key:
        note(labels)
    return None


def ask_all(pass_: Pass, key: str, calls: Generator[Call, Any, Any]) -> Steps:
    """The result of several calls, such as the pages of one list. Each is recorded separately."""
    number, step = 0, key
    try:
        call = next(calls)
        while True:
            result = yield from ask(pass_, step, call)
            call = calls.send(result)
            number += 1
            step = pass_.identify_page(key, number)
    except StopIteration as done:
        return done.value


def encode(pass_: Pass, params: dict[str, Any]) -> bytes:
    """The params as JSON. Raises `PayloadRefused`, with a path in the user's value, if JSON cannot
    hold that, if it is over the limit or if it contains the text of a secret."""
    for name in _VALUES:
        if name in params:
            value = pass_.encode(params[name], Limits.value_bytes)
            rest = pass_.encode({param: params[param] for param in params if param != name})
            comma = b"," if len(rest) > 2 else b""
            return b"%b%b%b:%b}" % (rest[:-1], comma, dumps(name), value)
    return pass_.encode(params)
