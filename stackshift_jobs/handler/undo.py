"""How what a step has done is undone, when its run does not come to a good end.

The daemon says that a run is to be undone. Its handler then makes a pass over what is on record and
no further, by which it says again what undoes each step; then these are called, the last step
first, each as a step of its own (`undo NAME`), with its own retries.

Laws: a step is undone if its undo is not on record, and its result is, or its function was ended
from outside, so that nobody knows what it has done; nothing of the handler begins in such a pass;
the first undo that fails for good ends it, and the earlier steps stay done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import ReplayError, Usage
from stackshift_jobs.handler.ops import Steps
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.handler.steps import run_step, timeout_ms
from stackshift_jobs.retry import Retry
from stackshift_jobs.values.durations import Duration
from stackshift_jobs.values.identities import undo_of

UNDO_RETRY: Final = Retry(max_attempts=10, max_backoff="1m")
"""What is to be undone stays done if its undo gives up, so that has more tries than a step has."""


class Undo(NamedTuple):
    """What undoes a step: `fn` gets its result, or None if nobody knows how far the step came.
    `retry` and `timeout` are those of this call. With `if_failed` it is called, with None, also if
    the step's function has raised."""

    fn: Any
    retry: Retry = UNDO_RETRY
    timeout: Duration | None = None
    if_failed: bool = False


def undo(given: Any, made: Callable[[Any], Callable[[Any], Any]] | None = None) -> Undo | None:
    """What was given as `undo=` of a step, as an `Undo`; `made` makes its function of other than
    that. Raises `Usage` for what cannot be called."""
    if given is None:
        return None
    terms = given if isinstance(given, Undo) else Undo(given)
    if made is not None:
        terms = terms._replace(fn=made(terms.fn))
    if not callable(terms.fn):
        raise Usage(
            f"undo= takes a function of the step's result, not {terms.fn!r}",
            hint="undo=refund, or undo=Undo(refund, retry=Retry(max_attempts=5))",
        )
    timeout_ms(terms.timeout)
    return terms


def undo_steps(pass_: Pass) -> Iterator[tuple[str, Steps]]:
    """The steps that undo what the run has done, each with its identity: the last one first. Raises
    `ReplayError` at one that the code does not say how to undo."""
    done = [
        (known.seq, key)
        for key, known in pass_.recorded_calls.items()
        if known.undo and known.phase == "completed" and not known.undone
    ]
    done += [(seq, key) for key, seq in pass_.unsure.items()]
    for _, key in sorted(done, reverse=True):
        found = pass_.undos.get(key)
        if found is None:
            raise ReplayError(
                f"step {key!r} cannot be undone: the code does not come to it any more, or gives "
                "it no undo=",
                hint="let the code be as it was, and stackshift runs retry RUN",
            )
        terms, result = found
        own = undo_of(key)
        yield (
            own,
            run_step(
                pass_,
                own,
                terms.fn,
                (result,),
                {},
                retry=terms.retry,
                timeout_ms=timeout_ms(terms.timeout),
                clock=pass_.clock.seconds,
            ),
        )
