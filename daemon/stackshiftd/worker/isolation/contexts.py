"""The context that a handler begins in: what modules have set when they were imported, such as
`np.seterr` or the precision of `decimal`, and nothing that another run has set.

Python keeps the arithmetic of `decimal` in an object that all copies of a context share, so each
handler has its own. Before `settle`, as in tests of jobs, `def` handlers begin in an empty context,
as on any thread.
"""

from __future__ import annotations

from contextvars import Context, copy_context
from decimal import getcontext, setcontext


class _Standing:
    """The context of the main thread when the modules had been imported."""

    context: Context | None = None


def settle() -> None:
    """Let handlers begin in a copy of the context as it is now."""
    _Standing.context = copy_context()


def fresh() -> Context:
    """A context for a handler on a thread."""
    standing = _Standing.context
    context = Context() if standing is None else standing.copy()
    context.run(own_arithmetic)
    return context


def own_arithmetic() -> None:
    """Let what runs in this context set the precision of `decimal` for itself alone."""
    setcontext(getcontext().copy())
