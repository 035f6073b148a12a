"""Where a crontab is read from, and whose it is."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from stackshift_cli.crontab.source import read_source
from stackshift_cli.flows import cron_trial
from stackshift_jobs.errors import Usage


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process runs under an id of which the system knows nothing, as in many containers."""

    def unknown(uid: int) -> NoReturn:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_account")
def test_user_without_an_account_has_a_number_for_a_name(tmp_path: Path) -> None:
    """And the root directory for a home; a crontab is read, and a line tried, as of anybody."""
    file = tmp_path / "crontab"
    file.write_text("0 5 * * * true\n")
    assert read_source(str(file), None).origin == str(file)
    found = tmp_path / "found"
    assert cron_trial._run(f"echo $LOGNAME $HOME $PWD > '{found}'", None) == 0
    assert found.read_text() == f"{os.geteuid()} / /\n"


def test_closed_standard_input_is_no_crontab(monkeypatch: pytest.MonkeyPatch) -> None:
    """`stackshift crontab import - <&-` is the caller's mistake, not ours."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(Usage, match="cannot read the crontab from standard input: it is closed"):
        read_source("-", None)
