"""A fake daemon: it speaks docs/protocol.md over a socket, and answers from runs that a test adds.

It executes nothing and stores nothing. A test adds runs, records and errors, inspects the requests,
breaks the connections, or stops the daemon and starts it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from cli.fake_state import FakeState
from stackshift_jobs.errors import Conflict, NotFound, StackshiftError, Usage
from stackshift_jobs.project.discovery import DaemonInfo, remove_daemon, socket_path, write_daemon
from stackshift_jobs.version import PROTOCOL

Answer = Callable[[dict[str, Any]], Any]
T0 = "2026-05-06T09:00:00.000000Z"
FINISHED = ("completed", "failed", "cancelled")

# Objects as they are on the wire, in the order of docs/protocol.md.
_RUN = """{
    "id": "", "job": "hello", "queue": "default", "status": "completed",
    "attempt": 1, "max_attempts": 3, "priority": 0,
    "payload": {}, "result": {"ok": true}, "error": null, "idempotency_key": null, "labels": {},
    "created_at": "", "scheduled_at": null, "started_at": "", "finished_at": "", "duration_ms": 12,
    "waiting_for": null, "why": null, "why_code": null,
    "code": "3f9c2a1d", "parent": null, "dead": false, "continues": null, "continued_as": null,
    "follow_up": null, "late_at": null
}"""
_SCHEDULE = """{
    "job": "", "schedule": "0 9 * * *", "timezone": "Europe/Berlin",
    "next_at": "2026-05-07T07:00:00.000000Z", "last_at": null, "paused": false, "retired": false,
    "catch_up": "once", "overlap": "skip", "payload": {},
    "last_run": null, "waiting_tick": null, "problem": null,
    "source": "code", "next_tick": "2026-05-07T07:00:00.000000Z", "jitter_ms": 0,
    "catch_up_for_ms": null, "last_status": null, "skipped": 0, "last_skip": null,
    "options": {}, "note": null, "payload_digest": "", "expected": null
}"""
_JOB = """{
    "name": "hello", "module": "jobs.hello", "queue": "default", "max_attempts": 3,
    "timeout_ms": 60000, "code": "3f9c2a1d", "schema": {"type": "object"}
}"""
_STATUS = """{
    "version": "0.1.0", "protocol": 1, "pid": 0, "project": "/srv/shop", "uptime_ms": 61000,
    "queues": [{"name": "default", "depth": 2, "oldest_ms": 1500, "running": 1}],
    "workers": [{"id": "w1", "pid": 4712, "slots": 16, "running": 1, "status": "ready"}],
    "dead": 1, "journal_bytes": 5242880, "disk_free_bytes": 9663676416, "failed_modules": [],
    "more_queues": 0, "durability": "always", "clock_ahead_ms": 0, "mode": "serving",
    "damage": null, "recovered": null
}"""
_STATS = """{
    "journal": "j1", "first_seq": 1, "last_seq": 0, "durable_seq": 0,
    "segments": [], "bytes": 512, "snapshot": null, "runs": 0, "keys": 0, "dead": 0,
    "state_entries": 0, "state_bytes": 64, "locks": 0,
    "events_kept": 0, "events_kept_bytes": 32, "event_keys": 0
}"""


def run_object(number: int = 1, **changed: Any) -> dict[str, Any]:
    """A run object with all its fields; completed unless `changed` says otherwise."""
    times = {"created_at": T0, "started_at": T0, "finished_at": T0}
    run: dict[str, Any] = json.loads(_RUN)
    return run | times | {"id": run_id(number)} | changed


def schedule_object(job: str = "hello", **changed: Any) -> dict[str, Any]:
    """A schedule as in `schedule.list`: daily at nine in Berlin unless `changed` says otherwise."""
    made: dict[str, Any] = json.loads(_SCHEDULE)
    return made | {"job": job, "name": job} | changed


def run_id(number: int) -> str:
    """The id of the test's run `number`."""
    return f"run_01kan5c8{number:018d}"


