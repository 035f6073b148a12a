"""What a handler and the function of a step can be, and the type that a handler's annotation gives
its payload."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import pytest

from stackshift_jobs import AsyncJobContext, JobContext, callables
from stackshift_jobs.errors import BadConfiguration

if TYPE_CHECKING:
    from collections.abc import Mapping

P = TypeVar("P")


@dataclass
class Order:
    """A payload."""

    customer: str


class Mailer:
    """Sends mail."""

    def send(self, ctx: JobContext[Order]) -> None:
        """Send one mail."""

    async def send_later(self, ctx: AsyncJobContext[Order]) -> None: ...

    @staticmethod
    async def static(ctx: AsyncJobContext[Order]) -> None: ...

    @classmethod
    def of_class(cls, ctx: JobContext[Order]) -> None: ...


class Called:
    def __call__(self, ctx: JobContext[Order]) -> None:
        """Called with a context."""


class CalledLater:
    """Called, and awaited."""

    async def __call__(self, ctx: AsyncJobContext[Order]) -> None: ...


def function(ctx: JobContext[Order]) -> None: ...
async def later(ctx: AsyncJobContext[Order]) -> None: ...
def with_more(shop: str, ctx: JobContext[Order]) -> None: ...
async def with_more_later(shop: str, ctx: AsyncJobContext[Order]) -> None: ...


def decorated(fn: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper, as most decorators make it."""

    @functools.wraps(fn)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return fn(*args, **kwargs)

    return wrapper


CALLABLES: dict[str, tuple[Callable[..., Any], bool]] = {
    "function": (function, False),
    "async function": (later, True),
    "partial": (partial(with_more, "a"), False),
    "partial of async": (partial(partial(with_more_later), "a"), True),
    "bound method": (Mailer().send, False),
    "async bound method": (Mailer().send_later, True),
    "async static method": (Mailer.static, True),
    "class method": (Mailer.of_class, False),
    "callable object": (Called(), False),
    "async callable object": (CalledLater(), True),
    "partial of an object": (partial(CalledLater()), True),
    "decorated": (decorated(function), False),
    "decorated async": (decorated(later), False),
}
EACH = pytest.mark.parametrize("fn", [fn for fn, _ in CALLABLES.values()], ids=CALLABLES)


@pytest.mark.parametrize(("fn", "is_async"), CALLABLES.values(), ids=CALLABLES)
def test_async_is_what_makes_a_coroutine_when_it_is_called(
    fn: Callable[..., Any], is_async: bool
) -> None:
    """Whatever stands before the `async def`; a `def` wrapper may do anything."""
    assert callables.is_async(fn) is is_async


def undecorated(ctx: JobContext[Order]) -> None: ...


def runs_by_itself(ctx: JobContext[Order]) -> None:
    """As a decorator makes it that calls `asyncio.run`."""


@pytest.mark.parametrize(
    ("fn", "is_async"),
    [
        (later, True),
        (decorated(later), True),
        (decorated(decorated(later)), True),
        (decorated(Mailer().send_later), True),
        (decorated(undecorated), False),
        (functools.update_wrapper(runs_by_itself, later, assigned=()), False),
    ],
)
def test_handler_is_async_behind_its_decorators(fn: Callable[..., Any], is_async: bool) -> None:
    """A decorator that runs it by itself says so by its annotation."""
    assert callables.is_async_handler(fn) is is_async


def test_built_in_and_class_are_not_async() -> None:
    """They have no code of their own to look at."""
    for fn in (len, int, Order, partial(print)):
        assert not callables.is_async(fn), fn


@EACH
def test_payload_type_is_found_behind_every_callable(fn: Callable[..., Any]) -> None:
    """The annotation of its first parameter, `self` and bound arguments aside."""
    assert callables.payload_type(fn, None) is Order
    assert callables.payload_type(fn, int) is int, "what is declared takes precedence"


@EACH
def test_every_callable_has_a_place_and_takes_a_context(fn: Callable[..., Any]) -> None:
    """The place is that of the function, not of what wraps it."""
    callables.check_takes_context(fn, "a")
    place = callables.place_of(fn)
    assert Path(place.file) == Path(__file__)
    line = Path(__file__).read_text().splitlines()[place.line - 1]
    assert line.strip().startswith(("def ", "async def ", "@"))
    assert "wrapper" not in line


def test_doc_is_that_of_the_function_or_the_class() -> None:
    """And never that of `partial`."""
    assert callables.doc_of(Mailer().send) == "Send one mail."
    assert callables.doc_of(partial(Mailer().send)) == "Send one mail."
    assert callables.doc_of(Called()) == "Called with a context."
    assert callables.doc_of(partial(CalledLater())) == "Called, and awaited."
    assert callables.doc_of(partial(with_more, "a")) == ""


def test_name_is_that_of_the_function_and_an_object_has_none() -> None:
    """Which name a partial should have is for its author to say."""
    assert [callables.name_of(fn) for fn in (function, Mailer().send)] == ["function", "send"]
    for fn in (Called(), partial(function)):
        with pytest.raises(BadConfiguration, match=r'stackshift\.job\("name", handler\)'):
            callables.name_of(fn)


