"""Secrets in tests of jobs: named by payloads, and found in the environment of the test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

import stackshift_jobs
from stackshift_jobs import AsyncJobContext, JobContext, Secret
from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.testing import Stackshift

TEXT = "fixture-s3cret-text"
TOKEN = {"$env": "SHOP_TOKEN"}
LABEL = "[secret $env SHOP_TOKEN]"


@dataclass
class Charge:
    """A payload with a secret."""

    token: Secret
    amount: int = 0


@stackshift_jobs.job("charges")
def charges(ctx: JobContext[Charge]) -> Any:
    """Use the secret in a step, before and after a wait, and call a job with it."""
    token = ctx.payload.token
    used = [ctx.step.run("before", lambda: len(token.reveal()))]
    ctx.step.sleep("pause", "1h")
    used.append(ctx.step.run("after", lambda: len(token.reveal())))
    return [*used, ctx.step.call("refunds", {"charge": ctx.payload})]


@stackshift_jobs.job("refunds")
async def refunds(ctx: AsyncJobContext[Any]) -> Any:
    """The same, awaited, without a type."""
    token = ctx.payload["charge"]["token"]

    async def use() -> str:
        return f"{len(token.reveal())} of {token}"

    return await ctx.step.run("use", use)


@stackshift_jobs.job("fails")
def fails(ctx: JobContext[Any]) -> None:
    """Fail with the text of the secret, in a step and then in the handler."""

    def step() -> None:
        raise ConnectionError(ctx.payload["token"].reveal())

    try:
        ctx.step.run("step", step)
    except stackshift_jobs.StepFailed as error:
        raise ValueError(f"{error} {TEXT}") from error


@stackshift_jobs.job("returns")
def returns(ctx: JobContext[Any]) -> Any:
    """Return the secret, or its text."""
    token = ctx.payload["token"]
    return {"all": [token if ctx.payload["whole"] else f"Bearer {token.reveal()}"]}


@stackshift_jobs.job("returnsAsync")
async def returns_async(ctx: AsyncJobContext[Any]) -> Any:
    """The same, awaited."""
    return returns(ctx)  # type: ignore[arg-type]  # of a context it uses the payload alone


@stackshift_jobs.job("stores")
def stores(ctx: JobContext[Any]) -> None:
    """Write the text of the secret, by the client."""
    token = ctx.payload["token"]
    ctx.step.run("store", lambda: stackshift_jobs.state.set("token", token.reveal()))


@pytest.fixture(autouse=True)
def variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of these tests."""
    monkeypatch.setenv("SHOP_TOKEN", TEXT)


def test_handlers_get_secrets_and_the_record_references(stackshift: Stackshift) -> None:
    """On each pass, in `def` and `async def`, and as a child gets them; nothing in the journal has
    the text (guarantee: secrets)."""
    run = stackshift.start("charges", {"token": TOKEN, "amount": 5})
    stackshift.advance("1h")
    size = len(TEXT)
    assert run.result == [size, size, f"{size} of {LABEL}"]
    [child] = stackshift.runs_of("refunds")
    assert child.json["payload"] == {"charge": {"token": TOKEN, "amount": 5}}
    assert run.json["payload"] == {"token": TOKEN, "amount": 5}
    assert TEXT not in json.dumps(stackshift.journal)


def test_secret_that_was_replaced_is_the_new_one_on_the_next_pass(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token may expire while a run waits for a month."""
    run = stackshift.start("charges", {"token": TOKEN})
    monkeypatch.setenv("SHOP_TOKEN", TEXT + "-new")
    stackshift.advance("1h")
    assert run.result[:2] == [len(TEXT), len(TEXT) + 4]


def test_missing_secret_fails_the_run_with_its_name(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and `retry` goes on once it is there."""
    run = stackshift.start("charges", {"token": TOKEN})
    monkeypatch.delenv("SHOP_TOKEN")
    stackshift.advance("1h")
    assert run.status == "failed"
    assert run.json["error"]["type"] == "SecretUnavailable"
    assert "variable 'SHOP_TOKEN'" in run.json["error"]["message"]
    assert run.json["attempt"] == 1
    monkeypatch.setenv("SHOP_TOKEN", TEXT)
    stackshift.call("run.retry", run=run.id)
    assert run.finish().result[:2] == [len(TEXT)] * 2


def test_text_where_a_type_says_secret_is_refused_at_the_start(stackshift: Stackshift) -> None:
    """It would be on record before anybody could refuse it."""
    with pytest.raises(PayloadRefused) as refused:
        stackshift.start("charges", {"token": TEXT})
    assert refused.value.path == "$.token"
    assert '{"$env": "NAME"}' in refused.value.message
    assert TEXT not in json.dumps(stackshift.journal)


def test_failures_are_on_record_without_the_text(stackshift: Stackshift) -> None:
    """Those of steps and of the handler, with their tracebacks."""
    run = stackshift.start("fails", {"token": TOKEN}, max_attempts=1)
    assert run.json["error"]["message"] == f"step 'step' failed: ConnectionError: {LABEL} {LABEL}"
    assert TEXT not in json.dumps(stackshift.journal) + json.dumps(run.json)


@pytest.mark.parametrize("job", ["returns", "returnsAsync"])
@pytest.mark.parametrize("whole", [True, False], ids=["secret", "text"])
def test_result_with_a_secret_is_refused(stackshift: Stackshift, job: str, whole: bool) -> None:
    """The run fails at once, and the error names the place and not the text."""
    run = stackshift.start(job, {"token": TOKEN, "whole": whole})
    assert (run.status, run.json["attempt"]) == ("failed", 1)
    assert run.json["error"]["type"] == "PayloadRefused"
    assert "at $.all[0]" in run.json["error"]["message"]
    assert TEXT not in json.dumps(stackshift.journal)


def test_client_in_a_step_refuses_the_text_too(stackshift: Stackshift) -> None:
    """What a step's function writes by `stackshift.state` and its like is on record as well."""
    run = stackshift.start("stores", {"token": TOKEN}, max_attempts=1)
    assert run.json["error"]["type"] == "PayloadRefused"
    assert f"at $.value: it contains the text of {LABEL}" in run.json["error"]["message"]
    assert stackshift.state.get("token") is None
    assert TEXT not in json.dumps(stackshift.journal)


def test_handler_with_secrets_replays(stackshift: Stackshift) -> None:
    """From every prefix of its record."""
    stackshift.assert_replays("charges", {"token": TOKEN})
