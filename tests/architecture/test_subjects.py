"""A subject has one name in each layer, so that `ls` alone shows where it is."""

from __future__ import annotations

import pytest

from architecture.source import ROOT

CORE = "daemon/stackshiftd/core"
METHODS = "daemon/stackshiftd/shell/methods"

ROOMS = {
    "locks": [
        f"{CORE}/state",
        f"{CORE}/fold",
        f"{CORE}/decide",
        METHODS,
        "stackshift_jobs/calls",
        "stackshift_jobs/client",
        "stackshift_jobs/handler",
        "stackshift_cli/verbs",
        "tests/core/decide",
        "tests/shell/methods",
        "tests/sdk/client",
        "tests/sdk/handler",
        "tests/cli/verbs",
        "tests/integration",
    ],
    "events": [
        f"{CORE}/state",
        f"{CORE}/fold",
        f"{CORE}/decide",
        METHODS,
        "stackshift_jobs/calls",
        "stackshift_jobs/client",
        "stackshift_cli/verbs",
        "tests/core/decide",
        "tests/shell/methods",
        "tests/cli/verbs",
        "tests/integration",
    ],
    "entries": [f"{CORE}/state", f"{CORE}/fold", f"{CORE}/decide", "tests/core/decide"],
    "state": [
        METHODS,
        "stackshift_jobs/calls",
        "stackshift_jobs/client",
        "stackshift_jobs/handler",
        "stackshift_cli/verbs",
        "tests/shell/methods",
        "tests/sdk/client",
        "tests/cli/verbs",
        "tests/integration",
    ],
    "queues": [
        f"{CORE}/state",
        f"{CORE}/decide",
        METHODS,
        "stackshift_cli/verbs",
        "tests/core/state",
        "tests/core/decide",
        "tests/cli/verbs",
        "tests/integration",
    ],
    "schedules": [
        f"{CORE}/state",
        f"{CORE}/fold",
        f"{CORE}/decide",
        METHODS,
        "stackshift_cli/verbs",
        "tests/core/decide",
        "tests/cli/verbs",
        "tests/integration",
    ],
    "dead_letter": [f"{CORE}/decide", METHODS, "tests/core/decide", "tests/integration"],
}
"""Subject → the folders that have a file of that name. In the core the entries of the state are
`entries`, since `state` is the whole of what the fold leaves."""


@pytest.mark.parametrize("subject", ROOMS)
def test_subject_has_its_file_in_each_layer(subject: str) -> None:
    """Whoever knows one layer finds the subject in the next."""
    for folder in ROOMS[subject]:
        name = f"test_{subject}.py" if folder.startswith("tests") else f"{subject}.py"
        assert (ROOT / folder / name).is_file(), f"{folder}/{name}"
