"""Starting the daemon when the machine boots: which way there is here, and whether it is in use.

There are three: systemd (the user's own, or for root the system's), launchd, and `@reboot` in the
user's crontab. What a way needs is read from the machine each time; nothing is remembered, so what
a person removes by hand is gone.

A service manager that has the daemon as a service also starts it for commands
(`started_as_service`): a daemon beside the service would keep the service from starting.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from stackshift_cli.daemon.units import (
    Service,
    crontab_line,
    daemon_command,
    launchd_agent,
    systemd_unit,
)
from stackshift_cli.errors import NotInstalled
from stackshift_jobs.errors import Conflict, StackshiftError
from stackshift_jobs.project.discovery import LOG_FILE
from stackshift_jobs.project.locate import DATA_DIR_VARIABLE, Project

_SECONDS: Final = 5.0
_START_SECONDS: Final = 300.0
"""`systemctl start` returns when the daemon is ready, which takes as long as its recovery."""
_SYSTEM_UNITS: Final = Path("/etc/systemd/system")
_KEPT: Final = ("PATH", "LANG", "TZ")
"""What the workers' environment is made of, and a service manager does not have."""


class Way(Protocol):
    """A way to start a daemon at boot."""

    kind: str
    place: str
    """Where its text is: the path of a file, or a name for people."""
    service: Service

    def text(self) -> str:
        """What is written there."""

    def is_installed(self) -> bool:
        """Does it start this project's daemon?"""

    def install(self, stop: Callable[[], None]) -> list[str]:
        """Write the text and put it in force; notes for the person. A way that starts the daemon
        itself calls `stop` first, which stops one that is running. Raises `StackshiftError`, and
        then nothing is installed."""

    def uninstall(self) -> None:
        """Undo `install`; the daemon keeps running."""


class Systemd:
    """A unit of the user's systemd, or for root one of the system's."""

    kind = "systemd"

    def __init__(self, service: Service) -> None:
        self.service = service
        is_system = os.geteuid() == 0
        folder = _SYSTEM_UNITS if is_system else _user_config() / "systemd" / "user"
        self._file = folder / f"{service.name}.service"
        self.place = str(self._file)
        self._scope = [] if is_system else ["--user"]

    def text(self) -> str:
        """The unit."""
        return systemd_unit(self.service)

    def is_installed(self) -> bool:
        """Is there a unit for this project?"""
        return self._root_of_unit() == str(self.service.root)

    def install(self, stop: Callable[[], None]) -> list[str]:
        """Write the unit, enable it and start it."""
        other = self._root_of_unit()
        if other is not None and other != str(self.service.root):
            raise Conflict(
                f"{self.place} starts the daemon of {other}",
                hint=f"remove it: stackshift daemon uninstall -C {shlex.quote(other)}",
            )
        _write(self._file, self.text())
        try:
            self._systemctl("daemon-reload")
            self._systemctl("enable", self._file.name)
        except NotInstalled:
            # There may be no bus to the user's systemd. A unit that is not enabled starts nothing,
            # but would count as installed.
            self._file.unlink(missing_ok=True)
            raise
        stop()
        self._systemctl("restart", self._file.name)
        return [] if not self._scope else _linger()

    def uninstall(self) -> None:
        """Disable the unit and remove its file."""
        self._systemctl("disable", self._file.name)
        self._file.unlink(missing_ok=True)
        self._systemctl("daemon-reload")

    def start(self) -> None:
        """Start the service, and wait until it is ready."""
        self._systemctl("start", self._file.name)

    def _root_of_unit(self) -> str | None:
        try:
            lines = self._file.read_text("utf-8", "replace").splitlines()
        except OSError:
            return None
        roots = [line.partition("=")[2] for line in lines if line.startswith("WorkingDirectory=")]
        return roots[0].replace("%%", "%") if roots else ""

    def _systemctl(self, *words: str) -> None:
        _run(["systemctl", *self._scope, *words], _user_bus())


class Launchd:
    """An agent of the user on macOS."""

    kind = "launchd"

    def __init__(self, service: Service, data_dir: Path) -> None:
        self.service = service
        self._log = data_dir / LOG_FILE
        self._file = Path.home() / "Library" / "LaunchAgents" / f"dev.{service.name}.plist"
        self.place = str(self._file)
        self._domain = f"gui/{os.getuid()}"

    def text(self) -> str:
        """The property list."""
        return launchd_agent(self.service, self._log)

    def is_installed(self) -> bool:
        """Is there an agent for this project?"""
        return self._file.exists()

    def install(self, stop: Callable[[], None]) -> list[str]:
        """Write the agent and load it, which starts the daemon."""
        if self.is_installed():
            self._launchctl("bootout", f"{self._domain}/dev.{self.service.name}", may_fail=True)
        _write(self._file, self.text())
        stop()
        self._launchctl("bootstrap", self._domain, self.place)
        return []

    def uninstall(self) -> None:
        """Remove the agent's file. It is not unloaded, which would stop the daemon."""
        self._file.unlink(missing_ok=True)

    def _launchctl(self, *words: str, may_fail: bool = False) -> None:
        _run(["launchctl", *words], may_fail=may_fail)


