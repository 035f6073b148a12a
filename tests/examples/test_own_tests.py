"""The example project's own tests, run as its user runs them; and the fixture they are written with
agrees with a real daemon."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from helpers.project import Project, environment
from stackshiftd.testing.fixture import opened

Json = dict[str, Any]
ORDER = {"customer": "cus_42", "amount_cents": 4900}
REFUSED = {"customer": "cus_7", "amount_cents": 4900, "card": "4000000000000002"}
OF_THE_MACHINE = ("attempt.suspended", "attempt.resumed", "step.started")
"""Records of how long something took for real: a daemon keeps a wait in memory that may soon be
over, and the fixture never does."""


def test_tests_of_the_example_pass(shop: Project) -> None:
    """`python -m pytest` in the project's folder, with nothing set up; all of them, none skipped,
    and nothing is left in the project."""
    before = sorted(shop.root.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=shop.root,
        env=environment() | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed(, 1 warning)? in", done.stdout, re.MULTILINE), done.stdout
    assert sorted(shop.root.iterdir()) == before


@pytest.mark.parametrize(
    ("job", "payload"), [("billing", ORDER), ("billing", REFUSED), ("import", {})]
)
def test_fixture_and_daemon_agree(
    shop: Project, monkeypatch: pytest.MonkeyPatch, job: str, payload: Json
) -> None:
    """The same run in both: its status, result and error, its steps and how often each was tried,
    and the same kinds of records; so do the runs that it started, and the state that it wrote."""
    shop.start()
    shop.finish(shop.begin(job, payload))
    real = [shop.get(each["id"]) for each in shop.call("run.list")["runs"]]
    entries = shop.call("state.list")["entries"]
    shop.stop()
    shutil.rmtree(shop.root / "out", ignore_errors=True)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with opened(shop.root, own_module=__name__, own_jobs={}) as stackshift:
        stackshift.start(job, payload).finish()
        tested = [run.json for run in stackshift.runs][::-1]
        assert shown(entries) == shown(stackshift.call("state.list")["entries"])
    assert sorted(map(told, real), key=str) == sorted(map(told, tested), key=str)


def told(run: Json) -> Json:
    """What does not depend on ids, times and places."""
    return {
        "job": run["job"],
        "status": run["status"],
        "attempt": run["attempt"],
        "payload": run["payload"],
        "result": {k: v for k, v in (run["result"] or {}).items() if k != "charge"},
        "error": run["error"] and (run["error"]["type"], run["error"]["message"]),
        "steps": [(step["name"], step["status"], step["attempts"]) for step in in_order(run)],
        "kinds": sorted(record["kind"] for record in run["timeline"] if not of_the_machine(record)),
    }


def of_the_machine(record: Json) -> bool:
    """Is it about how long something took? So is `run.queued` after a wait: it is recorded where
    the wait has ended just as its attempt was being suspended."""
    if record["kind"] == "run.queued":
        return bool(record["reason"] == "wait")
    return record["kind"] in OF_THE_MACHINE


def in_order(run: Json) -> list[Json]:
    """Its steps by name: those of a map are done in any order."""
    return sorted(run["steps"], key=lambda step: str(step["name"]))


def shown(entries: list[Json]) -> list[tuple[str, Any, int]]:
    """State entries without who wrote them when."""
    return [(each["key"], each["value"], each["version"]) for each in entries]
