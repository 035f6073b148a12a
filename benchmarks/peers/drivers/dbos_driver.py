"""DBOS, started in the process that asks, as its users do it: `dbos_driver.py URL`."""

from __future__ import annotations

import importlib.metadata
import os
import sys
import time

from dbos import DBOS
from driver import STEPS, Peer, in_threads, one_by_one, serve

took: list[float] = []


@DBOS.step()
def give(number):
    return number


@DBOS.workflow()
def nothing(number):
    return number


@DBOS.workflow()
def five(number):
    for each in range(STEPS):
        give(each)
    return number


@DBOS.workflow()
def timed(number):
    for each in range(STEPS):
        began = time.perf_counter()
        give(each)
        took.append(time.perf_counter() - began)
    return number


class Dbos(Peer):
    """DBOS with its system database at `url`."""

    version = importlib.metadata.version("dbos")

    def __init__(self, url):
        DBOS(
            config={
                "name": "bench",
                "system_database_url": url,
                "log_level": "ERROR",
                "application_version": "1",
                "executor_id": "one",
                "run_admin_server": False,
            }
        )
        DBOS.launch()
        self.durability = "SQLite, as DBOS opens it" if url.startswith("sqlite") else "fsync"

    def steps(self, runs, in_flight):
        return in_threads(self._run(five), runs, in_flight)

    def jobs(self, runs, in_flight):
        return in_threads(self._run(nothing), runs, in_flight)

    def step(self, runs):
        took.clear()
        for number in range(runs):
            timed(number)
        return list(took)

    def result(self, runs):
        return one_by_one(self._run(nothing), runs)

    @staticmethod
    def _run(workflow):
        return lambda number: DBOS.start_workflow(workflow, number).get_result()

    def close(self):
        DBOS.destroy()
        os._exit(0)  # its threads may take their time


if __name__ == "__main__":
    serve(lambda: Dbos(sys.argv[1]))
