"""The identities of a handler's calls, taken apart: the branch, and the call within it.

    page#2                       the second call named `page`, in the main branch
    index#2/page#2               the same, in the second branch `index`
    inner/leaf#2/[state.get k]   a call that is not a step, in a branch of a branch

`handler.replay` makes identities. Nothing in one says where the branch ends, and the name of a step
may contain a `/` too. So a step `db/migrate` of the main branch reads as the step `migrate` of a
branch `db`: this is for people, who mean a group by such a name as well. Never decide by it which
call is meant: that is the whole identity.
"""

from __future__ import annotations

import re
from typing import Final

_OCCURRENCE: Final = re.compile(r"[^#]*(#[1-9]\d*)?", re.ASCII)
_OWN: Final = re.compile(r"\[[^\d]|[^#\[]")
"""How a call's own part begins: as a name, or as `[` and a method. What begins otherwise belongs to
a step whose name ends in `/`: `a/#2`, `a/[0]`."""
_TIMER: Final = "[timer "


def branch_of(identity: str) -> tuple[str, ...]:
    """The branches that the call was made in, from the outside in: `("inner", "leaf#2")`; empty in
    the main branch."""
    path: list[str] = []
    while True:
        head, slash, own = identity.partition("/")
        name = head.partition("#")[0]
        is_branch = slash and name.isidentifier() and _OCCURRENCE.fullmatch(head)
        if not is_branch or not _OWN.match(own):
            return tuple(path)
        path.append(head)
        identity = own


def own_part(identity: str) -> str:
    """The identity within its branch: `page#2`, `[state.get k]`."""
    return identity[sum(len(name) + 1 for name in branch_of(identity)) :]


def is_step(identity: str) -> bool:
    """Was the call made on `ctx.step`, and not on `ctx` itself, its state or its events, or by
    asyncio?"""
    return not own_part(identity).startswith("[")


def step_name(identity: str) -> str:
    """The name that the code gives a step: without its branch, its occurrence, and the index of an
    item of a map."""
    return own_part(identity).partition("#")[0].partition("[")[0]


def is_lock(identity: str) -> bool:
    """Did the call acquire a lock?"""
    return own_part(identity).startswith("[lock ")


def is_timer(identity: str) -> bool:
    """Is it a timer of asyncio's: `asyncio.sleep`, `timeout` or `wait_for` in the handler?"""
    return own_part(identity).startswith(_TIMER)


def timer_delay(identity: str) -> str:
    """How long the timer was set for: `1h00m`. Only for identities of timers."""
    return own_part(identity)[len(_TIMER) :].partition("]")[0]


UNDO: Final = "undo "
"""How the name of a step that undoes another begins; no other step is called so."""


def undo_of(identity: str) -> str:
    """The identity of the step that undoes this one: `undo charge`, `index#2/undo page`."""
    own = own_part(identity)
    return f"{identity[: len(identity) - len(own)]}{UNDO}{own}"


def undone_by(identity: str) -> str:
    """The identity of the step that this one undoes; empty if it is not one that does."""
    own = own_part(identity)
    if not own.startswith(UNDO):
        return ""
    return identity[: len(identity) - len(own)] + own.removeprefix(UNDO)
