"""Every blocking class and its awaited twin: the same names, parameters, defaults and docstrings.

The functions of the package are held to the methods of `Client` in the same way. What differs on
purpose is listed here, with its reason; anything else that differs is a mistake in one of the two.
"""

from __future__ import annotations

import inspect
import logging
import re
import typing
from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import errors
from stackshift_jobs.client import awaited, blocking, default, events, locks, state
from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.handler import async_context, async_state, context
from stackshift_jobs.handler import state as handler_state
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.project.locate import Project

TWINS: list[tuple[type, type]] = [
    (blocking.Client, awaited.AsyncClient),
    (blocking.RunHandle, awaited.AsyncRunHandle),
    (blocking.Queue, awaited.AsyncQueue),
    (blocking.Runs, awaited.AsyncRuns),
    (state.State, state.AsyncState),
    (events.Events, events.AsyncEvents),
    (locks.Lock, locks.AsyncLock),
    (context.JobContext, async_context.AsyncJobContext),
    (context.StepCalls, async_context.AsyncStepCalls),
    (handler_state.RunState, async_state.AsyncRunState),
    (handler_state.RunEvents, async_state.AsyncRunEvents),
    (handler_state.RunLock, async_state.AsyncRunLock),
]

NOT_AWAITED = {
    "__init__": "a constructor never is",
    "queue": "makes an object; its calls are awaited",
    "handle": "makes an object; its calls are awaited",
    "lock": "makes an object; entering it is awaited",
    "key": "only puts two names together",
}
"""Methods of an awaited class that return their result at once, and why."""

ONLY_IN_CLIENT = {
    "call": "for those who speak the protocol, and have a client of their own",
    "close": "the default client lives as long as the program",
    "project": "the default client finds it by itself",
}
"""Public names of a `Client` that the package has no function for, and why."""

EXTRA_PARAMETERS = {"queue": {"limits": "a job module declares them; a client cannot"}}
"""Parameters of the package's functions that the methods do not have, and why."""

OF_EACH_KIND = {"__aenter__": "__enter__", "__aexit__": "__exit__"}


def members(of: type) -> dict[str, Any]:
    """The public members of a class, and those that construct and enter it; by blocking names."""
    special = ("__init__", *OF_EACH_KIND, *OF_EACH_KIND.values())
    return {
        OF_EACH_KIND.get(name, name): inspect.getattr_static(of, name)
        for name in dir(of)
        if not name.startswith("_") or name in special
    }


def methods() -> list[Any]:
    """Each method that both of a pair have, as a test parameter."""
    return [
        pytest.param(one, name, mine, members(other)[name], id=f"{one.__name__}.{name}")
        for one, other in TWINS
        for name, mine in members(one).items()
        if inspect.isfunction(mine) and name in members(other)
    ]


def signature(of: Any) -> inspect.Signature:
    """The signature as callers see it: the last overload, where there are several."""
    overloads = typing.get_overloads(of)
    return inspect.signature(overloads[-1] if overloads else of)


def parameters(of: Any, but: Any = ()) -> list[tuple[str, Any, Any, str]]:
    """Name, kind, default and annotation of each parameter, in order."""
    return [
        (p.name, p.kind, p.default, unawaited(p.annotation))
        for p in signature(of).parameters.values()
        if p.name not in but
    ]


def unawaited(annotation: Any) -> str:
    """An annotation as the blocking twin has it: without `Coroutine[...]` and `Async`; what is
    handed over to be awaited is called there."""
    text = re.sub(r"^Awaitable\[(.*)\]$", r"Callable[[], \1]", str(annotation))
    text = re.sub(r"^Coroutine\[Any, Any, (.*)\]$", r"\1", text)
    return re.sub(r"\bAsync([A-Z])", r"\1", text)


def says_the_same(doc: str | None, twin_doc: str | None, twin: str) -> bool:
    """The same text, or a text of its own that refers to the twin's."""
    refers = re.search(rf"\b[Ss]ee\s+`{re.escape(twin)}`", doc or "")
    return bool(doc) and (doc == twin_doc or refers is not None)


@pytest.mark.parametrize(("one", "other"), TWINS, ids=lambda of: of.__name__)
def test_twins_have_the_same_public_names(one: type, other: type) -> None:
    """A method that only one of them has would be missing from the other."""
    assert members(one).keys() == members(other).keys()


@pytest.mark.parametrize(("one", "other"), TWINS, ids=lambda of: of.__name__)
def test_awaited_class_is_described_by_its_twin(one: type, other: type) -> None:
    """It has the same docstring, or one that names the twin."""
    assert one.__doc__, f"{one.__name__} has no docstring"
    assert other.__doc__ == one.__doc__ or f"`{one.__name__}`" in str(other.__doc__)


