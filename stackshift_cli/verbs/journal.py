"""`journal verify|cat|stats|compact|repair|backup|restore|move`: the files of the journal.

Only the daemon's code reads these files, so all commands but `compact` run its offline tools as a
program: `python -m stackshiftd journal VERB --data-dir DATA`, which answers in lines of JSON. They
work whether or not a daemon is running; those that change the journal take its lock, and refuse if
a daemon holds it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.connection import Connection
from stackshift_cli.daemon.feed import FeedRecord, follow
from stackshift_cli.daemon.presence import absent
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import DaemonRunning
from stackshift_cli.output import messages
from stackshift_cli.output.confirm import confirmed
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.streams import write_bytes
from stackshift_cli.output.terminal import draws, is_terminal
from stackshift_cli.render import tsv
from stackshift_jobs.errors import (
    Conflict,
    DaemonUnavailable,
    JournalDamaged,
    StackshiftError,
    Usage,
    from_json,
)
from stackshift_jobs.project.config import JOURNAL_URL_VARIABLE, load_config
from stackshift_jobs.project.database_url import masked
from stackshift_jobs.project.settings import DATABASE
from stackshift_jobs.values.quantities import quantity
from stackshift_jobs.wire.unavailable import NOT_LISTENING

_COUNTED: Final = {
    "runs": "unfinished, or in the dead letter; runs list shows finished ones too",
    "keys": "idempotency keys of starts",
}
"""What numbers count, where their names do not say it."""
_ERROR: Final = re.compile(r"error\[(\w+)\]: (.*)")


def verify(session: Session, _given: Given) -> int:
    """`journal verify`: 0 if every record is as it was written; else print the places, and 78."""
    report = _tool(session, "verify")
    if session.json:
        messages.data(messages.compact(report))
        return 0 if report["ok"] else JournalDamaged.exit_status
    verdict = "ok" if report["ok"] else "damaged"
    records, segments = report["records"], report["segments"]
    if draws(session.options):
        counts = f"{quantity(records, 'record')} in {quantity(segments, 'segment')}"
        messages.data(f"{verdict}  {counts}")
    else:
        messages.data(tsv.tabbed((verdict, records, "records", segments, "segments")))
    for problem in report["problems"]:
        messages.data(tsv.columns(problem, ("file", "offset", "seq", "message")))
    return 0 if report["ok"] else JournalDamaged.exit_status


def cat(session: Session, given: Given) -> int:
    """`journal cat`: print the lines as they are in the files; with `-f` also the records that
    follow, as the daemon sends them, without their checksums."""
    newest = given.whole("since_seq", 0, 2**63 - 1) or 0
    command = _command(session, "cat", "--since-seq", str(newest))
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tool:
        assert tool.stdout is not None and tool.stderr is not None
        for line in tool.stdout:
            # Lines of the journal are ASCII, so they are safe to print as they are.
            messages.data(line.decode("ascii", "backslashreplace").rstrip("\n"))
            newest = _seq(line, newest)
        errors = tool.stderr.read()
    if tool.returncode:
        raise _failure("cat", tool.returncode, errors)
    if given.flag("follow"):
        _follow(newest, session)
    return 0


def _seq(line: bytes, otherwise: int) -> int:
    """The sequence number of a line of the journal; `otherwise` if it has none."""
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


def stats(session: Session, _given: Given) -> int:
    """`journal stats`: print its size and counts, from the daemon if one is running, else from the
    files."""
    _print_object(session, _stats(session), _COUNTED)
    return 0


def _stats(session: Session) -> dict[str, Any]:
    try:
        with Connection.open(session.project.data_dir) as connection:
            return dict(session.ask(connection, "journal.stats"))
    except DaemonUnavailable as bad:
        if not absent(bad) and bad.fields.get("reason") != NOT_LISTENING:
            raise
    return _tool(session, "stats")


def compact(session: Session, _given: Given) -> int:
    """`journal compact`: have the daemon write a snapshot, and return when it is written."""
    _print_object(session, session.wait("journal.compact"))
    return 0


def repair(session: Session, given: Given) -> int:
    """`journal repair`: set aside what cannot be kept; asks first. With `--dry-run`, only print
    what would be done and what would be lost."""
    question = "set aside what cannot be kept of the journal (--dry-run shows what that is)"
    if given.flag("dry_run"):
        _print_object(session, _tool(session, "repair", "--dry-run"))
    elif confirmed(question, given.flag("yes")):
        _print_object(session, _tool(session, "repair"))
    return 0


def backup(session: Session, given: Given) -> int:
    """`journal backup FILE`: copy the journal to FILE; asks before it replaces a file. `-` is
    standard output, which gets the archive when it is whole; what is in it is said on stderr."""
    if given.word("file") == "-":
        return _backup_to_output(session)
    file = Path(given.word("file")).absolute()
    if file.is_dir():
        raise Usage(f"{file} is a directory", hint="give the name of the backup file")
    if not file.parent.is_dir():
        raise Usage(f"there is no directory {file.parent}", hint="create it first")
    if not os.path.lexists(file) or confirmed(f"replace the file {file}", given.flag("yes")):
        _print_object(session, _tool(session, "backup", str(file)))
    return 0


def _backup_to_output(session: Session) -> int:
    if is_terminal(sys.stdout):
        raise Usage(
            "a backup is not printed on a terminal", hint="redirect it: journal backup - > FILE"
        )
    with TemporaryDirectory(prefix="stackshift-backup-") as place:
        file = Path(place) / "backup.tar.gz"
        report = _tool(session, "backup", str(file))
        write_bytes(file)
    for name, value in report.items():
        session.say(tsv.tabbed((name, value)))
    return 0


def restore(session: Session, given: Given) -> int:
    """`journal restore FILE`: restore a backup into a data directory that has no journal yet; asks
    first."""
    file = Path(given.word("file")).absolute()
    if not file.is_file():
        raise Usage(f"there is no file {file}", hint="give a file that journal backup wrote")
    place = session.project.data_dir
    question = f"restore the backup {file} into {place}, which must not have a journal yet"
    if confirmed(question, given.flag("yes")):
        _print_object(session, _tool(session, "restore", str(file)))
    return 0


def move(session: Session, given: Given) -> int:
    """`journal move --to URL|files`: from files into a database, or back; `--rescue`: put back into
    the database what it has lost, from the copy here. Asks first. No daemon may be running."""
    to, root = given.text("to"), session.project.root
    if given.flag("rescue"):
        if to:
            raise Usage("--rescue puts back what the database has lost, and moves nothing")
        return _rescue(session, given)
    if not to:
        raise Usage("move it where?", hint="--to postgresql://HOST/NAME, or --to files")
    is_back, url = to == "files", load_config(root).journal.url
    if is_back and url is None:
        raise Conflict("the journal of this project is in files already")
    if not is_back:
        url = _database_url(to)
    where = "files" if is_back else masked(to)
    question = f"move the journal of {root} to {where}, and from then on keep it there"
    if not given.flag("dry_run") and not confirmed(question, given.flag("yes")):
        return 0
    moved = _moved(session, given, "files" if is_back else "database", url)
    _print_object(session, moved)
    if not given.flag("dry_run"):
        unset = "unset [journal] url" if is_back else f'set [journal] url = "{masked(to)}"'
        session.say(f"hint: {unset} before you start the daemon")
    return 0


def _database_url(text: str) -> str:
    try:
        return str(DATABASE.read(text))
    except ValueError as bad:
        raise Usage(f"--to takes {bad}, or files", hint="--to postgresql://HOST/NAME") from None


def _rescue(session: Session, given: Given) -> int:
    meant = _moved(session, given, "rescue", None, dry_run=True)
    if given.flag("dry_run"):
        _print_object(session, meant)
        return 0
    records = f"records {meant['first']} to {meant['last']}"
    question = f"put {records} of {session.project.data_dir} back into {meant['to']}"
    if confirmed(question, given.flag("yes")):
        _print_object(session, _moved(session, given, "rescue", None))
    return 0


def _moved(
    session: Session, given: Given, to: str, url: str | None, *, dry_run: bool = False
) -> dict[str, Any]:
    # In the environment: arguments are seen by everybody on the machine.
    environ = os.environ | ({JOURNAL_URL_VARIABLE: url} if url else {})
    dry = ["--dry-run"] if dry_run or given.flag("dry_run") else []
    more = ("--project", str(session.project.root), "--to", to, *dry)
    return _tool(session, "move", *more, environ=environ)


def _print_object(
    session: Session, body: dict[str, Any], notes: Mapping[str, str] | None = None
) -> None:
    if session.json:
        messages.data(messages.compact(body))
        return
    if draws(session.options):
        from stackshift_cli.render.objects import print_object

        print_object(session.options, body, notes or {})
        return
    for name, value in body.items():
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


def _tool(
    session: Session, verb: str, *more: str, environ: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Run an offline tool of the daemon and return the object that it answers with; raises the
    error that it reports."""
    done = subprocess.run(
        _command(session, verb, *more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=environ,
    )
    answer = _last_object(done.stdout)
    if answer is None:
        raise _failure(verb, done.returncode, done.stderr)
    return answer


def _failure(verb: str, status: int, errors: bytes) -> StackshiftError:
    """The error that a tool ended with. It reports it in `errors`, its stderr, in the form that the
    command line uses too."""
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    for index, line in enumerate(lines):
        if error := _ERROR.fullmatch(line):
            code, message = error.groups()
            hint = lines[index + 1] if index + 1 < len(lines) else ""
            hint = hint.removeprefix("hint: ") if hint.startswith("hint: ") else ""
            if code == DaemonRunning.code:
                return DaemonRunning(message, hint=hint)
            return from_json({"code": code, "message": message, "hint": hint})
    last = safe(lines[-1]) if lines else "no output"
    return StackshiftError(f"journal {verb} exited with status {status}: {last}")


def _last_object(output: bytes) -> dict[str, Any] | None:
    lines = output.strip().splitlines()
    try:
        last = json.loads(lines[-1]) if lines else None
    except ValueError:
        return None
    return last if isinstance(last, dict) else None
