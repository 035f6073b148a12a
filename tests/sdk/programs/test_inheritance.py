"""What a daemon cannot do without, of what it inherits."""

from __future__ import annotations

import resource

import pytest

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.programs.inheritance import LEAST_OPEN_FILES, check_open_files


def test_too_few_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the number, and where it is raised; whatever needs one more would fail otherwise."""
    allowed = [LEAST_OPEN_FILES - 1]
    monkeypatch.setattr(resource, "getrlimit", lambda _kind: (allowed[0], allowed[0]))
    with pytest.raises(BadConfiguration, match="only 63 files may be open at once") as refused:
        check_open_files()
    assert "ulimit -n" in refused.value.hint
    for enough in (LEAST_OPEN_FILES, resource.RLIM_INFINITY):
        allowed[:] = [enough]
        check_open_files()