@pytest.mark.parametrize(("one", "name", "mine", "theirs"), methods())
def test_twin_methods_take_and_return_the_same(
    one: type, name: str, mine: Any, theirs: Any
) -> None:
    """Parameters, their order, defaults and annotations, and the result, up to awaiting."""
    assert parameters(theirs) == parameters(mine), f"{one.__name__}.{name}"
    result = signature(theirs).return_annotation
    assert unawaited(result) == unawaited(signature(mine).return_annotation)
    is_awaited = inspect.iscoroutinefunction(theirs) or str(result).startswith("Coroutine[")
    assert is_awaited is (name not in NOT_AWAITED)


@pytest.mark.parametrize(("one", "name", "mine", "theirs"), methods())
def test_twin_methods_have_the_same_docstring(one: type, name: str, mine: Any, theirs: Any) -> None:
    """Or the awaited one refers to the blocking one: `See State.set`."""
    if not name.startswith("__"):
        twin = f"{one.__name__}.{name}"
        assert says_the_same(inspect.getdoc(theirs), inspect.getdoc(mine), twin), twin


def test_twin_objects_have_the_same_attributes(project: Project) -> None:
    """What their constructors set: handles, contexts, and the parts of a client."""
    facts: context.Facts[None] = context.Facts(
        payload=None,
        run_id="run_1",
        job="a",
        queue="default",
        attempt=1,
        labels={},
        idempotency_key=None,
        scheduled_at=None,
        log=logging.getLogger("job"),
    )
    port: Any = None
    with blocking.Client(project) as client:
        async_client = awaited.AsyncClient(project)
        pairs: list[tuple[object, object]] = [
            (client, async_client),
            (blocking.RunHandle(client, "run_1"), awaited.AsyncRunHandle(async_client, "run_1")),
            (client.queue("media"), async_client.queue("media")),
            (
                context.JobContext(facts, Pass({}), port),
                async_context.AsyncJobContext(facts, Pass({}), port),
            ),
        ]
    for one, other in pairs:
        assert public(one) == public(other), type(one).__name__


def public(of: object) -> set[str]:
    """The public attributes that an object has of its own."""
    return {name for name in vars(of) if not name.startswith("_")}


def test_package_has_what_a_client_has(project: Project) -> None:
    """`stackshift_jobs.start` and the like: all that needs no client of one's own."""
    with blocking.Client(project) as client:
        names = {name for name in members(blocking.Client) if not name.startswith("_")}
        assert (names | public(client)) - ONLY_IN_CLIENT.keys() <= set(stackshift_jobs.__all__)
    assert isinstance(stackshift_jobs.state, state.State)
    assert isinstance(stackshift_jobs.events, events.Events)


@pytest.mark.parametrize(
    ("twin", "method", "function"),
    [
        ("Client.start", blocking.Client.start, default.start),
        ("Client.start_many", blocking.Client.start_many, default.start_many),
        ("Client.queue", blocking.Client.queue, default.queue),
        ("Client.start", blocking.Queue.enqueue, default.DefaultQueue.enqueue),
        ("Runs.get", blocking.Runs.get, default.DefaultRuns.get),
        ("Runs.list", blocking.Runs.list, default.DefaultRuns.list),
        ("Runs.handle", blocking.Runs.handle, default.DefaultRuns.handle),
        ("Runs.count", blocking.Runs.count, default.DefaultRuns.count),
        ("Runs.counts", blocking.Runs.counts, default.DefaultRuns.counts),
        ("Runs.cancel_all", blocking.Runs.cancel_all, default.DefaultRuns.cancel_all),
        ("Runs.retry_all", blocking.Runs.retry_all, default.DefaultRuns.retry_all),
        ("Runs.remove_all", blocking.Runs.remove_all, default.DefaultRuns.remove_all),
    ],
)
def test_functions_of_the_package_are_those_of_a_client(
    twin: str, method: Any, function: Any
) -> None:
    """The same parameters and results, and a docstring that refers to the client's."""
    extra = EXTRA_PARAMETERS.get(function.__name__, {})
    assert parameters(function, ("self", *extra)) == parameters(method, ("self",))
    result = str(signature(function).return_annotation).removeprefix("Default")
    assert result == signature(method).return_annotation
    assert says_the_same(inspect.getdoc(function), inspect.getdoc(method), twin)


@pytest.mark.parametrize(
    ("one", "other"),
    [(blocking.Runs, default.DefaultRuns), (blocking.Queue, default.DefaultQueue)],
    ids=lambda of: of.__name__,
)
def test_parts_of_the_package_have_the_same_public_names(one: type, other: type) -> None:
    """As the parts of a client."""
    assert members(one).keys() == members(other).keys()


def test_all_errors_that_the_docstrings_name_can_be_imported() -> None:
    """From the package itself, where a caller looks for them."""
    for one, _ in TWINS:
        for name, member in members(one).items():
            for word in re.findall(r"`([A-Z]\w+)`", inspect.getdoc(member) or ""):
                error = getattr(errors, word, None)
                if isinstance(error, type) and issubclass(error, StackshiftError):
                    assert word in stackshift_jobs.__all__, f"{one.__name__}.{name}"
