"""The daemon's man page: well formed, and complete where the program itself says what there is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.project import REPOSITORY

DAEMON = REPOSITORY / "man" / "stackshiftd.8"
MACROS = set("TH SH SS PP TP RS RE nf fi br B I BR BI RB RI IB IR".split())
SECTIONS = ["NAME", "SYNOPSIS", "DESCRIPTION", "FILES", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"]


def help_of(*verb: str) -> str:
    """What `stackshiftd VERB --help` prints."""
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "daemon")))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stackshiftd", *verb, "--help"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": paths},
    )
    return done.stdout


def as_read(page: Path) -> str:
    """The text of a page with the marks of its source taken out of words."""
    return page.read_text().replace("\\-", "-").replace("\\&", "")


def test_page_of_the_daemon_is_made_of_known_macros() -> None:
    """Each control line is a macro of man(7); blocks that are opened are closed; ASCII only."""
    lines = DAEMON.read_bytes().decode("ascii").splitlines()
    used = [line[1:].split()[0] for line in lines if line.startswith((".", "'"))]

    assert used[0] == "TH"
    assert set(used) <= MACROS
    for opens, closes in (("RS", "RE"), ("nf", "fi")):
        assert used.count(opens) == used.count(closes), opens


def test_page_of_the_daemon_has_its_sections() -> None:
    """What an administrator looks for is where he looks for it."""
    found = re.findall(r'^\.SH "?([A-Z ]+?)"?$', DAEMON.read_text(), re.MULTILINE)

    assert [name for name in found if name in SECTIONS] == SECTIONS
    assert {"SIGNALS", "RECOVERY", "EXAMPLES"} <= set(found)


@pytest.mark.parametrize("verb", [(), ("run",), ("journal",)], ids=" ".join)
def test_page_of_the_daemon_names_every_option(verb: tuple[str, ...]) -> None:
    """`--help` knows no option or verb that the page does not."""
    told = help_of(*verb)
    options = set(re.findall(r"--[a-z][a-z-]+", told))
    verbs = {word for group in re.findall(r"\{([a-z,]+)\}", told) for word in group.split(",")}
    page = as_read(DAEMON)

    assert options
    assert {name for name in options | verbs if name not in page} == set()
