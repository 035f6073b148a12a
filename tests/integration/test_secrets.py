"""Secrets with real daemons: whatever jobs do, nothing of them is on the disk or in an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from helpers.deadline import SECONDS, wait_until
from helpers.project import Project
from helpers.project_factory import Make
from helpers.scenery import CONFIG
from stackshift_jobs.errors import Conflict

TEXT = "integration-s3cret-text"
OTHER = "an0ther-s3cret-of-a-thread"
KEY = "-----BEGIN KEY-----\nMIIEowIBAAKCAQEA-first\nMIIEowIBAAKCAQEA-other\n-----END KEY-----\n"
PAYLOAD = {"token": {"$env": "SHOP_TOKEN"}, "key": {"$file": "secrets/key"}}
LABEL = "[secret $env SHOP_TOKEN]"

JOBS = r"""
import ctypes
import logging
import multiprocessing
import subprocess
import sys
import threading
from dataclasses import dataclass


def leak(token, key):
    print(token, token.reveal(), flush=True)
    print(key.reveal())
    for letter in token.reveal():
        sys.stdout.write(letter)
        sys.stdout.flush()
    print()
    os.write(1, (token.reveal() + "\n").encode())
    ctypes.CDLL(None).puts(token.reveal().encode())
    ctypes.CDLL(None).fflush(None)
    os.system("echo by system $SHOP_TOKEN")
    subprocess.run(["sh", "-c", "printf %s $SHOP_TOKEN; sleep 0; cat secrets/key >&2"])
    logging.getLogger("shop").warning("log %s", token.reveal())
    thread = threading.Thread(target=lambda: print("thread", token.reveal()))
    thread.start()
    thread.join()
    made = lambda: print("made", stackshift.Secret(os.environ["SHOP_OTHER"]).reveal())
    thread = threading.Thread(target=made)
    thread.start()
    thread.join()
    process = multiprocessing.get_context("fork").Process(target=made)
    process.start()
    process.join()
    bad = threading.Thread(target=lambda: {}[token.reveal()])
    bad.start()
    bad.join()


def tool(ctx):
    command = "echo $T; echo $SHOP_TOKEN >&2; cat; exit 1"
    token = ctx.payload["token"]
    return ctx.step.command("tool", ["sh", "-c", command], env={"T": token}, stdin=token)


@stackshift.job("leaks", retry=ONCE)
def leaks(ctx):
    token, key = ctx.payload["token"], ctx.payload["key"]
    leak(token, key)
    ctx.step.run("leak", leak, token, key)
    ctx.progress(1, 2, token.reveal())
    try:
        tool(ctx)
    except stackshift.StepFailed as error:
        raise RuntimeError(f"{error} {token.reveal()} {key.reveal()!r}") from error


@stackshift.job("leaksAsync", retry=ONCE)
async def leaks_async(ctx):
    token, key = ctx.payload["token"], ctx.payload["key"]
    leak(token, key)
    await ctx.step.run("leak", leak, token, key)
    await ctx.progress(1, 2, token.reveal())
    try:
        await tool(ctx)
    except stackshift.StepFailed as error:
        raise RuntimeError(f"{error} {token.reveal()} {key.reveal()!r}") from error


@stackshift.job("lastWords")
def last_words(ctx):
    ctx.payload["token"]
    if not noted("died"):
        note("died")
        sys.setswitchinterval(1000)  # No thread of this process reads the pipe any more.
        text = os.environ["SHOP_TOKEN"].encode()
        ctypes.PyDLL(None).write(1, text + b"\n", len(text) + 1)
        os.kill(os.getpid(), 9)
    return "survived"


@dataclass
class Sweep:
    token: stackshift.Secret


@stackshift.job("sweeps", schedule="@yearly", schedule_payload={"token": {"$env": "SHOP_TOKEN"}})
def sweeps(ctx: stackshift.JobContext[Sweep]):
    return [len(ctx.payload.token.reveal()), str(ctx.payload.token)]


@stackshift.job("held")
def held(ctx):
    ctx.step.run("before", lambda: len(ctx.payload["token"].reveal()))
    gate("held")
    print("after", ctx.payload["token"].reveal())
    return ctx.step.run("after", lambda: len(ctx.payload["token"].reveal()))


