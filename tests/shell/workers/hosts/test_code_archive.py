"""The code that is sent to hosts."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from stackshift_jobs.errors import BadConfiguration
from stackshiftd.shell.workers.hosts import code_archive
from stackshiftd.shell.workers.hosts.code_archive import Archive, archive


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with what is sent and what is not."""
    for name, text in {
        "jobs/__init__.py": "",
        "jobs/_helpers.py": "h = 1\n",
        "jobs/shop/orders.py": "o = 1\n",
        "jobs/.hidden.py": "no\n",
        "jobs/.venv/lib/a.py": "no\n",
        "jobs/__pycache__/orders.cpython-311.pyc": "no\n",
        "jobs/old.pyc": "no\n",
        "lib/tax.py": "t = 1\n",
        "secrets.env": "KEY=1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def names(found: Archive) -> list[str]:
    """The files in an archive."""
    with tarfile.open(fileobj=io.BytesIO(found.data)) as tar:
        return tar.getnames()


def test_archive_has_what_is_sent_and_nothing_else(root: Path) -> None:
    """Sorted; helpers and packages are code too."""
    jobs = ["jobs/__init__.py", "jobs/_helpers.py", "jobs/shop/orders.py"]
    assert names(archive(root, ["jobs"])) == jobs
    assert names(archive(root, ["lib/tax.py", "jobs"])) == [*jobs, "lib/tax.py"]


def test_same_files_are_the_same_bytes(root: Path) -> None:
    """Whenever they were written, and by whom; one change makes another digest."""
    first = archive(root, ["jobs", "lib"])
    for file in root.rglob("*.py"):
        os.utime(file, (1, 1))
        file.chmod(0o600)
    assert archive(root, ["lib", "jobs"]) == first
    (root / "lib/tax.py").chmod(0o755)
    assert archive(root, ["jobs", "lib"]).digest != first.digest


def test_link_inside_the_project_is_the_file_that_it_leads_to(root: Path) -> None:
    """One that leads out of it is refused."""
    (root / "jobs/tax.py").symlink_to(root / "lib/tax.py")
    assert "jobs/tax.py" in names(archive(root, ["jobs"]))
    (root / "jobs/passwd.py").symlink_to("/etc/passwd")
    with pytest.raises(BadConfiguration, match=r"jobs/passwd\.py .* leads out of the project"):
        archive(root, ["jobs"])


def test_what_is_missing_or_too_large_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to do about it."""
    with pytest.raises(BadConfiguration, match="nothing is to be sent to hosts, and is not there"):
        archive(root, ["nothing"])
    monkeypatch.setattr(code_archive, "MAX_BYTES", 1 << 20)
    (root / "jobs/model.bin").write_bytes(b"x" * (2 << 20))
    with pytest.raises(BadConfiguration, match="larger than 1 MiB") as refused:
        archive(root, ["jobs"])
    assert "[hosts.NAME] send" in refused.value.hint
