"""Starting a daemon where its log cannot be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from stackshift_cli.daemon import autostart
from stackshift_jobs.errors import BadConfiguration, DiskFull, StackshiftError
from stackshift_jobs.project.locate import Project


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EROFS, BadConfiguration),
        (errno.EACCES, BadConfiguration),
        (errno.ELOOP, BadConfiguration),
    ],
    ids=lambda value: errno.errorcode.get(value) if isinstance(value, int) else None,
)
def test_log_that_cannot_be_written_is_no_bug_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StackshiftError]
) -> None:
    """A full disk is 75, to try again; anything else is for the user to set right, 78. Both name
    the file, and nothing is started."""
    project = Project(tmp_path, tmp_path / ".stackshift")
    log = project.data_dir / "daemon.log"

    def refuse(path: str | Path, *_: object) -> int:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(autostart, "daemon_command", pytest.fail)
    with pytest.raises(kind, match=f"cannot write {log}") as refused:
        autostart.start(project, lambda _: None)
    assert refused.value.exit_status == (75 if kind is DiskFull else 78)
    assert refused.value.hint
