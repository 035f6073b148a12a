"""`on_failure` and `on_success` under the fixture (guarantee: follow-ups)."""

from __future__ import annotations

from typing import Any

from stackshift_jobs import JobContext, Retry
from stackshift_jobs.testing import Stackshift

Context = JobContext[Any]


def test_follow_up_is_found_and_has_the_run_object(stackshift: Stackshift) -> None:
    """After the last attempt, not after the first."""

    @stackshift.job(
        "pays", retry=Retry(max_attempts=2, backoff="1m", jitter=0.0), on_failure="refunds"
    )
    def pays(_ctx: Context) -> None:
        raise ConnectionError("refused")

    @stackshift.job("refunds")
    def refunds(ctx: Context) -> Any:
        return [ctx.payload["id"], ctx.payload["attempt"], ctx.payload["error"]["type"]]

    run = stackshift.start("pays")
    assert run.json["follow_up"] is None
    stackshift.advance("1m")
    shown: dict[str, Any] = run.json
    following = stackshift.run(shown["follow_up"])
    assert following.result == [run.id, 2, "ConnectionError"]
