"""How a host is reached, and what is known of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stackshift_jobs.project.config import load_config
from stackshiftd.shell.workers.hosts.far_host import SSH_OPTIONS, FarHost, Hosts, host_command
from stackshiftd.shell.workers.process import launch_process

KEEPER = ["-P", "-m", "stackshiftd.worker", "--stdio"]


def hosts(root: Path, text: str) -> Hosts:
    """The hosts of a project with these settings."""
    (root / "stackshift.toml").write_text(text)
    return Hosts(load_config(root, {}), launch_process)


@pytest.mark.parametrize(
    ("settings", "command"),
    [
        ("", ["ssh", *SSH_OPTIONS, "gpu", "python3 -P -m stackshiftd.worker --stdio"]),
        (
            'command = ["/usr/bin/ssh", "-p", "2222", "me@far"]\npython = "/opt/my shop/python"',
            [
                *("/usr/bin/ssh", *SSH_OPTIONS, "-p", "2222", "me@far"),
                "'/opt/my shop/python' -P -m stackshiftd.worker --stdio",
            ],
        ),
        (
            'command = "docker run -i --rm shop-gpu"\npython = "python"',
            ["docker", "run", "-i", "--rm", "shop-gpu", "python", *KEEPER],
        ),
    ],
)
def test_command_that_reaches_a_host(tmp_path: Path, settings: str, command: list[str]) -> None:
    """ssh hands its words to a shell there; others take them as they are."""
    text = f'[workers]\nhosts = ["gpu"]\n[hosts.gpu]\n{settings}\n'
    (tmp_path / "stackshift.toml").write_text(text)
    section = load_config(tmp_path, {}).hosts["gpu"]
    assert host_command("gpu", section) == command


def test_ssh_asks_nothing_and_forwards_nothing() -> None:
    """There is nobody to answer, and a host needs no key of ours."""
    words = " ".join(SSH_OPTIONS)
    for option in ("BatchMode=yes", "ForwardAgent=no", "ServerAliveInterval=5"):
        assert option in words
    assert "StrictHostKeyChecking" not in words  # as the user's own settings have it


def test_local_is_a_host_like_others(tmp_path: Path) -> None:
    """By its name."""
    found = hosts(tmp_path, '[workers]\nhosts = ["local", "gpu"]\n')
    assert found["local"] is found.local
    assert (found.local.worker_name(3), found["gpu"].worker_name(3)) == ("w3", "gpu/w3")


def shown(host: FarHost, *workers: str) -> dict[str, Any]:
    """What the status says, without what is not known yet."""
    return {name: value for name, value in host.shown(list(workers)).items() if value}


def test_host_tells_how_it_is(tmp_path: Path) -> None:
    """One that nothing is placed on is unused; a problem lasts until a worker comes up."""
    far = hosts(tmp_path, '[workers]\nhosts = ["gpu"]\n[hosts.spare]\n').far
    assert shown(far["spare"]) == {"name": "spare", "status": "unused"}
    gpu = far["gpu"]
    assert shown(gpu) == {"name": "gpu", "status": "starting"}
    gpu.troubled("ssh: no route to host")
    since = gpu.problem_since_us
    gpu.troubled("ssh: connection refused")
    told = shown(gpu)
    assert (told["status"], told["problem"]) == ("unreachable", "ssh: connection refused")
    assert gpu.problem_since_us == since
    gpu.outdated = "its code of a is not that of the project"
    gpu.worked()
    assert shown(gpu)["status"] == "other code"
    gpu.outdated = ""
    assert shown(gpu, "gpu/w1") == {"name": "gpu", "status": "serving", "workers": ["gpu/w1"]}