def planned(
    name: str, action: str, kind: str | None = "run", run: str | None = None
) -> dict[str, Any]:
    """A step in the reply of a dry run."""
    status = "completed" if kind else None
    return {"name": name, "action": action, "kind": kind, "status": status, "run": run}


def record(seq: int, kind: str, run: str | None = None, **more: Any) -> dict[str, Any]:
    """A record as the feed sends it, `seq` seconds after `T0`."""
    at = f"2026-05-06T09:{seq // 60:02d}:{seq % 60:02d}.000000Z"
    return {"seq": seq, "at": at, "kind": kind, **({"run": run} if run else {}), **more}


def log_line(message: str) -> dict[str, Any]:
    """What the step `a` has written to standard output."""
    written: dict[str, Any] = {"attempt": 1, "step": "a", "stream": "stdout", "level": None}
    return {"at": "2026-05-06T09:00:01.500000Z", **written, "message": message}


class FakeDaemon(FakeState):
    """Serves the data directory `data_dir` from threads of this process."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.runs: dict[str, dict[str, Any]] = {}
        self.records: list[dict[str, Any]] = []
        self.logs: list[dict[str, Any]] = []
        self.schedules: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Answer] = {}
        self.feeds = 0
        self.ahead_ms = 0
        """How far the daemon's time is ahead of the system clock."""
        self.page_records = 1000
        """How many records `run.get` gives in one answer."""
        self.pid = os.getpid()
        self.protocol = PROTOCOL
        self.stopped = threading.Event()
        self._changed = threading.Condition(threading.RLock())
        self._connections: list[_Connection] = []
        self._listener: socket.socket | None = None

    # --- What tests do ---

    def add(self, run: dict[str, Any]) -> dict[str, Any]:
        """Add `run`, which is then the newest, and return it."""
        with self._changed:
            self.runs[run["id"]] = run
        return run

    def append(self, *records: dict[str, Any]) -> None:
        """Append durable records and send them to all followers."""
        with self._changed:
            self.records += records
            for connection in self._connections:
                connection.publish()

    def finish(self, run: dict[str, Any], seq: int, **changed: Any) -> None:
        """End `run` with a last record."""
        with self._changed:
            run.update({"status": "completed", **changed})
            self.append(record(seq, f"run.{run['status']}", run["id"]))
            self._changed.notify_all()

    def wait_for(self, method: str, count: int = 1, seconds: float = 60.0) -> None:
        """Return when `method` has been requested `count` times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.asked(method) >= count, seconds), (
                f"{method} was not asked {count} times: {[m for m, _ in self.requests]}"
            )

    def wait_for_feeds(self, count: int = 1, seconds: float = 60.0) -> None:
        """Return when `count` feeds have been opened in total, and their requests answered."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.feeds >= count, seconds), self.requests

    def asked(self, method: str) -> int:
        """How often `method` was requested."""
        return sum(1 for name, _ in self.requests if name == method)

    def params(self, method: str) -> dict[str, Any]:
        """The params of the last request of `method`."""
        return next(params for name, params in reversed(self.requests) if name == method)

    def start(self) -> FakeDaemon:
        """Listen on the socket and write `daemon.json`."""
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = socket_path(self.data_dir)
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        info = DaemonInfo(self.pid, str(path), "0.1.0", self.protocol, T0)
        write_daemon(self.data_dir, info)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Remove `daemon.json`, close the socket and break all connections."""
        remove_daemon(self.data_dir)
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.break_connections()
        self.stopped.set()

    def break_connections(self) -> None:
        """Break all connections."""
        with self._changed:
            connections, self._connections = self._connections, []
        for connection in connections:
            connection.hang_up()

    # --- How it serves ---

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            connection = _Connection(self, sock)
            with self._changed:
                self._connections.append(connection)
            threading.Thread(target=connection.serve, daemon=True).start()

    def note(self, method: str, params: dict[str, Any]) -> None:
        """Note a request."""
        with self._changed:
            self.requests.append((method, params))
            self._changed.notify_all()

    def answer(self, method: str, params: dict[str, Any]) -> Any:
        """The result of `method`; raises its error."""
        if method in self.answers:
            return self.answers[method](params)
        handler = getattr(self, "on_" + method.replace(".", "_"), None)
        if handler is None:
            raise Usage(f"unknown method {method}")
        with self._changed:
            return handler(params)

    def find(self, name: str) -> dict[str, Any]:
        """The run that `name`, one of the forms of RUN, stands for; raises `NotFound`."""
        runs = list(self.runs.values())
        if name == "@last" and runs:
            return runs[-1]
        if name == "@failed":
            runs = [run for run in runs if run["status"] == "failed"][-1:]
        else:
            runs = [run for run in runs if run["id"].endswith(name)]
        if not runs:
            raise NotFound(f"no run ends in {name}", hint="stackshift runs list")
        return runs[0]

    def on_run_start(self, params: dict[str, Any]) -> Any:
        """`run.start`: a queued run, which is added unless it is a dry run."""
        given = {k: params[k] for k in ("job", "payload", "queue", "labels") if k in params}
        later = dict.fromkeys(("result", "started_at", "finished_at", "duration_ms"))
        run = run_object(len(self.runs) + 1, status="queued", **later, **given)
        if not params.get("dry_run"):
            self.add(run)
        id = None if params.get("dry_run") else run["id"]
        told = {"id": id, "reused": False, "status": run["status"]}
        return told | ({"run": run} if params.get("full") else {})

    def on_run_start_many(self, params: dict[str, Any]) -> Any:
        """`run.start_many`: a result or an error for each."""
        results: list[dict[str, Any]] = []
        for run in params["runs"]:
            try:
                results.append(self.answer("run.start", run))
            except StackshiftError as bad:
                results.append({"error": bad.as_json()})
        return {"results": results}

    def on_run_get(self, params: dict[str, Any]) -> Any:
        """`run.get`: the run object, with a page of its records if `detail` is set."""
        run = self.find(params["run"])
        if not params.get("detail"):
            return run
        mine = [r for r in self.records if r.get("run") == run["id"]]
        after = int(params.get("cursor", 0))
        end = after + self.page_records
        cursor = str(end) if end < len(mine) else None
        page = {"steps": [], "attempts": [], "timeline": mine[after:end], "cursor": cursor}
        return page if after else page | run

    def on_run_list(self, params: dict[str, Any]) -> Any:
        """`run.list`: a page of the runs that match, newest first."""
        runs = list(reversed(self.runs.values()))
        for name in ("job", "status", "queue"):
            runs = [run for run in runs if params.get(name) in (None, run[name])]
        if params.get("dead"):
            runs = [run for run in runs if run["dead"]]
        if "cursor" in params:
            ids = [run["id"] for run in runs]
            runs = runs[ids.index(params["cursor"]) + 1 :]
        page = runs[: params["limit"]]
        return {"runs": page, "cursor": page[-1]["id"] if len(page) < len(runs) else None}

    def on_run_why(self, params: dict[str, Any]) -> Any:
        """`run.why`: the fields of the run that say why."""
        run = self.find(params["run"])
        fields = ("status", "why", "why_code", "waiting_for")
        return {"run": run["id"], **{name: run[name] for name in fields}}

    def on_run_wait(self, params: dict[str, Any]) -> Any:
        """`run.wait`: the run object once the run has ended."""
        run = self.find(params["run"])
        self._changed.wait_for(lambda: run["status"] in FINISHED or self.stopped.is_set())
        return run

    def on_run_cancel(self, params: dict[str, Any]) -> Any:
        """`run.cancel`: cancels a run that has not ended."""
        run = self.find(params["run"])
        changed = run["status"] not in FINISHED
        if changed:
            run["status"] = "cancelled"
        return {"id": run["id"], "status": run["status"], "changed": changed}

    def on_run_retry(self, params: dict[str, Any]) -> Any:
        """`run.retry`: changes nothing; the same four steps for every run."""
        run = self.find(params["run"])
        dry = params.get("dry_run", False)
        steps = [
            planned("a", "set" if "a" in params.get("set", {}) else "reuse"),
            planned("b", "reuse", "sleep"),
            planned("c", "repeat", "start", run_id(7)),
            planned("d", "repeat", None),
        ]
        told = {"id": run["id"], "reused_steps": ["a", "b"], "repeated_steps": ["c"]}
        return told | {"dry_run": dry} | ({"steps": steps} if dry else {})

    def on_run_fork(self, params: dict[str, Any]) -> Any:
        """`run.fork`: changes nothing; the new run has the number 99."""
        run = self.find(params["run"])
        dry = params.get("dry_run", False)
        told = {"id": None if dry else run_id(99), "forked_from": run["id"], "dry_run": dry}
        told |= {"reused_steps": ["a"], "repeated_steps": []}
        return told | ({"steps": [planned("a", "reuse")]} if dry else {})

    def on_run_remove(self, params: dict[str, Any]) -> Any:
        """`run.remove`: removes the run."""
        run = self.find(params["run"])
        return {"id": self.runs.pop(run["id"])["id"]}

    def _dead(self, params: dict[str, Any]) -> list[dict[str, Any]]:
        dead = [run for run in reversed(self.runs.values()) if run["dead"]]
        for name in ("job", "queue"):
            dead = [run for run in dead if params.get(name) in (None, run[name])]
        return dead

    def on_dead_count(self, params: dict[str, Any]) -> Any:
        """`dead.count`: how many runs in the dead letter match."""
        return {"count": len(self._dead(params)), "at": T0}

    def _act_on_dead(self, params: dict[str, Any], status: str) -> Any:
        """Give a page of the dead letter, or the runs named, the status `status`. The cursor is the
        number of runs done so far."""
        if "runs" not in params:
            page = self._dead(params)[: params["limit"]]
            more = len(page) == params["limit"]
            done = int(params.get("cursor", 0)) + len(page)
            for run in page:
                run |= {"dead": False, "status": status}
            results: list[dict[str, Any]] = [{"id": run["id"]} for run in page]
            return {"results": results, "cursor": str(done) if more else None}
        results = []
        for name in params["runs"]:
            try:
                run = self.find(name)
                if not run["dead"]:
                    told = f"{run['id']} is {run['status']}; it is not in the dead letter"
                    raise Conflict(told, hint="stackshift dead list", owner=run["id"])
            except StackshiftError as bad:
                results.append({"run": name, "error": bad.as_json()})
            else:
                run |= {"dead": False, "status": status}
                results.append({"id": run["id"]})
        return {"results": results, "cursor": None}

    def on_dead_retry(self, params: dict[str, Any]) -> Any:
        """`dead.retry`: queues the runs."""
        return self._act_on_dead(params, "queued")

    def on_dead_discard(self, params: dict[str, Any]) -> Any:
        """`dead.discard`: takes the runs out of the dead letter."""
        return self._act_on_dead(params, "failed")

    def on_run_logs(self, params: dict[str, Any]) -> Any:
        """`run.logs`: a page of the log lines, which all runs share."""
        run = self.find(params["run"])
        mine = [line for line in self.logs if params.get("step") in (None, line["step"])]
        page = mine[params["after"] :][: params["limit"]]
        after = params["after"] + len(page)
        more = after < len(mine)
        finished = run["status"] in FINISHED
        return {"lines": page, "next": after, "more": more, "finished": finished}

    def on_daemon_clock(self, params: dict[str, Any]) -> Any:
        """`daemon.clock`: an hour ahead until it is set back."""
        changed = bool(params.get("set_back")) and self.ahead_ms > 0
        self.ahead_ms = 0 if changed else self.ahead_ms
        told = {"time": T0, "system_time": T0, "ahead_ms": self.ahead_ms}
        return told | {"changed": changed}

    def on_job_list(self, _params: dict[str, Any]) -> Any:
        """`job.list`: the job hello."""
        return {"jobs": [json.loads(_JOB)], "failed_modules": [], "cursor": None}

    def on_job_get(self, params: dict[str, Any]) -> Any:
        """`job.get`: the job hello with its details."""
        if params["job"] != "hello":
            raise NotFound(f"no job {params['job']!r}", hint="did you mean hello?", near=["hello"])
        more = {"doc": "Greet somebody.", "retry": {"max_attempts": 3}, "priority": 0}
        return json.loads(_JOB) | more

    def on_schedule_list(self, _params: dict[str, Any]) -> Any:
        """`schedule.list`: all schedules."""
        return {"schedules": list(self.schedules.values()), "cursor": None}

    def schedule(self, params: dict[str, Any]) -> dict[str, Any]:
        """The schedule that `params` names; raises `NotFound`."""
        if params["name"] not in self.schedules:
            told = f"no schedule is named {params['name']!r}"
            raise NotFound(told, hint="did you mean hello?", near=["hello"])
        return self.schedules[params["name"]]

    def on_schedule_next(self, params: dict[str, Any]) -> Any:
        """`schedule.next`: a tick a day for each schedule that is not paused."""
        wanted = [self.schedule(params)] if "name" in params else list(self.schedules.values())
        first = date(2026, 5, 7)
        days = [f"{first + timedelta(days=n)}" for n in range(5000)]
        jobs = sorted(each["job"] for each in wanted if not each["paused"])
        ticks = [
            {
                "at": f"{day}T07:00:00.000000Z",
                "job": job,
                "local": f"{day}T09:00:00+02:00",
                "name": job,
                "tick": f"{day}T07:00:00.000000Z",
            }
            for day in days
            for job in jobs
        ]
        after = (params.get("after_at", ""), params.get("after_name", ""))
        left = [tick for tick in ticks if (tick["at"], tick["job"]) > after]
        return {"ticks": left[: min(params["count"], 1000)]}

    def on_schedule_pause(self, params: dict[str, Any]) -> Any:
        """`schedule.pause`: pauses the schedule."""
        return self._switch(params, paused=True, next_at=None)

    def on_schedule_resume(self, params: dict[str, Any]) -> Any:
        """`schedule.resume`: resumes the schedule."""
        return self._switch(params, paused=False, next_at="2026-05-07T07:00:00.000000Z")

    def _switch(self, params: dict[str, Any], paused: bool, next_at: str | None) -> Any:
        found = self.schedule(params)
        changed = found["paused"] is not paused
        found |= {"paused": paused, "next_at": next_at}
        told = {"name": found["name"], "job": found["job"], "paused": paused}
        return told | {"next_at": next_at, "changed": changed}

    def on_schedule_trigger(self, params: dict[str, Any]) -> Any:
        """`schedule.trigger`: adds a queued run of the job."""
        found = self.schedule(params)
        run = self.add(run_object(len(self.runs) + 1, job=found["job"], status="queued"))
        return {"id": run["id"], "job": found["job"], "name": found["name"]}

    def on_daemon_status(self, _params: dict[str, Any]) -> Any:
        """`daemon.status`: the same numbers always."""
        return json.loads(_STATUS) | {"pid": self.pid}

    def on_leader_status(self, params: dict[str, Any]) -> Any:
        """`leader.status`: it leads."""
        return self.on_daemon_status(params)

    def on_daemon_reload(self, _params: dict[str, Any]) -> Any:
        """`daemon.reload`: nothing was changed, unless the test says otherwise."""
        nothing: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        return {
            "loaded": True,
            "changed": [],
            "jobs": nothing,
            "failed_modules": [],
            "in_flight": None,
        }

    def on_daemon_stop(self, _params: dict[str, Any]) -> Any:
        """`daemon.stop`: the connection that answers stops the daemon then."""
        return {"pid": self.pid}

    def on_journal_stats(self, _params: dict[str, Any]) -> Any:
        """`journal.stats`: the numbers of records and entries there are."""
        last = self.records[-1]["seq"] if self.records else 0
        counts = {"runs": len(self.runs), "state_entries": len(self.entries)}
        counts |= {"locks": len(self.locks), "events_kept": len(self.events)}
        return json.loads(_STATS) | {"last_seq": last, "durable_seq": last} | counts

    def on_journal_compact(self, _params: dict[str, Any]) -> Any:
        """`journal.compact`: a snapshot at sequence number 17."""
        return {"seq": 17, "state_hash": "ab12", "bytes": 2048}


class _Connection:
    """One client: each request is answered in a thread of its own, its feeds from `records`."""

    def __init__(self, daemon: FakeDaemon, sock: socket.socket) -> None:
        self._daemon = daemon
        self._sock = sock
        self._writing = threading.Lock()
        self._feeds: dict[int, dict[str, Any]] = {}

    def serve(self) -> None:
        """Answer requests until the client hangs up."""
        with contextlib.suppress(OSError), self._sock.makefile("rb") as lines:
            for line in lines:
                body = json.loads(line)
                self._daemon.note(body["method"], body["params"])
                threading.Thread(target=self._answer, args=(body,), daemon=True).start()

    def _answer(self, body: dict[str, Any]) -> None:
        try:
            if body["method"] == "feed.open":
                self._open_feed(body)
                return
            if body["method"] == "feed.close":
                told = {"result": self._close_feed(body["params"])}
            else:
                told = {"result": self._daemon.answer(body["method"], body["params"])}
        except StackshiftError as bad:
            told = {"error": {"code": -32000, "message": bad.message, "data": bad.as_json()}}
        self._send({"jsonrpc": "2.0", "id": body["id"], **told})
        if body["method"] == "daemon.stop":
            self._daemon.stop()

    def _open_feed(self, body: dict[str, Any]) -> None:
        with self._daemon._changed:
            params = body["params"]
            run = self._daemon.find(params["run"])["id"] if "run" in params else None
            kinds = tuple(params.get("kinds", ("",)))
            known = [r for r in self._daemon.records if run in (None, r.get("run"))]
            known = [r for r in known if r["kind"].startswith(kinds)]
            newest = self._daemon.records[-1]["seq"] if self._daemon.records else 0
            if "since_seq" in params:
                after = params["since_seq"]
            elif "since" in params:
                after = max((r["seq"] for r in known if r["at"] < params["since"]), default=0)
            elif "last" in params:
                left = known[: max(0, len(known) - params["last"])]
                after = left[-1]["seq"] if left else 0
            else:
                after = 0 if run else newest
            feed = max(self._feeds, default=0) + 1
            self._feeds[feed] = {"run": run, "after": after, "ended": False, "kinds": kinds}
            reply = {"feed": feed, "next_seq": after + 1}
            self._send({"jsonrpc": "2.0", "id": body["id"], "result": reply})
            self._daemon.feeds += 1
            self._daemon._changed.notify_all()
            self.publish()

    def _close_feed(self, params: dict[str, Any]) -> dict[str, Any]:
        with self._daemon._changed:
            del self._feeds[params["feed"]]
        return {}

    def publish(self) -> None:
        """Send each feed the records it has not had yet, and its end."""
        for feed, place in self._feeds.items():
            for known in self._daemon.records:
                if known["seq"] <= place["after"] or not known["kind"].startswith(place["kinds"]):
                    continue
                if place["run"] in (None, known.get("run")):
                    self._notify("feed.record", {"feed": feed, "record": known})
                    place["after"] = known["seq"]
            run = self._daemon.runs.get(place["run"] or "")
            if run is not None and run["status"] in FINISHED and not place["ended"]:
                place["ended"] = True
                self._notify("feed.end", {"feed": feed, "run": run})

    def _notify(self, method: str, params: dict[str, Any]) -> None:
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def _send(self, body: dict[str, Any]) -> None:
        try:
            with self._writing:
                self._sock.sendall(json.dumps(body).encode() + b"\n")
        except OSError:
            self.hang_up()

    def hang_up(self) -> None:
        """Break the connection."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            self._sock.close()
