"""`cron.sh` of the example project, as cron runs it: a bare environment, no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import via
from helpers.deadline import SECONDS
from helpers.project import Project, environment

DAY = "2026-11-22"


@pytest.fixture
def night(shop: Project, tmp_path: Path) -> Night:
    """The script, with a `stackshift` on its PATH."""
    return Night(shop, tmp_path)


class Night:
    """Runs the script. Cron gives it no more than HOME and a PATH."""

    def __init__(self, shop: Project, folder: Path) -> None:
        self.shop = shop
        programs = folder / "bin"
        programs.mkdir()
        command = programs / "stackshift"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m stackshift_cli "$@"\n')
        command.chmod(0o755)
        self.environment = {
            "HOME": str(folder),
            "PATH": f"{programs}:/usr/bin:/bin",
            "PYTHONPATH": environment()["PYTHONPATH"],
            **via.variables(),
        }

    def begin(self, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.shop.root / "cron.sh"), DAY],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | more,
            cwd=os.sep,
        )

    def run(self, **more: str) -> tuple[int, str, str]:
        process = self.begin(**more)
        out, err = process.communicate(timeout=SECONDS)
        return process.returncode, out, err


def test_night_is_worked_once_however_often_the_script_runs(night: Night) -> None:
    """Two at the same time and one more later: one import, one event, and each says the same."""
    first, second = night.begin(), night.begin()
    told = [process.communicate(timeout=SECONDS)[0] for process in (first, second)]
    third = night.run()

    assert [first.returncode, second.returncode, third[0]] == [0, 0, 0], third[2]
    assert {*told, third[1]} == {f"imported: {DAY}\t24 rows read in all\n"}
    shop = night.shop
    assert len(shop.call("run.list", job="import")["runs"]) == 1
    (event,) = shop.call("event.list", name="import.finished")["events"]
    assert event["correlation_key"] == f"day:{DAY}"


def test_night_that_takes_too_long_is_told_of_and_goes_on(night: Night) -> None:
    """While the import waits for its lock the script gives up for now (75); later it is done."""
    shop = night.shop
    shop.start()
    lock = shop.call(
        "lock.acquire", key="import:data/customers.csv", ttl_ms=60_000, asker="a", holder="a test"
    )
    status, out, err = night.run(PATIENCE="200ms")
    assert (status, out) == (75, "")
    assert "still under way: lock import:data/customers.csv is held by a test" in err

    shop.call("lock.release", key=lock["key"], token=lock["token"])
    assert night.run()[0] == 0


def test_night_that_fails_ends_with_the_status_of_the_failure(night: Night) -> None:
    """A file that is not there: the script ends with 1 and says why; nothing is told to others."""
    (night.shop.root / "data" / "customers.csv").unlink()
    status, out, err = night.run()

    assert (status, out) == (1, "")
    assert f"the import of {DAY} did not go well" in err
    assert night.shop.call("event.list")["events"] == []
