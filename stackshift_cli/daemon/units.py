"""The texts that start a daemon at boot: a systemd unit, a launchd agent, a line of a crontab.

Pure: the text depends on a `Service` alone. `boot` installs it and tells the init system.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import BadConfiguration

_STOP_MARGIN_SECONDS: Final = 30
"""What a daemon may take to stop, beyond the grace of its runs."""
_NO_RESTART: Final = 78
"""The exit status for bad configuration, which another start would not improve."""

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

_NETWORK: Final = [
    "After=local-fs.target time-sync.target network-online.target",
    "Wants=network-online.target",
]


class Service(NamedTuple):
    """A daemon as a service manager sees it: `command` runs it in the foreground, `starter` starts
    it and ends. `user` is set where the service manager is not the user's own."""

    root: Path
    command: list[str]
    starter: list[str]
    environment: Mapping[str, str]
    grace_seconds: int
    user: str = ""

    @property
    def name(self) -> str:
        """`stackshift-srv-shop` for the project in `/srv/shop`."""
        return "stackshift-" + (re.sub(r"[^A-Za-z0-9]+", "-", str(self.root)).strip("-") or "root")


def daemon_command(root: Path, *more: str) -> list[str]:
    """The command line of the daemon of the project in `root`, with the arguments `more`. Because
    of `-P` no file in its working directory can replace a module of ours or of the standard
    library."""
    python = (sys.executable, "-P", "-m", "stackshiftd", "run")
    return [*python, "--project", str(root), *more]


def systemd_unit(service: Service) -> str:
    """The text of a unit file. What is not in it is as deliberate as what is: jobs are whatever
    their authors need, so nothing may take from them `sudo`, `/usr`, the network or `/tmp`, which
    may also hold the daemon's socket. Raises `BadConfiguration`."""
    _check_lines(service)
    root = str(service.root)
    lines = [
        "[Unit]",
        f"Description=StackShift daemon of {_escaped(root)}",
        "Documentation=man:stackshiftd(8)",
        # A user's systemd does not know the targets of the system's, which has reached them.
        *(_NETWORK if service.user else []),
        f"RequiresMountsFor={_quoted(root)}",
        "# It comes back whatever happens, but not to settings that it has refused.",
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "# Ready once clients can connect; recovering a long journal takes as long as it takes.",
        "Type=notify",
        "TimeoutStartSec=infinity",
        f"ExecStart={' '.join(_quoted(word, True) for word in service.command)}",
        f"WorkingDirectory={_escaped(root)}",
        *(f"Environment={_quoted(f'{n}={text}')}" for n, text in service.environment.items()),
        *([f"User={service.user}"] if service.user else []),
        "Restart=on-failure",
        "RestartSec=2s",
        f"RestartPreventExitStatus={_NO_RESTART}",
        "# It is killed and started again if its loop hangs.",
        "WatchdogSec=60s",
        "# The daemon ends its runs in good order; whatever is left after that is killed.",
        "KillMode=mixed",
        f"TimeoutStopSec={service.grace_seconds + _STOP_MARGIN_SECONDS}s",
        "# A job that runs out of memory takes neither the daemon nor other jobs with it.",
        "OOMPolicy=continue",
        "# Each client and worker is an open file.",
        "LimitNOFILE=65536",
        "KeyringMode=private",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if service.user else 'default.target'}",
    ]
    return "\n".join(lines) + "\n"


def launchd_agent(service: Service, log: Path) -> str:
    """The text of an agent's property list; the daemon's standard error is appended to `log`."""
    agent = {
        "Label": f"dev.{service.name}",
        "ProgramArguments": service.command,
        "WorkingDirectory": str(service.root),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        # A stop is a clean exit, and stays one.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": service.grace_seconds + _STOP_MARGIN_SECONDS,
        "ProcessType": "Standard",
        "StandardErrorPath": str(log),
    }
    import plistlib  # Costs every start of a daemon 3 ms.

    return plistlib.dumps(agent).decode()


def crontab_line(service: Service) -> str:
    """`@reboot …`: cron starts it and forgets it. Raises `BadConfiguration`."""
    _check_lines(service)
    variables = [f"{name}={text}" for name, text in service.environment.items() if name != "PATH"]
    command = [*(["env", *variables] if variables else []), *service.starter]
    return f"@reboot {for_crontab(shlex.join(command))}"


def for_crontab(command: str) -> str:
    """`command`, a line for the shell, as it is written in a crontab, where `%` ends a command."""
    return command.replace("%", "\\%")


def _check_lines(service: Service) -> None:
    """Raise `BadConfiguration` if something in the service has a line end or another control
    character: a setting that systemd or cron reads as two would start something else, or nothing,
    and only at the next boot."""
    texts = {"the path of the project": str(service.root), **service.environment}
    for what, text in texts.items():
        if _CONTROL.search(text):
            raise BadConfiguration(
                f"{what} has a line end or another control character in it: {text!r}",
                hint="daemon install needs one without: rename the directory"
                if text == str(service.root)
                else f"daemon install needs one without: {what}=… stackshift daemon install",
            )


def _escaped(text: str) -> str:
    """`text` without specifiers: systemd expands `%n` and the like nearly everywhere."""
    return text.replace("%", "%%")


def _quoted(word: str, is_command: bool = False) -> str:
    """A word of a unit file, as systemd.syntax(7) reads it; in a command `$` is doubled, because
    there alone variables are expanded."""
    escaped = _escaped(word).replace("\\", "\\\\").replace('"', '\\"')
    if is_command:
        escaped = escaped.replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^\w@%+=:,./$-]", escaped) else escaped
