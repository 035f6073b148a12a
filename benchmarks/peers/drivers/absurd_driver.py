"""Absurd on PostgreSQL, with workers in processes of their own: `absurd_driver.py URL`."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import time
import uuid

import psycopg
from absurd_sdk import Absurd
from driver import STEPS, Peer, one_by_one, serve, until

WORKERS = 4
POLL_SECONDS = 0.005
"""As good as never idle; its default, 0.25, is what a start waits for in the median."""


def work(url, queue):
    """Be a worker."""
    app = Absurd(url, queue_name=queue)

    @app.register_task("nothing")
    def nothing(params, ctx):
        return params

    @app.register_task("five")
    def five(params, ctx):
        for each in range(STEPS):
            ctx.step(f"s{each}", lambda: 1)
        return params

    @app.register_task("timed")
    def timed(params, ctx):
        took = []
        for each in range(STEPS):
            began = time.perf_counter()
            ctx.step(f"s{each}", lambda: 1)
            took.append(time.perf_counter() - began)
        return took

    print("ready", flush=True)
    app.start_worker(concurrency=1, poll_interval=POLL_SECONDS)


class AbsurdPeer(Peer):
    """A queue of its own, with workers."""

    version = importlib.metadata.version("absurd_sdk")
    durability = "fsync"

    def __init__(self, url):
        self._queue = f"q{uuid.uuid4().hex[:12]}"
        self._app = Absurd(url, queue_name=self._queue)
        self._app.create_queue(self._queue)
        self._database = psycopg.connect(url, autocommit=True)
        self._done = 0
        argv = [sys.executable, __file__, "work", url, self._queue]
        self._workers = [
            subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)
        ]
        for worker in self._workers:
            worker.stdout.readline()

    def _many(self, task, runs):
        began = time.perf_counter()
        for number in range(runs):
            self._app.spawn(task, {"number": number}, queue=self._queue)
        self._done += runs
        until(lambda: self._completed() >= self._done, 0.005)
        return time.perf_counter() - began

    def _completed(self):
        query = f"SELECT count(*) FROM absurd.t_{self._queue} WHERE state = 'completed'"
        return self._database.execute(query).fetchone()[0]

    def _run(self, task, number):
        id = self._app.spawn(task, {"number": number}, queue=self._queue)["task_id"]
        self._done += 1
        until(lambda: self._app.fetch_task_result(id, self._queue).state == "completed", 0.0005)
        return self._app.fetch_task_result(id, self._queue).result

    def steps(self, runs, in_flight):
        return self._many("five", runs)

    def jobs(self, runs, in_flight):
        return self._many("nothing", runs)

    def step(self, runs):
        took = []
        for number in range(runs):
            took += self._run("timed", number)
        return took

    def result(self, runs):
        return one_by_one(lambda number: self._run("nothing", number), runs)

    def pids(self):
        return [worker.pid for worker in self._workers]

    def close(self):
        for worker in self._workers:
            worker.kill()
            worker.wait()
        self._app.drop_queue(self._queue)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(*sys.argv[2:])
    else:
        serve(lambda: AbsurdPeer(sys.argv[1]))
