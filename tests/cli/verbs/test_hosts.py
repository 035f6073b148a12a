"""Transcripts of `hosts list|check`."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon

GPU: dict[str, Any] = {
    "name": "gpu-1",
    "status": "serving",
    "workers": ["gpu-1/w2", "gpu-1/w3"],
    "version": "0.1.0",
    "python": "/opt/shop/bin/python",
    "round_trip_ms": 0.4,
    "problem": None,
    "since": None,
}
FAR: dict[str, Any] = dict.fromkeys(GPU) | {
    "name": "far",
    "status": "unreachable",
    "workers": [],
    "problem": "ssh: no\x1b route",
}


def test_list_is_a_line_a_host(shell: Shell, daemon: FakeDaemon) -> None:
    """`name status workers version round_trip_ms problem`; JSON: as the status has it."""
    daemon.answers["leader.status"] = lambda _: {"hosts": [GPU, FAR]}
    told = shell("hosts", "list")
    assert told.stdout == (
        "gpu-1\tserving\tgpu-1/w2,gpu-1/w3\t0.1.0\t0.4\t\n"
        "far\tunreachable\t\t\t\tssh: no\\x1b route\n"
    )
    assert json.loads(shell("host", "list", "--json").stdout) == [GPU, FAR]


def test_list_without_hosts_says_so(shell: Shell, daemon: FakeDaemon) -> None:
    """And where to read on."""
    daemon.answers["leader.status"] = lambda _: {"hosts": []}
    told = shell("hosts", "list")
    assert (told.code, told.stdout) == (0, "")
    assert "workers run on this machine" in told.stderr
    assert shell("hosts", "list", "--json").stdout == "[]\n"


def test_check_of_a_host_that_is_not_named_is_refused(shell: Shell) -> None:
    """With the names that there are; a project without hosts has nothing to check."""
    told = shell("hosts", "check")
    assert (told.code, told.stdout) == (0, "")
    assert "workers run on this machine" in told.stderr
    told = shell("hosts", "check", "gpu-2")
    assert told.code == 4
    assert "there is no host 'gpu-2'" in told.stderr


@pytest.mark.parametrize(("words", "code"), [((), 78), (("here",), 0), (("away",), 78)])
def test_check_tries_hosts_without_a_daemon(real: Shell, words: tuple[str, ...], code: int) -> None:
    """A line for each, with the status 78 if any of them cannot be used; the same in `doctor`."""
    (real.directory / "stackshift.toml").write_text(
        '[workers]\ninherit_env = ["PYTHONPATH"]\nhosts = ["local", "here", "away"]\n'
        f'[hosts.here]\ncommand = "env XDG_CACHE_HOME={real.directory.parent}/cache"\n'
        f'python = "{sys.executable}"\n'
        '[hosts.away]\ncommand = ["sh", "-c", "echo no route to away >&2; exit 255"]\n'
    )
    told = real("hosts", "check", *words)
    assert told.code == code, told.stderr
    lines = {line.split("\t")[0]: line.split("\t") for line in told.stdout.splitlines()}
    assert set(lines) == set(words or ("here", "away"))
    if "here" in lines:
        assert lines["here"][1:3] == ["ok", "0.1.0"]
        assert lines["here"][6] == "1"
    if "away" in lines:
        assert (lines["away"][1], lines["away"][-1]) == ("problem", "no route to away")
    if not words:
        found = real("doctor").stdout
        assert "hosts\tok\there: 1 job" in found
        assert "hosts\tproblem\taway: no route to away\tstackshift hosts check away -v" in found
