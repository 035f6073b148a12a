"""Alerts in memory: whom to tell what, what was told lately, and what is expected of jobs.

Of each target (`[notify.NAME]`) and each thing that is the same, a group passes through these
states; `decide.monitoring.alerts` is what brings it from one to the next:

    none            an alert comes          → told at once, by a message; the group is open
    open, count 0   it comes again          → held: the group counts it
                    its time is over        → closed: none
    open, count n   it comes again          → held
                    its time is over        → told, n times in one message; open for twice as long
                    its time is over        → postponed, if the target was told enough
                    its job has recovered   → told with that; none

Where a target has been told as much as it is to be told in a while, what comes is held in one group
of everything, `OVERFLOW`, and told together when the while is over.

A job is sound, or in trouble since it has failed, was late or missing; its first run that completes
ends the trouble: it has recovered. A message is a run of the built-in job `NOTIFY_JOB`, about whose
runs nothing is ever told, so there are no loops.

Laws: only `fold` changes anything here. An open group has a time at which something is decided
about it. A target is told at most `NotifyTerms.most` messages in `per_ms`, those of groups
included; so at most as many groups are opened in that time, and the one of everything, which names
at most `MOST_NAMED` jobs.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import msgspec

from stackshift_jobs.values.names import BUILT_IN_JOBS, NAME_LABEL, NOTIFY_JOB
from stackshiftd.core.records import NotifyTerms

FAILED: Final = "failed"
LATE: Final = "late"
MISSING: Final = "missing"
RECOVERED: Final = "recovered"
DAEMON_STOPPED: Final = "daemon_stopped"
TROUBLES: Final = (FAILED, LATE, MISSING)
OVERFLOW: Final = ""
MOST_NAMED: Final = 20
"""Jobs that a message about many alerts names; the others are counted together."""
MOST_TROUBLES: Final = 1000
"""Jobs in trouble that are remembered; of more, those that are in it longest are forgotten. (Names
of programs may have a date in them.)"""
OTHERS: Final = ""
"""The name under which they are counted."""


class Target(msgspec.Struct):
    """One `[notify.NAME]`. It was told `told` messages in the while that ends at `until_us`."""

    name: str
    terms: NotifyTerms
    until_us: int = 0
    told: int = 0

    def wants(self, alert: str, job: str, queue: str) -> bool:
        """Is it to be told of an alert about this job, whose run was in this queue?"""
        if alert not in self.terms.on:
            return False
        if alert == DAEMON_STOPPED:
            return True
        return _matches(job, self.terms.jobs) and _matches(queue, self.terms.queues)

    def is_full(self, now_us: int) -> bool:
        """Has it been told as much as it is to be told for now?"""
        return now_us < self.until_us and self.told >= self.terms.most


def _matches(name: str, patterns: list[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


class Group(msgspec.Struct):
    """What is the same, of one target. `count` alerts are held since it was last told, the last of
    them about the run `subject`; `named` counts them by what happened to which job, in the group of
    everything. It was opened for `span_us`, until `until_us`."""

    target: str
    key: str
    alert: str
    job: str
    until_us: int
    span_us: int
    count: int = 0
    subject: str = ""
    first_us: int = 0
    last_us: int = 0
    named: dict[str, int] = {}


class Trouble(msgspec.Struct, frozen=True):
    """What a job has not recovered from: the last `alert` about it, in trouble since `since_us`."""

    alert: str
    since_us: int


class Expectation(msgspec.Struct):
    """What is expected of a job, or of the runs of a schedule of it. A success counts
    for `due_us` if it came after `since_us`, when the one before was due; with `every_ms`, it moves
    `due_us`."""

    job: str
    expect: str
    timezone: str
    since_us: int
    every_ms: int = 0
    due_us: int = 0
    """0 if nothing is due until there is a success."""
    succeeded_us: int = 0
    """When the job last completed; 0 if that is not known."""
    missed: str = ""
    """`late` or `missing` if it was missed, and there was no success since."""
    missed_us: int = 0
    """When it was due that time."""
    schedule: str = ""


class Alerts(msgspec.Struct):
    """Everything about alerts."""

    targets: dict[str, Target] = {}
    groups: dict[str, Group] = {}
    """By `group_id`."""
    troubles: dict[str, Trouble] = {}
    """By `subject_id`."""
    expectations: dict[str, Expectation] = {}
    """By `subject_id`."""
    is_closed: bool = True
    """Did the last daemon stop in good order?"""
    was_cut_off: bool = False
    """Did the one before this not?"""

    def minds(self, job: str, queue: str) -> bool:
        """Does anybody want to know when this job has recovered?"""
        return job in self.expectations or any(
            target.wants(RECOVERED, job, queue) for target in self.targets.values()
        )


def group_id(target: str, key: str) -> str:
    """By what `Alerts.groups` knows the group `key` of `target`."""
    return f"{target}\0{key}"


def subject_id(job: str, schedule: str = "") -> str:
    """By what `Alerts.expectations` and `Alerts.troubles` know a job, or a schedule. (No name has
    such a character in it.)"""
    return f"\0{schedule}" if schedule else job


def subject_name(job: str, labels: dict[str, str]) -> str:
    """What alerts call a job: its name, or of a run of `exec` or `sh` that of its program."""
    return labels.get(NAME_LABEL) or job if job in BUILT_IN_JOBS else job


def is_message(job: str) -> bool:
    """Is it the job that delivers messages?"""
    return job == NOTIFY_JOB
