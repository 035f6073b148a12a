"""Starting the daemon at boot: the texts, where they go, and the programs that are told of them."""

from __future__ import annotations

import configparser
import os
import plistlib
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stackshift_cli.daemon import boot
from stackshift_cli.daemon.units import Service, crontab_line, launchd_agent, systemd_unit
from stackshift_cli.errors import NotInstalled
from stackshift_jobs.errors import BadConfiguration, Conflict
from stackshift_jobs.project.locate import Project


def service(root: Path = Path("/srv/my shop"), **changed: Any) -> Service:
    """A service whose project has a name that needs quoting."""
    made = Service(
        root=root,
        command=["/usr/bin/python3", "-P", "-m", "stackshiftd", "run", "--project", str(root)],
        starter=["/usr/bin/python3", "-m", "stackshift_cli", "-C", str(root), "daemon", "start"],
        environment={"PATH": "/opt/a b/bin:/usr/bin", "TZ": "Europe/Berlin"},
        grace_seconds=10,
    )
    return made._replace(**changed)


def unit(text: str) -> configparser.ConfigParser:
    """The sections of a unit; the last of the settings of one name counts."""
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string(text)
    return parsed


def test_unit_is_ready_when_the_daemon_says_so_and_comes_back() -> None:
    """The service manager waits for READY, restarts what failed or hangs, gives runs their grace,
    and leaves bad settings alone; jobs keep `sudo`, `/usr` and `/tmp`."""
    found = unit(systemd_unit(service()))["Service"]
    assert found["Type"] == "notify"
    assert found["WatchdogSec"] == "60s"
    assert (found["Restart"], found["RestartPreventExitStatus"]) == ("on-failure", "78")
    assert (found["KillMode"], found["TimeoutStopSec"]) == ("mixed", "40s")
    assert found["OOMPolicy"] == "continue"
    taken = {"NoNewPrivileges", "ProtectSystem", "PrivateTmp", "PrivateNetwork", "ProtectHome"}
    assert not taken & found.keys()


@pytest.mark.parametrize("text", [systemd_unit, crontab_line])
@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"root": Path("/srv/a\nb")}, "the path of the project"),
        ({"environment": {"TZ": "UTC\r"}}, "TZ"),
    ],
)
def test_text_of_lines_refuses_what_would_end_one(
    text: Callable[[Service], str], changed: dict[str, Any], what: str
) -> None:
    """The rest of the path would be read as a setting, or a line, of its own."""
    with pytest.raises(BadConfiguration, match=f"^{what} has a line end"):
        text(service(**changed))


def test_unit_of_the_system_names_the_user_and_the_target() -> None:
    """A user's unit does neither."""
    system, own = unit(systemd_unit(service(user="you"))), unit(systemd_unit(service()))
    assert (system["Service"]["User"], own["Service"].get("User")) == ("you", None)
    assert system["Install"]["WantedBy"] == "multi-user.target"
    assert own["Install"]["WantedBy"] == "default.target"


def test_unit_quotes_what_systemd_would_expand() -> None:
    """Blanks, quotes, `%` and `$` in names stay what they are."""
    root = '/srv/a b%h"$x'
    found = unit(systemd_unit(service(Path(root))))
    assert found["Service"]["ExecStart"].endswith(r'--project "/srv/a b%%h\"$$x"')
    assert found["Service"]["WorkingDirectory"] == '/srv/a b%%h"$x'
    assert '"PATH=/opt/a b/bin:/usr/bin"' in systemd_unit(service())


def test_unit_is_accepted_by_systemd(tmp_path: Path) -> None:
    """Where systemd is there to verify it; elsewhere only its settings are looked at, above."""
    program = shutil.which("systemd-analyze")
    if program is None:
        return
    file = tmp_path / "stackshift-shop.service"
    file.write_text(systemd_unit(service(tmp_path, command=[sys.executable], user="root")))
    done = subprocess.run(
        [program, "verify", "--man=no", str(file)], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)


