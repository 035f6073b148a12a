"""The daemon as a service: the real daemon, and a `systemctl` that starts it as systemd does."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.conftest import PROGRAMS, Shell

SYSTEMCTL = """\
#!/bin/sh
# Remembers what it is told; `start` and `restart` run what the unit says, until it is ready.
echo "$@" >>{log}
case " $* " in
*" start "* | *" restart "*)
    rm -f {fifo}; mkfifo {fifo}
    cd {root} && {daemon} --ready-fd 9 9>{fifo} >/dev/null 2>&1 </dev/null &
    read -r ready <{fifo}
    ;;
esac
"""


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Shell]:
    """A new project, on a machine with systemd, whose units are in a folder of the test."""
    home, root, programs = tmp_path / "home", tmp_path / "shop", tmp_path / "programs"
    for folder in (home, root, programs):
        folder.mkdir()
    shell = Shell(root, home)
    paths = [p for p in shell.env["PYTHONPATH"].split(os.pathsep) if p != str(PROGRAMS)]
    daemon = f"{sys.executable} -P -m stackshiftd run --project {root}"
    systemctl = SYSTEMCTL.format(
        log=tmp_path / "log", fifo=tmp_path / "fifo", root=root, daemon=daemon
    )
    for name, text in (("systemctl", systemctl), ("loginctl", "#!/bin/sh\nexit 1\n")):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    (programs / "sitecustomize.py").write_text(
        "import pathlib\n"
        "import stackshift_cli.daemon.boot as boot\n"
        f"boot._SYSTEM_UNITS = pathlib.Path({str(tmp_path / 'units')!r})\n"
        "boot.ways = lambda project: iter([boot.Systemd(boot.service_of(project))])\n"
    )
    shell.env["PYTHONPATH"] = os.pathsep.join([str(programs), *paths])
    shell.env["PATH"] = f"{programs}:{os.environ['PATH']}"
    assert shell("init").code == 0
    yield shell
    shell("daemon", "stop")
    shell.close()


def told(shell: Shell) -> list[str]:
    """What `systemctl` was told, without the name of the unit and whose it is; and forget it."""
    log = shell.directory.parent / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.write_text("")
    return [
        " ".join(word for word in line.split() if word[0] != "-" and ".service" not in word)
        for line in lines
    ]


def pid(shell: Shell) -> int:
    """The process id of the daemon that serves."""
    return int(json.loads(shell("daemon", "status", "--json").stdout)["pid"])


def test_installed_daemon_is_the_service_whoever_starts_it(user: Shell) -> None:
    """`install` stops the daemon that runs beside it and starts the service; after a kill and after
    a stop, a command that needs the daemon starts the service again, and none beside it."""
    assert user("start", "hello", "--wait").code == 0
    before = pid(user)
    installed = user("daemon", "install")
    assert installed.code == 0
    assert f"stopped stackshiftd (pid {before})" in installed.stderr
    assert Path(installed.stdout.strip()).read_text().startswith("[Unit]\n")
    assert told(user) == ["daemon-reload", "enable", "restart"]
    service = pid(user)
    os.kill(service, signal.SIGKILL)
    again = user("start", "hello", "--wait")
    assert (again.code, told(user)) == (0, ["start"])
    assert f"started stackshiftd (pid {pid(user)})" in again.stderr
    assert user("daemon", "restart").code == 0
    assert told(user) == ["start"]
    assert user("daemon", "uninstall").code == 0
    assert told(user) == ["disable", "daemon-reload"]
    assert user("daemon", "restart").code == 0
    assert told(user) == []
