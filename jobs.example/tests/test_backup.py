"""`nightlyBackup`: a shell job. Its steps are programs, which really run."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from stackshift_jobs.testing import Stackshift


def packs(out: Path) -> list[Path]:
    """What is kept, oldest first, and whatever else is there."""
    return sorted((out / "backups").iterdir())


def test_backup_has_everything_and_says_where_it_is(stackshift: Stackshift, out: Path) -> None:
    """The pack can be read, and nothing else is left."""
    run = stackshift.start("nightlyBackup")
    assert run.status == "completed"
    [pack] = packs(out)
    with tarfile.open(pack) as tar:
        assert {"data/customers.csv", "pictures/img_123.png"} <= set(tar.getnames())
    newest = stackshift.state.get("backup:newest")
    assert newest == {"file": f"out/backups/{pack.name}", "bytes": pack.stat().st_size}
    [event] = stackshift.call("event.list", name="backup.made")["events"]
    assert event["payload"] == {"file": newest["file"]}


@pytest.mark.parametrize("step", ["pack", "verify", "keep", "rotate"])
def test_worker_that_dies_leaves_a_whole_backup_and_one_name(
    stackshift: Stackshift, out: Path, step: str
) -> None:
    """Each step can run again, and the name is the one on record."""
    with stackshift.crashing(step):
        run = stackshift.start("nightlyBackup")
    assert run.status == "completed"
    [pack] = packs(out)
    with tarfile.open(pack) as tar:
        assert "data/customers.csv" in tar.getnames()


def test_only_the_newest_three_are_kept(stackshift: Stackshift, out: Path) -> None:
    """By their names, which sort as the times do."""
    (out / "backups").mkdir(parents=True)
    for day in range(1, 5):
        (out / "backups" / f"2020-01-0{day}T031500Z.tar.gz").touch()
    assert stackshift.start("nightlyBackup").status == "completed"
    assert [pack.name[:10] for pack in packs(out)][:2] == ["2020-01-03", "2020-01-04"]
    assert len(packs(out)) == 3


def test_what_cannot_be_packed_whole_is_not_kept(
    stackshift: Stackshift, out: Path, tmp_path: Path
) -> None:
    """The run fails at that step, after its retries."""
    for name in ("data", "pictures"):
        (tmp_path / name).unlink()
        (tmp_path / name).mkdir()
    (tmp_path / "data" / "gone").symlink_to("nowhere")
    run = stackshift.start("nightlyBackup")
    stackshift.advance("10m")
    assert run.status == "failed"
    assert not [pack for pack in packs(out) if pack.suffix == ".gz"]