class Crontab:
    """A line `@reboot` in the user's crontab."""

    kind = "crontab"
    place = "crontab"

    def __init__(self, service: Service) -> None:
        self.service = service

    def text(self) -> str:
        """The line."""
        return crontab_line(self.service) + "\n"

    def is_installed(self) -> bool:
        """Does the crontab start a StackShift daemon at boot? It is not checked for which project:
        the line may name a script that starts several."""
        lines = _crontab().splitlines()
        return any(line.lstrip().startswith("@reboot") and "stackshift" in line for line in lines)

    def install(self, stop: Callable[[], None]) -> list[str]:  # noqa: ARG002 - cron starts nothing now
        """Add the line."""
        if self.text().strip() not in _crontab().splitlines():
            before = _crontab()
            gap = "" if not before or before.endswith("\n") else "\n"
            self._replace(before + gap + self.text())
        return []

    def uninstall(self) -> None:
        """Remove the line, as `install` writes it; others are left as they are."""
        before = _crontab().splitlines(keepends=True)
        after = [line for line in before if line.strip() != self.text().strip()]
        if after == before:
            raise NotInstalled(
                "the crontab starts the daemon with a line that daemon install has not written",
                hint="crontab -e",
            )
        self._replace("".join(after))

    def _replace(self, text: str) -> None:
        _run(["crontab", "-"], stdin=text)


def ways(project: Project) -> Iterator[Way]:
    """The ways that this machine has, the best first; all of them are looked at for what is
    installed. There may be none, as in a container."""
    service = service_of(project)
    if sys.platform == "darwin":
        yield Launchd(service, project.data_dir)
    elif Path("/run/systemd/system").is_dir():
        yield Systemd(service)
    if shutil.which("crontab") is not None:
        yield Crontab(service)


def service_of(project: Project) -> Service:
    """The daemon of `project` as a service. Raises `BadConfiguration`."""
    from stackshift_jobs.project.config import load_config

    root = project.root
    variables = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    if os.environ.get(DATA_DIR_VARIABLE):
        variables[DATA_DIR_VARIABLE] = project.data_dir_text
    starter = [sys.executable, "-P", "-m", "stackshift_cli", "-C", str(root), "daemon", "start"]
    return Service(
        root=root,
        command=daemon_command(root),
        starter=starter,
        environment=variables,
        grace_seconds=load_config(root).workers.grace_ms // 1000,
        user=_owner(root) if os.geteuid() == 0 else "",
    )


def installed(project: Project) -> Way | None:
    """The way by which the daemon of `project` is started at boot; None if there is none."""
    return next((way for way in ways(project) if way.is_installed()), None)


def started_as_service(project: Project) -> bool:
    """Start the daemon of `project` by the service manager that has it as a service, and wait until
    it is ready; False if none has it, or if that fails."""
    try:
        # Without asking for the crontab, which starts nothing now.
        way = next(ways(project), None)
        if not isinstance(way, Systemd) or not way.is_installed():
            return False
        way.start()
    except (StackshiftError, OSError):
        return False
    return True


NO_WAY: Final = "this machine has neither systemd nor launchd nor cron to start the daemon"
NO_WAY_HINT: Final = "whatever starts your other programs can start it: stackshift daemon run"


def boot_hint(project: Project) -> str | None:
    """What to type to have the daemon of `project` started at boot; None if it is already."""
    if installed(project):
        return None
    if next(ways(project), None) is None:
        return f"nothing starts the daemon at boot; {NO_WAY_HINT}"
    return "stackshift daemon install starts the daemon at boot"


# --- Programs of the system ----------------------------------------------------------------


def _run(
    argv: list[str],
    more: dict[str, str] | None = None,
    stdin: str = "",
    may_fail: bool = False,
) -> None:
    """Run a program of the system; raises `NotInstalled` with what it said if it fails."""
    shown = shlex.join(argv)
    try:
        done = subprocess.run(
            argv,
            input=stdin.encode(),
            capture_output=True,
            env={**os.environ, **(more or {})},
            timeout=_START_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as bad:
        raise NotInstalled(f"{shown} failed: {bad}") from bad
    if done.returncode and not may_fail:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NotInstalled(
            f"{shown} failed with status {done.returncode}: {said[-1] if said else 'no output'}",
            hint="stackshift daemon install --print shows what was to be installed",
        )


def _crontab() -> str:
    """The user's crontab; empty if there is none, or no cron."""
    try:
        done = subprocess.run(
            ["crontab", "-l"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _linger() -> list[str]:
    """Let the user's systemd run from boot on, not only while the user is logged in; a note if that
    is not allowed."""
    from stackshift_jobs.project.environment import account

    user = account().name
    try:
        _run(["loginctl", "enable-linger", user])
    except NotInstalled:
        return [f"for a start at boot, not at login: sudo loginctl enable-linger {user}"]
    return []


def _user_bus() -> dict[str, str]:
    """What `systemctl --user` needs and cron does not set."""
    place = f"/run/user/{os.geteuid()}"
    return {} if "XDG_RUNTIME_DIR" in os.environ else {"XDG_RUNTIME_DIR": place}


def _user_config() -> Path:
    from stackshift_jobs.project.environment import account

    home = os.environ.get("HOME") or account().home
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path(home, ".config"))


def _owner(root: Path) -> str:
    uid = root.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{file.name}.new")
        temporary.write_text(text)
        temporary.replace(file)
    except OSError as bad:
        raise NotInstalled(f"cannot write {file}: {bad.strerror}") from bad
