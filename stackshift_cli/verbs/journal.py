"""`journal verify|cat|stats|compact|repair|backup|restore`.

Reading files is the daemon's business, so all but `compact` run its offline tools as a program:
`python -m stackshiftd journal VERB --data-dir DATA`, which answers in JSON lines. They work whether
or not a daemon runs; those that change the journal take its lock and refuse where one does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon import autostart
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.feed import FeedRecord, follow
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import DaemonRunning
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.render import tsv
from stackshift_jobs.errors import (
    DaemonUnavailable,
    JournalDamaged,
    StackshiftError,
    Usage,
    from_json,
)

_ERROR: Final = re.compile(r"error\[(\w+)\]: (.*)")


def verify(session: Session, given: Given) -> int:
    """`journal verify`: 0 if every record is what was written, else 78 and the places."""
    report = _tool(session, "verify")
    if session.json:
        messages.data(messages.compact(report))
        return 0 if report["ok"] else JournalDamaged.exit_status
    counts = tsv.tabbed((report["records"], "records", report["segments"], "segments"))
    messages.data(("ok\t" if report["ok"] else "damaged\t") + counts)
    for problem in report["problems"]:
        messages.data(tsv.columns(problem, ("file", "offset", "seq", "message")))
    return 0 if report["ok"] else JournalDamaged.exit_status


def cat(session: Session, given: Given) -> int:
    """`journal cat`: the lines as they stand in the files; with `-f` also the records that follow,
    as the daemon sends them, which is without their checksums."""
    newest = given.whole("since_seq", 0, 2**63 - 1) or 0
    command = _command(session, "cat", "--since-seq", str(newest))
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tool:
        assert tool.stdout is not None and tool.stderr is not None
        for line in tool.stdout:
            # A line of the journal is ASCII, so it is safe to print as it is.
            messages.data(line.decode("ascii", "backslashreplace").rstrip("\n"))
            newest = _seq(line, newest)
        said = tool.stderr.read()
    if tool.returncode:
        raise _failure("cat", tool.returncode, said)
    if given.flag("follow"):
        _follow(newest, session)
    return 0


def _seq(line: bytes, otherwise: int) -> int:
    """The sequence number of a journal's line."""
    try:
        return int(json.loads(line)["seq"])
    except (ValueError, KeyError, TypeError):
        return otherwise


def _follow(newest: int, session: Session) -> None:
    sys.stdout.flush()
    for happening in follow(session, {"since_seq": newest}):
        if isinstance(happening, FeedRecord):
            messages.data(messages.compact(happening.body))
            sys.stdout.flush()


def stats(session: Session, given: Given) -> int:
    """`journal stats`: from the daemon if one runs, else from the files."""
    _print_object(session, _stats(session))
    return 0


def _stats(session: Session) -> dict[str, Any]:
    try:
        with Connection.open(session.project.data_dir) as connection:
            return dict(connection.call("journal.stats", {}, 60.0))
    except DaemonUnavailable as bad:
        if not autostart.absent(bad):
            raise
    return _tool(session, "stats")


def compact(session: Session, given: Given) -> int:
    """`journal compact`: returns when the snapshot is written."""
    _print_object(session, session.wait("journal.compact"))
    return 0


def repair(session: Session, given: Given) -> int:
    """`journal repair`: moves what is damaged, and all after it, aside."""
    question = "move the damaged part of the journal, and all after it, aside"
    if confirmed(question, given.flag("yes")):
        _print_object(session, _tool(session, "repair"))
    return 0


def backup(session: Session, given: Given) -> int:
    """`journal backup FILE`: asks before it takes the place of a file that is there."""
    file = Path(given.word("file")).absolute()
    if file.is_dir():
        raise Usage(f"{file} is a directory", hint="name the file that the backup shall be")
    if not file.parent.is_dir():
        raise Usage(f"there is no directory {file.parent}", hint="make it first")
    if not os.path.lexists(file) or confirmed(f"replace the file {file}", given.flag("yes")):
        _print_object(session, _tool(session, "backup", str(file)))
    return 0


def restore(session: Session, given: Given) -> int:
    """`journal restore FILE`: into a data directory that holds none yet."""
    file = Path(given.word("file")).absolute()
    if not file.is_file():
        raise Usage(f"there is no file {file}", hint="name one that journal backup wrote")
    place = session.project.data_dir
    question = f"put the journal of the backup {file} into {place}, which must not hold one yet"
    if confirmed(question, given.flag("yes")):
        _print_object(session, _tool(session, "restore", str(file)))
    return 0


def _print_object(session: Session, told: dict[str, Any]) -> None:
    if session.json:
        messages.data(messages.compact(told))
        return
    for name, value in told.items():
        messages.data(tsv.tabbed((name, value)))


def _command(session: Session, verb: str, *more: str) -> list[str]:
    return [
        sys.executable,
        "-P",
        "-m",
        "stackshiftd",
        "journal",
        verb,
        *more,
        "--data-dir",
        str(session.project.data_dir),
    ]


def _tool(session: Session, verb: str, *more: str) -> dict[str, Any]:
    """The object that the tool answers with; raises the error that it tells of."""
    done = subprocess.run(
        _command(session, verb, *more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    told = _last_object(done.stdout)
    if told is None:
        raise _failure(verb, done.returncode, done.stderr)
    return told


def _failure(verb: str, status: int, said: bytes) -> StackshiftError:
    """The error that a tool ended with: it says it on stderr in the form that we do."""
    written = said.decode("utf-8", "replace").strip().splitlines()
    for index, line in enumerate(written):
        if found := _ERROR.fullmatch(line):
            hint = written[index + 1] if index + 1 < len(written) else ""
            hint = hint.removeprefix("hint: ") if hint.startswith("hint: ") else ""
            body = {"code": found[1], "message": found[2], "hint": hint}
            is_held = found[1] == DaemonRunning.code
            return DaemonRunning(found[2], hint=hint) if is_held else from_json(body)
    last = safe(written[-1]) if written else "no answer"
    return StackshiftError(f"journal {verb} ended with status {status}: {last}")


def _last_object(output: bytes) -> dict[str, Any] | None:
    written = output.strip().splitlines()
    try:
        told = json.loads(written[-1]) if written else None
    except ValueError:
        return None
    return told if isinstance(told, dict) else None
