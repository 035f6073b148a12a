"""`exec -- COMMAND...` and `sh FILE [ARGS...]`: run a program or a script durably, as the run of a
built-in job.

It starts where the command was typed, with its umask and the variables that `--env` names; the rest
of its environment is that of the workers. What it prints comes out here as it comes, and its exit
status is the command's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import CommandNotFound
from stackshift_cli.flows.default_project import project_or_default
from stackshift_cli.flows.heartbeat import heartbeat_of
from stackshift_cli.flows.program_output import exit_status, pass_through
from stackshift_cli.flows.start import reply_to, run_with_reused
from stackshift_cli.output import messages
from stackshift_cli.output.terminal import is_terminal
from stackshift_jobs.errors import BadConfiguration, Conflict, Usage
from stackshift_jobs.project.locate import working_directory
from stackshift_jobs.project.script_header import HeaderError, read_header, start_terms
from stackshift_jobs.values.limits import MAX_ATTEMPTS
from stackshift_jobs.values.names import EXEC_JOB, NAME_LABEL, SH_JOB, program_label

_MAX_NAME: Final = 128
_IF_RUNNING: Final = {"skip": "refuse", "queue": "queue", "replace": "replace", "fail": "refuse"}
"""What becomes of this run while another of its name is unfinished, as a start says it."""


def exec_(session: Session, given: Given) -> int:
    """`exec -- COMMAND...`: run a program, as `_run` says."""
    command = command_words(given.texts("command"))
    payload: dict[str, Any] = {"command": command, **surroundings(given)}
    if (timeout_ms := given.positive_ms("timeout")) is not None:
        payload["timeout_ms"] = timeout_ms
    if (heartbeat_ms := heartbeat_of(given)) is not None:
        payload |= {"heartbeat_ms": heartbeat_ms, "output_beats": given.flag("output_beats")}
    return _run(session, given, EXEC_JOB, payload, {}, command[0])


def sh(session: Session, given: Given) -> int:
    """`sh FILE [ARGS...]`: run a script as that of a shell job, as `_run` says. Its header, if it
    has one, gives the options that the command line does not."""
    written, *args = given.texts("file")
    file = Path(working_directory(), written)
    name, terms = file.name, {}
    try:
        header = read_header(file)
    except HeaderError as bad:
        raise BadConfiguration(f"{file}:{bad.lineno}: {bad.msg}") from bad
    except OSError as bad:
        raise CommandNotFound(f"cannot read {str(file)!r}: {bad.strerror}") from bad
    if header is not None:
        name, terms = header.name, start_terms(header.options)
    if (timeout_ms := given.positive_ms("timeout")) is not None:
        terms["timeout_ms"] = timeout_ms
    for number, word in enumerate(args, 1):
        _check_text(word, f"argument {number} of the script")
    payload: dict[str, Any] = {
        "file": _check_text(str(file), "the name of the script"),
        "args": args,
        **surroundings(given),
    }
    return _run(session, given, SH_JOB, payload, terms, name)


def _run(
    session: Session,
    given: Given,
    job: str,
    payload: dict[str, Any],
    terms: dict[str, Any],
    name: str,
) -> int:
    """Start a run of `job`, called `name` unless `--name` says otherwise, with `terms` where no
    option does. Pass its output through and return its exit status (128 + N: ended by signal N;
    124: its time was up; 7: cancelled); with `--detach` print the run's id and leave it alone."""
    if session.is_scripts:
        raise Usage(
            f"{job} in the script of a shell job would not be recorded with its outcome",
            hint="stackshift step NAME -- COMMAND",
        )
    mode = _mode(given)
    params = {"job": job, "payload": payload, **terms, **_params(given, job, name)}
    project_or_default(session)
    try:
        reply = reply_to(session, params, full=session.json and mode == "detach")
    except Conflict as bad:
        if "unique" not in bad.fields:
            raise
        owner = bad.fields.get("owner")
        if given.text("if_running") == "skip":
            session.say(f"skipped: {owner} has not ended")
            return 0
        # These commands have another word than `--on-duplicate` for it.
        bad.hint = f"stackshift runs wait {owner}, or --if-running skip, queue or replace"
        raise
    if mode == "detach":
        if session.json:
            messages.data(messages.compact(run_with_reused(reply)))
        else:
            messages.data(str(reply["id"]))
        return 0
    if mode == "follow":
        session.say(reply["id"])
    run = pass_through(session, reply["id"], tells=mode == "follow")
    if session.json:
        messages.data(messages.compact(run_with_reused({**reply, "run": run})))
    return exit_status(session, run)


