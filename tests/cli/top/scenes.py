"""Answers of a daemon in which something of everything is going on."""

from __future__ import annotations

from typing import Any

from cli.fake_daemon import FakeDaemon, run_id

NOW = "2026-05-06T09:41:07.000000Z"


def row(number: int, job: str, status: str, since: str, **changed: Any) -> dict[str, Any]:
    """A run as in `daemon.activity`; `since` is a time of day."""
    at = f"2026-05-06T{since}.000000Z"
    plain = {"queue": "default", "attempt": 1, "max_attempts": 3, "step": None, "worker": None}
    shown = plain | {"why": "", "error": None, "parent": None, "created_at": at, "since": at}
    return {"id": run_id(number), "job": job, "status": status} | shown | changed


RUNS = [
    row(1, "resizeAvatar", "running", "09:40:55", queue="media", step="upload", worker="gpu-1/w3"),
    row(2, "nightlyReport", "running", "09:41:03", why="running for 4.0s in worker w2"),
    row(
        3,
        "syncCustomer",
        "retrying",
        "09:39:00",
        attempt=2,
        why="retry 3/5 at 2026-05-06T09:41:20Z (13.0s left)",
    ),
    row(
        4,
        "userOnboarding",
        "waiting",
        "08:00:00",
        why="waiting for event email.verified [user:123] until 2026-05-07T09:00:00Z (23h18m left)",
    ),
    row(5, "index\x1b[2J", "waiting", "09:20:00", why=f"lock index:c_1 is held by {run_id(2)}"),
    row(6, "resizeAvatar", "queued", "09:41:00", queue="media", why="queued 7.0s: media 1/1 busy"),
    row(
        7, "cleanUp", "scheduled", "09:00:00", why="scheduled for 2026-05-06T12:00:00Z (2h18m left)"
    ),
]
DEAD = [
    row(
        8,
        "chargeCard",
        "failed",
        "09:30:00",
        attempt=3,
        error={"type": "CardDeclined", "message": "402 from the bank", "traceback": ""},
    )
]
COUNTS = {"running": 2, "retrying": 1, "waiting": 2, "queued": 1, "scheduled": 1}
RATES = {"started": 12.1, "steps": 48.3, "ended": 11.9, "failed": 0.3}
SLOW = [
    {"job": "resizeAvatar", "step": "upload", "count": 31, "mean_ms": 9100, "max_ms": 61_000},
    {"job": "nightlyReport", "step": "query", "count": 2, "mean_ms": 4200, "max_ms": 4300},
]
ACTIVITY: dict[str, Any] = {
    "at": NOW,
    "counts": COUNTS,
    "matches": len(RUNS),
    "runs": RUNS,
    "rates": RATES,
    "slow_steps": SLOW,
}


def queue(name: str, depth: int, running: int, **changed: Any) -> dict[str, Any]:
    """A queue as in `daemon.status`."""
    plain = {"oldest_ms": 7000 if depth else None, "concurrency": None, "paused": False}
    return {"name": name, "depth": depth, "running": running} | plain | changed


STATUS: dict[str, Any] = {
    "version": "0.1.0",
    "pid": 4711,
    "project": "/srv/shop",
    "uptime_ms": 8_040_000,
    "mode": "serving",
    "failed_modules": [],
    "dead": 1,
    "queues": [
        queue("default", 0, 1),
        queue("media", 1, 1, concurrency=1),
        queue("mail", 0, 0, paused=True),
    ],
    "workers": [
        {"id": "w1", "slots": 16, "running": 1, "status": "serving"},
        {"id": "w2", "slots": 16, "running": 1, "status": "serving"},
    ],
}


def activity(params: dict[str, Any]) -> dict[str, Any]:
    """The answer to `daemon.activity`, filtered by job."""
    runs = [run for run in (DEAD if params["dead"] else RUNS) if params["filter"] in run["job"]]
    return ACTIVITY | {"runs": runs[: params["limit"]], "matches": len(runs)}


def serve(daemon: FakeDaemon) -> None:
    """Let `daemon` answer what `top` asks."""
    daemon.answers["daemon.activity"] = activity
    daemon.answers["leader.status"] = lambda _: STATUS