@stackshift.job("pays", schedule="@yearly", schedule_payload={"card": {"number": "4111-2222"}})
def pays(ctx):
    number = ctx.payload["card"]["number"]
    note("paid with", number)
    print("card", number)
    ctx.step.run("check", lambda: len(number))
    if ctx.payload.get("fails"):
        raise stackshift.NonRetryable(f"no money on {number}")


@stackshift.job("calls")
def calls(ctx):
    return ctx.step.call("pays", ctx.payload)
"""


@pytest.fixture
def project(make_project: Make) -> Project:
    """A daemon that runs the jobs above, with a variable and a file."""
    made = make_project(JOBS, '[project]\nenv_file = ".env"\n' + CONFIG)
    (made.root / ".env").write_text(f"SHOP_TOKEN={TEXT}\nSHOP_OTHER={OTHER}\n")
    (made.root / "secrets").mkdir()
    (made.root / "secrets" / "key").write_text(KEY)
    return made


def on_disk(project: Project) -> str:
    """Everything that daemon and workers have written, and what the daemon has said."""
    files = [path for path in project.data_dir.rglob("*") if path.is_file()]
    assert any("journal" in str(path) for path in files)
    texts = [path.read_bytes().decode("utf-8", "replace") for path in files]
    return "".join([*texts, project.log()])


def assert_unseen(text: str) -> None:
    """Neither of the secrets is in `text`, nor a line of one."""
    for secret in (TEXT, OTHER, "BEGIN KEY", "MIIEowIBAAKCAQEA"):
        assert secret not in text


def lines(project: Project, run: str) -> list[str]:
    """The messages in the log of a run."""
    return [line["message"] for line in project.call("run.logs", run=run)["lines"]]


@pytest.mark.parametrize("job", ["leaks", "leaksAsync"])
def test_nothing_of_a_secret_is_stored_or_answered(project: Project, job: str) -> None:
    """Whatever a handler prints, by whatever way, and raises (guarantee: secrets)."""
    project.start()
    run = project.finish(project.begin(job, PAYLOAD))
    assert run["status"] == "failed"
    assert run["error"]["message"].count(LABEL) >= 2
    wait_until(lambda: len(lines(project, run["id"])) >= 30, "what programs print")
    printed = lines(project, run["id"])
    assert sum(LABEL in line for line in printed) >= 15
    assert sum("[secret $file secrets/key]" in line for line in printed) >= 8
    answers = [
        run,
        printed,
        project.call("run.list", limit=10),
        project.call("run.why", run=run["id"]),
    ]
    assert_unseen(json.dumps(answers))
    assert run["payload"] == PAYLOAD
    project.stop()
    assert_unseen(on_disk(project))


def test_last_words_of_a_worker_are_withheld(project: Project) -> None:
    """Only the worker could have masked them, and it is dead; that there were some is said."""
    project.start()
    run = project.finish(project.begin("lastWords", PAYLOAD))
    assert run["result"] == "survived"
    size = len(TEXT) + 1
    said = f"(the worker wrote {size} bytes just before it died; they may contain secrets)"
    assert said in lines(project, run["id"])
    assert_unseen(on_disk(project))


def test_secrets_survive_no_crash_and_are_found_again(project: Project) -> None:
    """A daemon that is killed leaves nothing of them on the disk, and the next worker reads them
    again, as they are then (guarantee: secrets)."""
    project.start()
    run = project.begin("held", PAYLOAD)
    project.at("held")
    project.kill()
    assert_unseen(on_disk(project))
    (project.root / ".env").write_text(f"SHOP_TOKEN={TEXT}-new\n")
    project.open("held")
    project.start()
    assert project.finish(run)["result"] == len(TEXT) + 4
    assert lines(project, run)[-1] == f"after {LABEL}"
    assert_unseen(on_disk(project))


def test_schedule_names_secrets_as_a_start_does(project: Project) -> None:
    """Its payload is checked where the variable may not be set yet, and resolved by the run."""
    (project.root / ".env").write_text("")
    project.start()
    assert project.call("job.list")["failed_modules"] == []
    run = project.finish(project.call("schedule.trigger", name="sweeps")["id"])
    assert (run["status"], run["attempt"]) == ("failed", 1)
    assert "the variable 'SHOP_TOKEN'" in run["error"]["message"]
    project.stop()
    (project.root / ".env").write_text(f"SHOP_TOKEN={TEXT}\n")
    project.start()
    project.call("run.retry", run=run["id"])
    assert project.finish(run["id"])["result"] == [len(TEXT), LABEL]
    assert_unseen(on_disk(project))


# --- [redact] ------------------------------------------------------------------------------

HOOK = "on_failed = ['sh', '-c', 'cat > told.$$; mv told.$$ told-$STACKSHIFT_RUN']"
REDACT = f'{CONFIG}\n[hooks]\n{HOOK}\n[redact]\npayload = ["card.number"]\n'
CARD = "4111-1111-1111"


def assert_hidden(answer: Any) -> None:
    """The number is not in the answer, and its place is."""
    text = json.dumps(answer)
    assert "4111" not in text
    assert "[redacted]" in text


def test_redacted_values_reach_the_handler_and_nobody_else(make_project: Make) -> None:
    """Run objects, lists, timelines, feeds, waits, errors, logs, the dead letter and hooks
    (guarantee: secrets)."""
    project = make_project(JOBS, REDACT)
    project.start()
    payload = {"card": {"number": CARD, "name": "Ada"}, "fails": True}
    with project.connect() as follower:
        follower.call("feed.open", {"since_seq": 1}, timeout=SECONDS)
        started = project.call("run.start", job="pays", payload=payload, full=True)
        run = project.finish(started["id"])
        records: list[Any] = []
        while not records or records[-1].get("kind") != "run.failed":
            records.append(next(follower.notifications(timeout=SECONDS))[1]["record"])
    assert f"paid with {CARD}" in project.witness()
    assert run["error"]["message"] == "no money on [redacted]"
    assert lines(project, run["id"]) == ["card [redacted]"]
    hook = project.root / f"told-{run['id']}"
    wait_until(hook.exists, "the hook")
    retried = project.finish(project.call("run.retry", run=run["id"])["id"])
    forked = project.finish(project.call("run.fork", run=run["id"])["id"])
    for answer in (
        run,
        started,
        records,
        json.loads(hook.read_text()),
        retried,
        forked,
        project.call("run.list", dead=True),
        project.call("run.list", limit=10),
        project.call("run.wait", run=run["id"], full=True),
        project.call("run.start", job="pays", payload=payload, full=True, dry_run=True),
        project.call("schedule.list"),
        list(map(dict, project.call("run.get", run=run["id"], detail=True)["timeline"])),
    ):
        assert_hidden(answer)
    assert run["payload"]["card"]["name"] == "Ada"
    assert project.witness().count(f"paid with {CARD}") == 3


def test_conflict_does_not_say_redacted_values(make_project: Make) -> None:
    """It says that there is a difference; a child's payload is redacted by the same paths."""
    project = make_project(JOBS, REDACT)
    project.start()
    first = {"card": {"number": CARD}}
    begun = project.begin("calls", first, idempotency_key="k")
    with pytest.raises(Conflict) as conflict:
        project.begin("calls", {"card": {"number": "4222-2222"}}, idempotency_key="k")
    assert conflict.value.difference == ["redacted values"]
    assert project.begin("calls", first, idempotency_key="k") == begun
    project.finish(begun)
    [child] = project.call("run.list", job="pays")["runs"]
    assert_hidden(child)
    other = project.finish(project.begin("calls", first, idempotency_key="removed"))["id"]
    project.call("run.remove", run=other)
    params = {"job": "calls", "payload": first, "idempotency_key": "removed", "full": True}
    reused = project.call("run.start", **params)
    assert (reused["id"], reused["run"]["status"]) == (other, None)
    assert_hidden(reused)
    project.stop()
    project.start()
    assert_hidden(project.get(begun))
    assert f"paid with {CARD}" in project.witness()