def test_agent_keeps_the_daemon_alive_but_not_after_a_stop(tmp_path: Path) -> None:
    """launchd starts it at login, and again unless it ended well."""
    agent = plistlib.loads(launchd_agent(service(), tmp_path / "daemon.log").encode())
    assert agent["Label"] == "dev.stackshift-srv-my-shop"
    assert agent["ProgramArguments"][-1] == "/srv/my shop"
    assert (agent["RunAtLoad"], agent["KeepAlive"]) == (True, {"SuccessfulExit": False})


def test_crontab_line_is_one_command_for_cron() -> None:
    """The shell reads the words as they were, and `%` does not end the command."""
    line = crontab_line(service(Path("/srv/50% off"), starter=["start", "/srv/50% off"]))
    assert line.startswith("@reboot ")
    words = shlex.split(line.removeprefix("@reboot ").replace("\\%", "%"))
    assert words == ["env", "TZ=Europe/Berlin", "start", "/srv/50% off"]
    assert "%" not in line.replace("\\%", "")


def stop() -> None:
    """No daemon is running."""


class Told:
    """Stands for the programs of the system; remembers what they were told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, argv: list[str], *_: Any, **__: Any) -> None:
        self.lines.append(" ".join(argv))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Told:
    """Installs for an ordinary user whose home is a directory of the test."""
    remembered = Told()
    monkeypatch.setattr(boot, "_run", remembered)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() or 1)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return remembered


def test_install_writes_the_unit_and_starts_it(told: Told, tmp_path: Path) -> None:
    """The file, then `daemon-reload`, `enable` and `restart`; `uninstall` leaves nothing, and does
    not stop the daemon."""
    way = boot.Systemd(service(tmp_path / "shop"))
    assert not way.is_installed()
    way.install(stop)
    assert Path(way.place).read_text() == systemd_unit(way.service)
    assert way.is_installed()
    name = Path(way.place).name
    assert told.lines[:3] == [
        "systemctl --user daemon-reload",
        f"systemctl --user enable {name}",
        f"systemctl --user restart {name}",
    ]
    assert told.lines[3].startswith("loginctl enable-linger ")
    told.lines.clear()
    way.uninstall()
    assert not Path(way.place).exists()
    assert not way.is_installed()
    assert told.lines == [f"systemctl --user disable {name}", "systemctl --user daemon-reload"]


def test_failed_install_leaves_nothing_and_stops_nothing(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a bus to systemd there is no unit afterwards, and the daemon still runs."""
    stopped: list[int] = []

    def refuse(argv: list[str], *_: Any, **__: Any) -> None:
        told(argv)
        raise NotInstalled("no bus")

    monkeypatch.setattr(boot, "_run", refuse)
    way = boot.Systemd(service(tmp_path))
    with pytest.raises(NotInstalled):
        way.install(lambda: stopped.append(1))
    assert (way.is_installed(), stopped) == (False, [])
    assert told.lines == ["systemctl --user daemon-reload"]


def test_install_does_not_take_the_unit_of_another_project(told: Told, tmp_path: Path) -> None:
    """Two paths may make one name; the second is refused, and names the first."""
    boot.Systemd(service(tmp_path / "a-b")).install(stop)
    other = boot.Systemd(service(tmp_path / "a" / "b"))
    told.lines.clear()
    assert not other.is_installed()
    with pytest.raises(Conflict, match="a-b"):
        other.install(stop)
    assert told.lines == []


def test_command_starts_the_service_if_there_is_one(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon beside the service would keep the service from starting."""
    project = Project(tmp_path, tmp_path / ".stackshift")
    way = boot.Systemd(service(tmp_path))
    monkeypatch.setattr(boot, "ways", lambda _: iter([way]))
    assert not boot.started_as_service(project)
    way.install(stop)
    told.lines.clear()
    assert boot.started_as_service(project)
    assert told.lines == [f"systemctl --user start {Path(way.place).name}"]
