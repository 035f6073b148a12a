"""One rule for the size of a value and the length of an integer, wherever the value comes from and
wherever it goes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.project import Project
from helpers.project_factory import Make
from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.values.limits import MAX_DIGITS

JOBS = """
MADE = {"full": "é" * 523_263, "more": "é" * 524_288, "long": 10**4299, "longer": 10**4300}


@stackshift.job("takes")
def takes(ctx):
    return len(ctx.payload["text"])


@stackshift.job("gives", retry=ONCE)
def gives(ctx):
    return MADE[ctx.payload]


@stackshift.job("steps", retry=ONCE)
def steps(ctx):
    return len(str(ctx.step.run("made", lambda: MADE[ctx.payload])))


@stackshift.job("stores", retry=ONCE)
def stores(ctx):
    ctx.state.set("k", MADE[ctx.payload])


@stackshift.job("sends", retry=ONCE)
def sends(ctx):
    ctx.events.send("e", MADE[ctx.payload])
"""
FULL = "é" * 523_263
"""With its key, 1 MiB less 1 KiB of UTF-8; three times as much in ASCII."""
MORE = "é" * 524_288


@pytest.fixture
def project(make_project: Make) -> Project:
    """A project whose jobs put large values everywhere."""
    made = make_project(JOBS)
    made.start()
    return made


@pytest.fixture
def client(project: Project) -> Iterator[Client]:
    """A client of it."""
    with Client(project=project.address) as opened:
        yield opened


def test_size_is_counted_in_utf8_everywhere(project: Project, client: Client) -> None:
    """A text of 1 MiB in UTF-8 is as good a payload as it is a result, a step's, an entry and an
    event, from clients and handlers alike; one character more is refused by all."""
    assert client.start("takes", {"text": FULL}).result(60) == len(FULL)
    client.state.set("k", FULL)
    assert client.state.get("k") == FULL
    client.events.send("e", FULL)
    for job in ("gives", "steps", "stores", "sends"):
        assert project.finish(project.begin(job, "full"))["status"] == "completed", job
    for refused in (
        lambda: client.start("takes", {"text": MORE}),
        lambda: client.state.set("k", MORE),
        lambda: client.events.send("e", MORE),
    ):
        # From another machine, the limit is known to the daemon alone.
        with pytest.raises(PayloadRefused, match="1 MiB"):
            refused()
    for job in ("gives", "steps", "stores", "sends"):
        run = project.finish(project.begin(job, "more"))
        assert run["status"] == "failed", job
        assert "bytes of JSON, the limit is 1 MiB" in run["error"]["message"]


def test_integers_have_one_bound_everywhere(project: Project, client: Client) -> None:
    """Those of 4300 digits are kept exactly; those of one digit more are refused with the same
    sentence by client and worker."""
    long = 10 ** (MAX_DIGITS - 1)
    client.state.set("n", long)
    assert client.state.get("n") == long
    assert client.state.increment("n") == long + 1
    client.events.send("e", [long])
    for job in ("gives", "steps", "stores", "sends"):
        assert project.finish(project.begin(job, "long"))["status"] == "completed", job
    for refused in (
        lambda: client.start("takes", {"text": long * 10}),
        lambda: client.state.set("n", long * 10),
        lambda: client.events.send("e", long * 10),
    ):
        with pytest.raises(PayloadRefused, match="an integer has more than 4300 digits"):
            refused()
    with pytest.raises(PayloadRefused):
        client.state.increment("n", long * 9)
    for job in ("gives", "steps", "stores", "sends"):
        run = project.finish(project.begin(job, "longer"))
        assert run["status"] == "failed", job
        assert "an integer has more than 4300 digits" in run["error"]["message"]