def _mode(given: Given) -> str:
    modes = [mode for mode in ("wait", "follow", "detach") if given.flag(mode)]
    if len(modes) > 1:
        raise Usage(f"--{modes[0]} and --{modes[1]} cannot be used together")
    return modes[0] if modes else ("follow" if is_terminal(sys.stdout) else "wait")


def _params(given: Given, job: str, name: str) -> dict[str, Any]:
    """The params of `run.start` that options give. Raises `Usage`."""
    params: dict[str, Any] = {}
    for option in ("queue", "idempotency_key"):
        if (text := given.text(option)) is not None:
            params[option] = text
    if (retry := given.whole("retry", 0, MAX_ATTEMPTS - 1)) is not None:
        params["max_attempts"] = retry + 1
    if (backoff_ms := given.duration_ms("backoff")) is not None:
        if not retry:
            raise Usage("--backoff requires --retry", hint="--retry 3 --backoff 10s")
        params["backoff_ms"] = backoff_ms
    name = _name(given, name)
    return {**params, "labels": {NAME_LABEL: name}, **_unique(given, f"{job}/{name}")}


def command_words(command: list[str]) -> list[str]:
    """The words of a command, if they can be recorded. Raises `Usage` otherwise."""
    for number, word in enumerate(command):
        _check_text(word, f"argument {number} of the command" if number else "the program's name")
    return command


def surroundings(given: Given) -> dict[str, Any]:
    """What a program finds where it starts, for the payload."""
    return {
        "cwd": _check_text(working_directory(), "the working directory"),
        "umask": _umask(),
        "env": _variables(given),
    }


def _unique(given: Given, of_name: str) -> dict[str, str]:
    """The params that keep two such runs from being unfinished at once; none if nothing does."""
    key, word = given.text("unique"), given.text("if_running")
    if word is None:
        return {} if key is None else {"unique": key}
    if word not in _IF_RUNNING:
        raise Usage(f"--if-running takes {', '.join(_IF_RUNNING)}, not {word!r}")
    return {"unique": key or of_name, "on_duplicate": _IF_RUNNING[word]}


def _name(given: Given, program: str) -> str:
    """What the run is called in lists."""
    name = given.text("name")
    if name is None:
        return program_label(program)
    if not name.isprintable() or not 1 <= len(name) <= _MAX_NAME:
        raise Usage(f"{name!r} cannot be a name", hint=f"use 1 to {_MAX_NAME} printable characters")
    return name


def _umask() -> int:
    mask = os.umask(0)  # The system tells it only by setting another.
    os.umask(mask)
    return mask


def _variables(given: Given) -> dict[str, str]:
    """The variables that `--env NAME` takes from here, and `--env NAME=TEXT` sets."""
    variables: dict[str, str] = {}
    for text in given.texts("env"):
        name, equals, value = text.partition("=")
        if not name:
            raise Usage(f"--env takes NAME or NAME=TEXT, not {text!r}")
        if not equals:
            if name not in os.environ:
                raise Usage(f"--env {name}: there is no such variable here", hint=f"{name}=TEXT")
            value = os.environ[name]
        variables[_check_text(name, "--env")] = _check_text(value, f"the variable {name}")
    return variables


def _check_text(text: str, what: str) -> str:
    """`text`, if it can be recorded. Raises `Usage` otherwise."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Usage(f"{what} is not UTF-8 text: {text!r}", hint="name the file otherwise") from None
    return text
