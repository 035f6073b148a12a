"""What handlers and functions of steps can be: functions, methods, partials, callable objects.

The one place that looks at a callable: whether calling it makes a coroutine, what it is called and
where it is defined, whether it takes `ctx`, and which type its annotation gives the payload.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from functools import partial
from inspect import iscoroutinefunction
from types import FrameType, MethodType, UnionType
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import BadConfiguration

_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def is_async(fn: Callable[..., Any]) -> bool:
    """Does calling `fn` make a coroutine? True for `async def`, also behind a method, a partial or
    a `__call__`. A `def` function that returns a coroutine is not known to."""
    while isinstance(fn, partial):
        fn = fn.func
    return iscoroutinefunction(fn) or iscoroutinefunction(type(fn).__call__)


def is_async_handler(fn: Callable[..., Any]) -> bool:
    """Is a handler `async def`? As `is_async`, and also where decorators that are `def` themselves
    stand before it (`functools.wraps`). One that runs the handler by itself says so: it annotates
    its own parameter as `JobContext`."""
    if is_async(fn):
        return True
    return any(map(is_async, _wrapped(fn))) and not _takes_plain_context(fn)


def function_of(fn: Callable[..., Any]) -> Any:
    """The function that a method, a partial or a callable object calls; `fn` itself if it is one,
    or has none that is written in Python."""
    while True:
        if isinstance(fn, partial):
            fn = fn.func
        elif isinstance(fn, MethodType | staticmethod | classmethod):
            fn = fn.__func__
        elif not isinstance(fn, type) and inspect.isfunction(call := type(fn).__call__):
            return call
        else:
            return fn


def name_of(fn: Callable[..., Any]) -> str:
    """The name of a function or method. Raises `BadConfiguration` for what has none."""
    name = getattr(fn, "__name__", None)
    if not isinstance(name, str):
        raise BadConfiguration(
            f'the handler {fn!r} has no name of its own: write stackshift.job("name", handler)'
        )
    return name


def doc_of(fn: Callable[..., Any]) -> str:
    """The docstring of a function or method; of an object that of its `__call__`, or of its class.
    Empty if there is none."""
    while isinstance(fn, partial):
        fn = fn.func
    function = function_of(fn)
    if function is fn or isinstance(fn, MethodType):
        return inspect.getdoc(fn) or ""
    if isinstance(fn, Written):
        return fn.doc
    return inspect.cleandoc(function.__doc__ or type(fn).__doc__ or "")


class Place(NamedTuple):
    """Where a function is defined: `file` is empty, and `line` is 0, if that is not known."""

    file: str
    line: int


class Written:
    """A handler that is written elsewhere than the code that it calls: a shell script. `place` is
    where, and `doc` is what is said about it there."""

    def __init__(self, place: Place, doc: str) -> None:
        self.place = place
        self.doc = doc


def place_of(fn: Callable[..., Any]) -> Place:
    """Where the function that `fn` calls is defined, behind its decorators."""
    if isinstance(fn, Written):
        return fn.place
    code = getattr(inspect.unwrap(function_of(fn)), "__code__", None)
    return Place("", 0) if code is None else Place(code.co_filename, code.co_firstlineno)


def check_takes_context(fn: Callable[..., Any], job: str) -> None:
    """Raise `BadConfiguration` if `fn` cannot be called with `ctx` alone, or is a generator."""
    function = function_of(fn)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise BadConfiguration(
            f"the handler of job {job!r} is a generator, which does nothing when it is called: it "
            "has a `yield`"
        )
    signature = _signature(fn)
    if signature is None:
        return
    try:
        signature.bind(None)
    except TypeError:
        raise BadConfiguration(
            f"the handler of job {job!r} gets one argument, ctx, but {_what_it_takes(signature)}"
        ) from None


def _what_it_takes(signature: inspect.Signature) -> str:
    names = list(signature.parameters)
    if not names:
        return "it takes no arguments; write `def handler(ctx):`"
    if names[0] in ("self", "cls"):
        return (
            f"its first parameter is {names[0]}; register the bound method: "
            "stackshift.job(name, obj.method)"
        )
    shown = ", ".join(names)
    return f"its parameters are ({shown}); what a run works on is in ctx.payload"


# --- The type of the payload ---------------------------------------------------------------


def payload_type(handler: Callable[..., Any], declared: Any) -> Any:
    """The type of a handler's payload: `declared`, else the `P` in `JobContext[P]`, else None.

    Only the annotation of the first parameter is looked at. One that cannot be read, because it
    names what only type checkers import, gives no type. One of a function in a function or a class
    may name what is defined there: it is read as long as these are executing. Raises
    `BadConfiguration` if it names what is defined there later.
    """
    if declared is not None:
        return declared
    hint = _hint(handler)
    if not _is_context(typing.get_origin(hint)):
        return None
    of = typing.get_args(hint)[0]
    return None if isinstance(of, typing.TypeVar) else of


def _takes_plain_context(handler: Callable[..., Any]) -> bool:
    """Is the first parameter annotated as the context of a `def` handler?"""
    from stackshift_jobs.handler.context import JobContext

    hint = _hint(handler)
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, JobContext)


def _hint(handler: Callable[..., Any]) -> Any:
    """What the first parameter is annotated as, of several the first context; None if it is not
    annotated, or that cannot be read."""
    annotation = _annotation(handler)
    if annotation is inspect.Parameter.empty:
        return None
    hint = _evaluated(annotation, inspect.unwrap(function_of(handler)))
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, UnionType):
        contexts = (each for each in typing.get_args(hint) if _is_context(typing.get_origin(each)))
        return next(contexts, None)
    return hint


def _annotation(handler: Callable[..., Any]) -> Any:
    """The annotation of the first parameter: that of the handler, else of what it wraps."""
    for fn in _wrapped(handler):
        signature = _signature(fn)
        for parameter in [] if signature is None else list(signature.parameters.values())[:1]:
            if parameter.kind in _POSITIONAL and parameter.annotation is not parameter.empty:
                return parameter.annotation
    return inspect.Parameter.empty


def _wrapped(fn: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """`fn` and the functions that `functools.wraps` says it wraps. What a method wraps is bound to
    the same object."""
    while True:
        yield fn
        inner = getattr(fn, "__wrapped__", None)
        if inner is None:
            return
        fn = MethodType(inner, fn.__self__) if isinstance(fn, MethodType) else inner


def _signature(fn: Callable[..., Any]) -> inspect.Signature | None:
    """The signature of `fn` itself, whatever it wraps; None where there is none to be had."""
    options: dict[str, Any] = {"follow_wrapped": False}
    if sys.version_info >= (3, 14):
        # Annotations are evaluated when they are asked for; names that are missing stay names.
        from annotationlib import Format

        options["annotation_format"] = Format.FORWARDREF
    try:
        return inspect.signature(fn, **options)
    except (TypeError, ValueError):
        return None


def _evaluated(annotation: Any, function: Any) -> Any:
    """What an annotation means where `function` is defined; None if it cannot be evaluated."""

    def probe() -> None: ...

    probe.__annotations__ = {"ctx": annotation}
    names = {each.__name__: each for each in getattr(function, "__type_params__", ())}
    scopes = list(_scopes_around(function))
    for scope in reversed(scopes):
        names |= scope.f_locals
    try:
        hints = typing.get_type_hints(
            probe, getattr(function, "__globals__", {}), names, include_extras=True
        )
    except NameError as missing:
        if any(missing.name in _locals_of(scope) for scope in scopes):
            raise BadConfiguration(
                f"the handler {function.__qualname__} is annotated as {annotation!r}, but "
                f"{missing.name} is defined below it",
                hint="define it above",
            ) from None
        return None
    except Exception:  # An annotation is any expression, and can raise anything.
        return None
    return hints["ctx"]


def is_nested(fn: Callable[..., Any]) -> bool:
    """Is the function that `fn` calls defined within another one, or a class?"""
    return "." in getattr(inspect.unwrap(function_of(fn)), "__qualname__", "")


def _scopes_around(function: Any) -> Iterator[FrameType]:
    """The bodies of functions and classes that are executing now and define `function`, the
    innermost one first. With annotations that are text, Python keeps nothing of them."""
    name = getattr(function, "__qualname__", "")
    frame = inspect.currentframe() if "." in name else None
    while frame is not None:
        is_of_module = frame.f_globals is getattr(function, "__globals__", None)
        if is_of_module and name.startswith(f"{frame.f_code.co_qualname}."):
            yield frame
        frame = frame.f_back


def _locals_of(scope: FrameType) -> tuple[str, ...]:
    """The names of a body that is executing, whether or not they have a value yet."""
    code = scope.f_code
    is_class = not code.co_flags & inspect.CO_OPTIMIZED
    return code.co_names if is_class else (*code.co_varnames, *code.co_cellvars)


def _is_context(origin: Any) -> bool:
    from stackshift_jobs.handler.async_context import AsyncJobContext
    from stackshift_jobs.handler.context import JobContext

    return isinstance(origin, type) and issubclass(origin, (JobContext, AsyncJobContext))
