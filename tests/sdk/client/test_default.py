"""The functions of the package: they share one client, and are refused in a handler."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sdk.fake_daemon import FakeDaemon
from stackshift_jobs.client import default
from stackshift_jobs.client.blocking import RunHandle
from stackshift_jobs.client.default import events, queue, runs, start, start_many, state
from stackshift_jobs.errors import BadConfiguration, InsideHandler
from stackshift_jobs.handler.scope import in_handler
from stackshift_jobs.project.locate import Project


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test finds its project by itself, and leaves no client to the next one."""
    monkeypatch.delenv("STACKSHIFT_PROJECT", raising=False)
    monkeypatch.delenv("STACKSHIFT_DATA_DIR", raising=False)
    default.reset_default_client()
    yield
    default.reset_default_client()


@pytest.fixture
def handler() -> Iterator[None]:
    """The test runs as if it were a handler."""
    token = in_handler.set("ctx")
    yield
    in_handler.reset(token)


def test_functions_share_one_client_of_the_current_project(
    project: Project, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to set up, and one connection serves all."""
    monkeypatch.chdir(project.root)
    assert start("j", {"a": 1}).result() == 42
    assert isinstance(start_many([("j", 2)])[0], RunHandle)
    queue("emails").enqueue("send")
    assert runs.list() == [{"id": "run_1"}]
    assert runs.get("r")["id"] == "r"
    daemon.on("state.get", lambda peer, id, _params: peer.answer(id, None))
    assert state.get("k", "nothing") == "nothing"
    assert [run["job"] for run in daemon.started] == ["j", "j", "send"]
    assert len(daemon.peers) == 1


def test_threads_that_start_together_share_one_client(
    project: Project, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the first use comes from many threads at once, there is one connection."""
    monkeypatch.setenv("STACKSHIFT_PROJECT", str(project.root))
    together = threading.Barrier(8)

    def first(n: int) -> str:
        together.wait()
        return start("j", n).id

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(first, range(8)))) == 8
    assert len(daemon.peers) == 1


def test_missing_project_is_an_error_at_the_first_use(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Importing the package, or naming a queue, needs no project."""
    monkeypatch.chdir(tmp_path)
    emails = queue("emails")
    with pytest.raises(BadConfiguration, match=r"no stackshift\.toml"):
        emails.enqueue("send")


@pytest.mark.parametrize(
    ("call", "instead"),
    [
        (lambda: start("j"), "ctx.step.start"),
        (lambda: start_many([]), "ctx.step.start"),
        (lambda: queue("q").enqueue("j"), "ctx.step.start"),
        (lambda: runs.get("r"), "ctx.step.run"),
        (lambda: runs.list(), "ctx.step.run"),
        (lambda: state.get("k"), "ctx.state.get"),
        (lambda: state.get("k", wait="1m"), "ctx.step.run"),
        (lambda: state.set("k", 1), "ctx.state.set"),
        (lambda: state.delete("k"), "ctx.state.delete"),
        (lambda: state.increment("k"), "ctx.state.increment"),
        (lambda: state.list(), "ctx.state.list"),
        (lambda: state.history("k"), "ctx.state.history"),
        (lambda: state.lock("k", ttl="1s").__enter__(), "ctx.state.lock"),
        (lambda: events.send("e"), "ctx.events.send"),
    ],
    ids=[
        "start",
        "start_many",
        "enqueue",
        "get",
        "list",
        "state.get",
        "state.get wait",
        "state.set",
        "state.delete",
        "state.increment",
        "state.list",
        "state.history",
        "state.lock",
        "events.send",
    ],
)
@pytest.mark.usefixtures("handler")
def test_client_in_a_handler_is_refused_and_names_what_to_use(
    call: Callable[[], object], instead: str
) -> None:
    """It does so without looking for a project or a daemon."""
    with pytest.raises(InsideHandler) as refused:
        call()
    assert instead in refused.value.message
    assert refused.value.hint == instead


def test_handle_made_outside_is_refused_in_a_handler_too(
    project: Project, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It works again inside the function of a step."""
    monkeypatch.chdir(project.root)
    run = start("j")
    token = in_handler.set("ctx")
    try:
        with pytest.raises(InsideHandler, match=r"ctx\.step\.result"):
            run.result()
        in_handler.set(None)
        assert run.result() == 42
    finally:
        in_handler.reset(token)
    assert daemon.methods() == ["run.start", "run.wait"]
