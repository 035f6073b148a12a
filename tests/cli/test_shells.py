"""Completion as people meet it: the Tab key, in the shells that are installed here."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator

import pexpect
import pytest

from cli.conftest import Shell
from cli.fake_daemon import FakeDaemon
from stackshift_cli.commands.completion import SCRIPTS

INSTALLED = [name for name in SCRIPTS if shutil.which(name)]
"""`.ci/run` installs the others where it may."""
PROMPT = "ready> "
PRESSES = [
    ("stackshift runs wh", "stackshift runs why "),
    ("stackshift state get only", "stackshift state get only:one "),
    ("stackshift state get only:o", "stackshift state get only:one "),
    ("stackshift state get my", "stackshift state get my\\ key "),
    ("stackshift start hel", "stackshift start hello "),
    ("stackshift start hello --queue def", "stackshift start hello --queue default "),
    ("stackshift runs show @l", "stackshift runs show @last "),
    ("stackshift journal backup a-fi", "stackshift journal backup a-file "),
    ("stackshift start hello -p @a-f", "stackshift start hello -p @a-file "),
    ("stackshift start hello --payload=@a-f", "stackshift start hello --payload=@a-file "),
]


def spawn(name: str, shell: Shell) -> pexpect.spawn[str]:
    """An interactive shell that has run the line which `completion --help` shows."""
    commands = {
        "bash": (["--norc", "--noprofile", "-i"], 'eval "$(stackshift completion bash)"'),
        "zsh": (
            ["-f", "-i"],
            "autoload -Uz compinit; compinit -u -D; "
            'unsetopt zle_bracketed_paste; eval "$(stackshift completion zsh)"',
        ),
        "fish": (["--no-config", "-i"], "stackshift completion fish | source"),
    }
    arguments, setup = commands[name]
    child = pexpect.spawn(
        name,
        arguments,
        env=shell.env | {"TERM": "dumb", "INPUTRC": "/dev/null"},
        cwd=shell.directory,
        encoding="utf-8",
        dimensions=(40, 120),
        timeout=60,
    )
    child.sendline(setup)
    prompt = (
        f"function fish_prompt; echo -n '{PROMPT}'; end" if name == "fish" else f"PS1='{PROMPT}'"
    )
    # In two halves, so that the line itself is not what is waited for.
    child.sendline(f"{prompt}; echo set''up done")
    child.expect("setup done")
    child.expect(PROMPT)
    return child


@pytest.fixture
def typed(shell: Shell, daemon: FakeDaemon) -> Iterator[Shell]:
    """`stackshift` on the PATH, a project with keys, a daemon that has them, and a file."""
    programs = shell.directory.parent / "bin"
    programs.mkdir()
    program = programs / "stackshift"
    command = " ".join(shell.command())
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    shell.env["PATH"] = f"{programs}:{os.environ['PATH']}"
    (shell.directory / "a-file").touch()
    queue = {"name": "default", "depth": 0, "running": 1, "paused": False}
    daemon.answers["queue.list"] = lambda _: {"queues": [queue]}
    for key in ("only:one", "my key"):
        daemon.put(key, 1)
    yield shell


@pytest.mark.parametrize("name", INSTALLED)
def test_tab_completes_in_the_shell(typed: Shell, name: str) -> None:
    """Commands, names with `:` and blanks, forms of RUN, and files where a file is wanted."""
    child = spawn(name, typed)
    try:
        for line, wanted in PRESSES:
            child.send(f"{line}\t")
            child.expect(re.escape(seen(line, wanted)))
            child.send("\x15")  # Ctrl-U: the next line is empty again.
    finally:
        child.close(force=True)


@pytest.mark.skipif("bash" not in INSTALLED, reason="bash is not installed")
def test_bash_replaces_the_sign_that_it_splits_at(typed: Shell) -> None:
    """What is run is the word that was meant, with one `@`; a list says what each candidate is."""
    (typed.directory / "folder").mkdir()
    child = spawn("bash", typed)
    try:
        child.sendline("complete -F _stackshift echo")
        for line, words in (
            ("runs show @l", "runs show @last"),
            ("start hello -p @a-", "start hello -p @a-file"),
            ("start hello --payload=@a-", "start hello --payload=@a-file"),
            ("start hello -p @fold", "start hello -p @folder/"),
            ("state get only", "state get only:one"),
        ):
            child.send(f"echo {line}\t\n")
            child.expect(f"\r\n{re.escape(words)} *\r\n")
        child.send("stackshift runs show @\t\t")
        child.expect(re.escape("@failed  (the run that failed most recently)"))
        child.expect(re.escape("@last  (the newest run)"))
    finally:
        child.close(force=True)


def seen(line: str, wanted: str) -> str:
    """What a shell writes after `line` to make it `wanted`; a shell may write more of it again."""
    return wanted.removeprefix(line)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_say_how_to_install_them(shell: Shell, name: str) -> None:
    """The first lines of the script, and `completion --help`, have the line to paste."""
    script = shell("completion", name).stdout
    assert f"stackshift __complete {name}" in script
    help = shell("completion", "--help").stdout
    install = {
        "bash": 'eval "$(stackshift completion bash)"',
        "zsh": 'eval "$(stackshift completion zsh)"',
        "fish": "stackshift completion fish > ~/.config/fish/completions/stackshift.fish",
    }[name]
    assert install in help
