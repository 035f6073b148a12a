"""Handlers of every kind become jobs; what cannot be one is refused when it is registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

import stackshift_jobs as stackshift
from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.registry import registry


@pytest.fixture(autouse=True)
def own_registry() -> Iterator[None]:
    """The jobs of each test are gone after it."""
    before = dict(registry)
    registry.clear()
    yield
    registry.clear()
    registry.update(before)


class Service:
    """A service that has a `start` of its own."""

    def __init__(self) -> None:
        self.started = False

    def start(self) -> None:
        self.started = True

    def __call__(self, ctx: Any) -> list[Any]:
        return ["called", ctx]

    def method(self, ctx: Any) -> list[Any]:
        """Do it."""
        return ["method", ctx]

    async def later(self, ctx: Any) -> list[Any]:
        return ["later", ctx]

    @classmethod
    def of_class(cls, ctx: Any) -> list[Any]:
        return [cls.__name__, ctx]

    @stackshift.job("static", timeout="1s")
    @staticmethod
    def static(ctx: Any) -> list[Any]:
        return ["static", ctx]


static = registry["static"]


def test_methods_objects_and_partials_are_handlers() -> None:
    """What is registered calls them, and what is returned too, with `start` added."""
    service = Service()
    handlers: dict[str, Any] = {
        "method": service.method,
        "later": service.later,
        "of_class": Service.of_class,
        "object": service,
        "partial": partial(lambda first, ctx: [first, ctx], "partial"),
    }
    for name, handler in handlers.items():
        returned = stackshift.job(name, handler)
        assert registry[name].handler is handler
        assert callable(returned.start)
        assert registry[name].module == __name__
        assert registry[name].is_async is (name == "later")
        if name != "later":
            assert returned("ctx") == handler("ctx") == registry[name].handler("ctx")
    assert registry["method"].doc == "Do it."
    service.start()
    assert service.started, "an object keeps its own attributes"


def test_two_objects_under_one_name_are_two_jobs() -> None:
    """Although both have the same class. What is registered again by the same line is one job."""

    def register(service: Service) -> None:
        stackshift.job("mail", service.method)

    register(Service())
    again = Service()
    register(again)
    assert registry["mail"].handler == again.method
    with pytest.raises(BadConfiguration, match=rf"two jobs are named 'mail': {__name__}:\d+ and"):
        stackshift.job("mail", again.method)
    with pytest.raises(BadConfiguration, match=rf"two jobs .* and {__name__}\.[\w.<>]*\.mail"):

        @stackshift.job
        def mail(ctx: Any) -> Any:
            return ctx

    assert registry["mail"].handler == again.method


def test_method_belongs_to_the_module_that_registers_it() -> None:
    """Its class may come from a library, which is no job module."""
    stackshift.job("upper", "{}".format)
    stackshift.job("path", partial(ZipFile.extractall, path="."))
    assert [registry[name].module for name in ("upper", "path")] == [__name__] * 2


def test_static_method_is_registered_in_the_body_of_its_class() -> None:
    """As the function that it is, above the decorator or below it."""
    assert static.handler("ctx") == Service.static("ctx") == ["static", "ctx"]
    assert callable(Service.static.start)  # type: ignore[attr-defined]
    assert static.timeout_ms == 1000


def test_method_can_be_decorated_with_its_name_alone() -> None:
    """`stackshift.job(obj.method)`: the method's name is the job's."""
    stackshift.job(Service().method)
    assert list(registry) == ["method"]


def test_duration_that_is_refused_is_named_with_its_job() -> None:
    """A module may register many jobs, and a job may have several durations."""
    with pytest.raises(Usage, match="the timeout of job 'h': 'fast' is not a duration"):
        stackshift.job("h", Service().method, timeout="fast")
    with pytest.raises(Usage, match="the idempotency_ttl of job 'h': 'fast' is not a duration"):
        stackshift.job("h", Service().method, idempotency_ttl="fast")
    assert not registry


def test_handler_without_a_context_is_refused_when_it_is_registered() -> None:
    """And nothing is registered: the run of it could only fail."""
    with pytest.raises(BadConfiguration, match=r"job 'h' .* takes no arguments"):

        @stackshift.job("h")
        def h() -> None: ...

    with pytest.raises(BadConfiguration, match=r"job 'unbound' .* register the bound method"):
        stackshift.job("unbound", Service.method)
    with pytest.raises(BadConfiguration, match=r"job 'of_class' .* register it after the class"):
        stackshift.job("of_class")(Service.__dict__["of_class"])
    with pytest.raises(BadConfiguration, match="register it after the class"):
        stackshift.job(Service.__dict__["of_class"])
    with pytest.raises(BadConfiguration, match="3 is not a function"):
        stackshift.job("three", 3)  # type: ignore[call-overload]  # which a type checker says, too
    with pytest.raises(BadConfiguration, match="has no name of its own"):
        stackshift.job(Service())
    assert registry == {}


def test_name_of_a_built_in_job_is_refused() -> None:
    """Its runs would be those of the project's job all at once."""
    with pytest.raises(BadConfiguration, match="'exec' is the name of a built-in job"):
        stackshift.job("exec", lambda _ctx: None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_duplicate": "attach"}, "on_duplicate is given without a unique key"),
        ({"unique": "u", "on_duplicate": "ignore"}, "on_duplicate must be refuse, attach"),
        ({"unique": "{"}, "'{' is not a valid unique key template"),
        ({"unique": ""}, "'' is not a valid unique key template"),
        ({"uniqe": "u"}, "a job has no option 'uniqe'"),
        ({"ttl": 0}, "the ttl of job 'bad' cannot be 0"),
        ({"deadline": "soon"}, "the deadline of job 'bad'"),
        ({"on_failure": ""}, "job"),
        ({"priority": "high"}, "the priority of job 'bad' cannot be 'high'"),
        ({"priority": 1.5}, "the priority of job 'bad' cannot be 1.5"),
        ({"priority": 10**12}, "the priority of job 'bad' cannot be 10"),
        ({"retry": 3}, "the retry of job 'bad' is 3, which is not a policy"),
        ({"timezone": 5}, "timezone"),
        ({"on_success": "a\nb"}, "job"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    """One that is not known, too; nothing is registered."""
    with pytest.raises(Usage, match=message):
        stackshift.job("bad", Service().method, **options)
    assert registry == {}


def test_file_that_is_imported_under_two_names_has_its_jobs_once(tmp_path: Path) -> None:
    """As `src.shop.jobs.mail` and `shop.jobs.mail`, say. Another function is another job, also in a
    copy of the file, and so is the same method of another object."""
    text = "import stackshift_jobs as stackshift\n@stackshift.job\ndef mail(ctx):\n    return 1\n"
    file, copy = tmp_path / "mail.py", tmp_path / "copy.py"
    file.write_text(text)
    copy.write_text(text)
    load("src.shop.mail", file)
    load("shop.mail", file)
    assert [(name, job.module) for name, job in registry.items()] == [("mail", "src.shop.mail")]
    with pytest.raises(BadConfiguration, match="two jobs are named 'mail'"):
        load("shop.copy", copy)
    stackshift.job("sent", Service().method)
    with pytest.raises(BadConfiguration, match="two jobs are named 'sent'"):
        stackshift.job("sent", Service().method)


def load(name: str, file: Path) -> None:
    """Import a file under a name."""
    spec = spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module_from_spec(spec))


def test_type_that_is_defined_in_a_function_is_found() -> None:
    """When the handler is registered: later, nothing is left of the function."""

    def make() -> None:
        class Order:
            """What the job works on."""

        @stackshift.job("orders")
        def orders(ctx: stackshift.JobContext[Order]) -> None: ...

        @stackshift.job("given", payload=int)
        def given(ctx: stackshift.JobContext[Order]) -> None: ...

        with pytest.raises(BadConfiguration, match="Below is defined below it"):

            @stackshift.job("early")
            def early(ctx: stackshift.JobContext[Below]) -> None: ...

        class Below:
            """Too late."""

    make()
    assert registry["orders"].payload_type.__name__ == "Order"
    assert registry["given"].payload_type is int
    assert "early" not in registry
