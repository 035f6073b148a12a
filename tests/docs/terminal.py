"""A reader's terminal: bash in a pseudo-terminal, our `stackshift` on PATH, an empty home."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import Final

import pexpect

from helpers import via
from helpers.processes import clear

SECONDS: Final = 90
_ESCAPES: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


class Terminal:
    """One shell for a whole page: `cd` and variables last from command to command."""

    def __init__(self, directory: Path, columns: int = 92) -> None:
        directory = directory.resolve()
        self.home = directory / "home"
        """Where the shell begins; its output calls it `/home/you`."""
        programs = directory / "bin"
        self._scripts = directory / "typed"
        for made in (self.home, programs, self._scripts):
            made.mkdir(parents=True)
        for name, options in (("stackshift", "-P -m stackshift_cli"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {options} "$@"\n')
            program.chmod(0o755)
        # A machine as most readers have one: with a cron, in which there is nothing yet.
        (programs / "crontab").write_text("#!/bin/sh\nexit 1\n")
        (programs / "crontab").chmod(0o755)
        self._count = 0
        self._shell = pexpect.spawn(
            "bash",
            ["--noprofile", "--norc", "--noediting"],
            cwd=str(self.home),
            env={
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": os.pathsep.join(via.sources()),
                "HOME": str(self.home),
                "USER": "you",
                "LANG": "C.UTF-8",
                "TZ": "UTC",
                "TERM": "xterm",
                "NO_COLOR": "1",
                "PS1": "",
                "PS2": "",
                **via.variables(),
            },
            dimensions=(60, columns),
            encoding="utf-8",
            echo=False,
            timeout=SECONDS,
        )

    def run(self, command: str) -> tuple[str, int]:
        """What a command prints, as somebody at home in `/home/you` would see it and without escape
        sequences; and its status. `$?` is kept for the next one."""
        self._count += 1
        script = self._scripts / f"{self._count}.sh"
        script.write_text(command + "\n")
        done = f"<<done {self._count} "
        # Two words, so that the shell's echo of the line, if there is one, is not the answer.
        say = f"printf '\\n<<%s {self._count} %s>>' done $it"
        self._shell.sendline(f". {shlex.quote(str(script))}; it=$?; {say}; (exit $it)")
        try:
            self._shell.expect(re.escape(done) + r"(\d+)>>")
        except (pexpect.TIMEOUT, pexpect.EOF) as bad:
            raise AssertionError(f"no end of {command!r} after: {self._shell.before!r}") from bad
        text = _ESCAPES.sub("", self._shell.before or "").replace("\r\n", "\n").replace("\r", "\n")
        text = text.replace(str(self.home), "/home/you")
        assert isinstance(self._shell.match, re.Match)
        return text.strip("\n"), int(self._shell.match[1])

    def write(self, path: str, text: str) -> None:
        """Write a file, relative to where the shell is."""
        here, _ = self.run("pwd")
        target = Path(here.strip().replace("/home/you", str(self.home), 1), path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def close(self) -> None:
        """End the shell, and every daemon of a project that it made."""
        self._shell.close(force=True)
        for settings in self.home.rglob("stackshift.toml"):
            clear(settings.parent)
