"""One project in two directories, as on two machines that share nothing but the journal's log."""

from __future__ import annotations

from helpers.project import Project
from helpers.project_factory import Make


def twins(make: Make, jobs: str, config: str) -> tuple[Project, Project]:
    """Two directories with the same jobs and settings; what `note` writes and what gates open is
    in the first one for both."""
    first = make(jobs, config)
    return first, twin(first, make, jobs, config)


def twin(first: Project, make: Make, jobs: str, config: str) -> Project:
    """One more such directory."""
    second = make(jobs, config)
    scenery = second.root / "jobs" / "_scenery.py"
    text = scenery.read_text()
    shared = text.replace("Path(__file__).parent.parent", f"Path({str(first.root)!r})")
    assert shared != text
    scenery.write_text(shared)
    return second
