"""Queues without steps: `queues.py huey FILE`, `queues.py rq|celery REDIS_URL`, `queues.py
procrastinate URL`. As a module, with the same in the environment, it is what their workers load."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import time
from pathlib import Path

from driver import Peer, one_by_one, serve, until

KIND, PLACE = os.environ.get("BENCH_QUEUE", " ").split(" ", 1)

if KIND == "huey":
    from huey import SqliteHuey

    huey = SqliteHuey("bench", filename=PLACE, fsync=True, results=True, immediate=False)

    @huey.task()
    def nothing(number):
        return number + 1  # None and 0 would look like no result

elif KIND == "celery":
    from celery import Celery

    celery_app = Celery("queues", broker=f"{PLACE}/0", backend=f"{PLACE}/1")
    celery_app.conf.update(task_acks_late=True, worker_prefetch_multiplier=8)

    @celery_app.task(name="nothing")
    def nothing(number):
        return number

elif KIND == "procrastinate":
    import procrastinate

    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=PLACE))

    @app.task(name="nothing")
    async def nothing(number):
        return number

else:

    def nothing(number):
        """For RQ, which finds it by its name."""
        return number


class Queue(Peer):
    """A queue with its workers, which are `argv`; `_call(number)` runs a job and waits for it."""

    def __init__(self, *argv):
        self.version = importlib.metadata.version(KIND)
        folder = Path(__file__).parent
        environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONWARNINGS": "ignore"}
        self._workers = subprocess.Popen(
            [sys.executable, "-m", *argv], env=environment, stdout=sys.stderr, cwd=folder
        )
        until(lambda: self._first() is not None, 0.05)

    def _first(self):
        return self._call(0) or True

    def result(self, runs):
        return one_by_one(self._call, runs)

    def pids(self):
        return [self._workers.pid]

    def close(self):
        self._workers.terminate()
        try:
            self._workers.wait(10)
        except subprocess.TimeoutExpired:
            self._workers.kill()


class Huey(Queue):
    """Huey on SQLite, with four threads."""

    durability = "fsync, which is not its default"

    def __init__(self):
        consumer = ("huey.bin.huey_consumer", "queues.huey", "-w", "4", "-k", "thread", "-q")
        super().__init__(*consumer, "-d", "0.005", "-b", "1")

    def _call(self, number):
        return nothing(number).get(blocking=True, backoff=1, max_delay=0.002)

    def jobs(self, runs, in_flight):
        began = time.perf_counter()
        waiting = [nothing(number) for number in range(runs)]
        for each in waiting:
            each.get(blocking=True, backoff=1, max_delay=0.002)
        return time.perf_counter() - began


class Rq(Queue):
    """RQ with two workers that do not fork."""

    durability = "Redis with appendfsync always"

    def __init__(self):
        from redis import Redis
        from rq import Queue as RqQueue

        self._queue = RqQueue("bench", connection=Redis.from_url(PLACE))
        pool = ("worker-pool", "bench", "-n", "2", "-u", PLACE, "-w", "rq.worker.SimpleWorker")
        super().__init__("rq.cli", *pool)

    def _call(self, number):
        job = self._queue.enqueue("queues.nothing", number)
        until(lambda: job.get_status() == "finished", 0.0005)

    def jobs(self, runs, in_flight):
        began = time.perf_counter()
        done = self._queue.finished_job_registry.count
        for number in range(runs):
            self._queue.enqueue("queues.nothing", number)
        until(lambda: self._queue.finished_job_registry.count >= done + runs, 0.005)
        return time.perf_counter() - began


class CeleryQueue(Queue):
    """Celery on Redis with two processes."""

    durability = "Redis with appendfsync always, acks late"

    def __init__(self):
        quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "ERROR")
        super().__init__("celery", "-A", "queues", "worker", "-P", "prefork", "-c", "2", *quiet)

    def _call(self, number):
        return nothing.delay(number).get(timeout=30, interval=0.0005)

    def jobs(self, runs, in_flight):
        began = time.perf_counter()
        for each in [nothing.delay(number) for number in range(runs)]:
            each.get(timeout=60, interval=0.001)
        return time.perf_counter() - began


class Procrastinate(Queue):
    """Procrastinate on PostgreSQL with 20 jobs at a time in one process."""

    durability = "fsync"

    def __init__(self):
        import psycopg

        with procrastinate.App(
            connector=procrastinate.SyncPsycopgConnector(conninfo=PLACE)
        ).open() as opened:
            opened.schema_manager.apply_schema()
        self._database = psycopg.connect(PLACE, autocommit=True)
        self._app = procrastinate.App(
            connector=procrastinate.SyncPsycopgConnector(conninfo=PLACE)
        ).open()
        super().__init__("procrastinate", "--app=queues.app", "worker", "--concurrency", "20")

    def _ended(self):
        query = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
        return self._database.execute(query).fetchone()[0]

    def _call(self, number):
        ended = self._ended()
        self._app.configure_task("nothing").defer(number=number)
        until(lambda: self._ended() > ended, 0.0005)

    def jobs(self, runs, in_flight):
        began, ended = time.perf_counter(), self._ended()
        many = self._app.configure_task("nothing")
        for number in range(runs):
            many.defer(number=number)
        until(lambda: self._ended() >= ended + runs, 0.005)
        return time.perf_counter() - began


QUEUES = {"huey": Huey, "rq": Rq, "celery": CeleryQueue, "procrastinate": Procrastinate}

if __name__ == "__main__":
    if KIND not in QUEUES:
        os.environ["BENCH_QUEUE"] = f"{sys.argv[1]} {sys.argv[2]}"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    import queues  # as the workers know it

    serve(queues.QUEUES[KIND])
