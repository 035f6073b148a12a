"""A walk through a folder of job modules ends, and follows the links that lead to modules."""

from __future__ import annotations

from pathlib import Path

from stackshift_jobs.project.folders import walk


def walked(folder: Path) -> list[str]:
    """What a walk meets, in order."""
    return [str(Path(entry.path).relative_to(folder)) for entry in walk(str(folder))]


def make(root: Path, *files: str) -> None:
    """Make empty files, and the folders they are in."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def test_walk_meets_everything_by_name(tmp_path: Path) -> None:
    """Each folder before what is in it, on every system in the same order."""
    make(tmp_path, "b.py", "a/z.py", "a/deep/y.txt", "a.py")
    assert walked(tmp_path) == ["a", "a/deep", "a/deep/y.txt", "a/z.py", "a.py", "b.py"]


def test_link_to_a_folder_of_modules_is_followed(tmp_path: Path) -> None:
    """With all that is below it, also where that leads out of the folder."""
    make(tmp_path, "jobs/a.py", "shared/one.py", "shared/deep/two.py")
    (tmp_path / "jobs/more").symlink_to("../shared")
    assert walked(tmp_path / "jobs") == [
        "a.py",
        "more",
        "more/deep",
        "more/deep/two.py",
        "more/one.py",
    ]


def test_link_to_data_is_not_followed(tmp_path: Path) -> None:
    """It may lead to as much as a disk holds."""
    make(tmp_path, "jobs/a.py", "data/2026/01.csv")
    (tmp_path / "jobs/data").symlink_to("../data")
    (tmp_path / "jobs/nowhere").symlink_to("../missing")
    assert walked(tmp_path / "jobs") == ["a.py", "data", "nowhere"]


def test_walk_ends_where_links_lead_back(tmp_path: Path) -> None:
    """To the folder they are in, to one above, to each other, or to themselves."""
    make(tmp_path, "jobs/a.py", "jobs/deep/b.py", "other/c.py")
    (tmp_path / "jobs/here").symlink_to(".")
    (tmp_path / "jobs/deep/up").symlink_to("..")
    (tmp_path / "jobs/other").symlink_to("../other")
    (tmp_path / "other/back").symlink_to("../jobs")
    (tmp_path / "jobs/self").symlink_to("self")
    assert walked(tmp_path / "jobs") == [
        "a.py",
        "deep",
        "deep/b.py",
        "deep/up",
        "here",
        "other",
        "other/back",
        "other/c.py",
        "self",
    ]