def no_parameters() -> None: ...
def two(ctx: JobContext[Any], database: str) -> None: ...
def keyword_only(*, ctx: JobContext[Any]) -> None: ...
def yields(ctx: JobContext[int]) -> Iterator[int]:
    yield ctx.payload


async def yields_later(ctx: AsyncJobContext[int]) -> AsyncIterator[int]:
    yield ctx.payload


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (no_parameters, r"takes no arguments; write `def handler\(ctx\):`"),
        (two, r"its parameters are \(ctx, database\)"),
        (keyword_only, r"its parameters are \(ctx\)"),
        (Mailer.send, "first parameter is self; register the bound method"),
        (yields, "is a generator"),
        (partial(yields), "is a generator"),
        (yields_later, "is a generator"),
    ],
)
def test_handler_that_cannot_be_called_with_a_context_is_refused(
    fn: Callable[..., Any], reason: str
) -> None:
    """When it is registered, by the name of its job."""
    with pytest.raises(BadConfiguration, match=rf"job 'mail' .*{reason}"):
        callables.check_takes_context(fn, "mail")


def test_handler_whose_parameters_are_not_known_is_taken_as_it_is() -> None:
    """Some of what is written in C has no signature, and a wrapper takes anything."""
    for fn in (max, decorated(with_more), lambda *args: args, lambda ctx, more=1: (ctx, more)):
        callables.check_takes_context(fn, "a")


def test_only_the_annotation_of_the_context_matters() -> None:
    """What the others say, and how it is written, does not."""

    def returns_what_is_missing(ctx: JobContext[Order]) -> Mapping[str, int]:
        return {ctx.payload.customer: 1}

    def has_an_unreadable_second(ctx: JobContext[Order], more: Mapping[str, int] = {}) -> None: ...
    def marked(ctx: Annotated[JobContext[Order], "payload"]) -> None: ...

    def may_be_none(ctx: JobContext[Order] | None = None) -> None: ...
    def either(ctx: AsyncJobContext[Order] | JobContext[Order] | None) -> None: ...

    for fn in (returns_what_is_missing, has_an_unreadable_second, marked, may_be_none, either):
        assert callables.payload_type(fn, None) is Order, fn.__name__


def test_annotation_for_type_checkers_alone_gives_no_type() -> None:
    """And neither does one that is not of a context with a type."""

    def takes_what_is_missing(ctx: JobContext[Mapping[str, int]]) -> None: ...
    def raises(ctx: 1 / 0) -> None: ...  # type: ignore[valid-type]  # any expression is allowed
    def generic(ctx: JobContext[P]) -> None: ...
    def bare(ctx: JobContext) -> None: ...  # type: ignore[type-arg]  # as people write it
    def other(ctx: dict[str, int]) -> None: ...
    def unannotated(ctx): ...  # type: ignore[no-untyped-def]  # likewise

    for fn in (takes_what_is_missing, raises, generic, bare, other, unannotated):
        assert callables.payload_type(fn, None) is None, fn.__name__


def test_annotation_is_read_without_the_future_import_too() -> None:
    """As Python before 3.14 evaluates it, where the function is defined."""
    names: dict[str, Any] = {"JobContext": JobContext, "Order": Order}
    exec("def plain(ctx: JobContext[list[Order]], more: 'Missing' = 1): ...", names)
    exec("def quoted(ctx: 'JobContext[Order]'): ...", names)
    exec("def inside(ctx: JobContext['Order']): ...", names)
    assert callables.payload_type(names["plain"], None) == list[Order]
    for name in ("quoted", "inside"):
        assert callables.payload_type(names[name], None) is Order


def test_annotation_may_name_what_is_defined_beside_the_handler() -> None:
    """In a function or a class that is executing, whose names Python does not keep for text."""

    class Local:
        """A type of this function's."""

    def inside(ctx: JobContext[Local]) -> None: ...

    def factory() -> Any:
        def deeper(ctx: JobContext[list[Local]]) -> None: ...

        return callables.payload_type(deeper, None)

    class Jobs:
        """Jobs as static methods."""

        class Payload:
            """A type of the class's."""

        @staticmethod
        def method(ctx: JobContext[Payload]) -> None: ...

        found = callables.payload_type(method, None)

    assert callables.payload_type(inside, None) is Local
    assert factory() == list[Local]
    assert Jobs.found is Jobs.Payload
    assert not callables.is_nested(function)
    assert all(callables.is_nested(fn) for fn in (inside, partial(inside), Mailer().send))


def test_annotation_that_names_what_is_defined_below_the_handler_is_refused() -> None:
    """It would give the payload no type, without a word."""

    def early(ctx: JobContext[Below]) -> None: ...

    with pytest.raises(BadConfiguration, match="but Below is defined below it"):
        callables.payload_type(early, None)
    assert callables.payload_type(early, int) is int

    class Below:
        """Too late."""

    assert callables.payload_type(early, None) is Below
