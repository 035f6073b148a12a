"""The files that job modules are in."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stackshiftd.worker.code_files import sources


def test_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not one without modules. (The tests may be root's, to whom no folder is closed.)"""
    for folder in ("jobs/closed", "jobs/open", "more"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "jobs/open/hello.py").touch()
    access = os.access

    def closed(path: str, mode: int) -> bool:
        return not str(path).endswith(("closed", "more")) and access(path, mode)

    monkeypatch.setattr(os, "access", closed)
    found = {each.module: each.problem for each in sources(tmp_path, ["jobs", "more"])}
    assert found == {
        "jobs/closed": f"the folder cannot be read: chmod u+rx {tmp_path}/jobs/closed",
        "jobs.open.hello": "",
        "more": f"the folder cannot be read: chmod u+rx {tmp_path}/more",
    }
