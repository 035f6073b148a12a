"""What a daemon had on record each time it ended, against what ran afterwards."""

from __future__ import annotations

from helpers.project import Project


class Ledger:
    """What journal and witness say each time it is asked, read on from where they stood before.

    Steps have to note `RUN STEP` in the witness before they do anything.
    """

    def __init__(self, project: Project, witness: Project | None = None) -> None:
        """`witness`: where steps note, if that is another one."""
        self._project = project
        self._witness = witness or project
        self._seq = 0
        self._noted = 0
        self.completed: set[tuple[str, str]] = set()
        self.ended: set[str] = set()
        """Runs that have completed."""
        self.faults: list[str] = []
        """What must not be, in words."""

    def read(self) -> None:
        """Find steps that ran since the last time although they were on record then, and note what
        is on record now."""
        # In this order, since the daemon may be at work: what is noted later than this journal and
        # in it has run again.
        records = self._project.journal(self._seq)
        told = self._witness.witness()
        for line in told[self._noted :]:
            if tuple(line.split()) in self.completed:
                self.faults.append(f"ran again though on record: {line}")
        self._noted = len(told)
        for record in records:
            self._seq = record["seq"]
            if record["kind"] == "step.completed":
                step = (record["run"], record["step"])
                if step in self.completed:
                    self.faults.append(f"recorded twice: {step}")
                self.completed.add(step)
            elif record["kind"] == "run.completed":
                self.ended.add(record["run"])

    def check(self) -> None:
        """`read`, and fail for what must not be."""
        self.read()
        assert not self.faults, self.faults
