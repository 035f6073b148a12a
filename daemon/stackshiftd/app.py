"""`python -m stackshiftd`: the daemon's own command line, which the command line `stackshift` uses.

`run --project DIR [--ready-fd N]` serves a project; `journal VERB --data-dir DATA …` works on a
journal without a daemon; `compact` is started by the daemon itself.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import errno
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stackshift_jobs.errors import (
    BadConfiguration,
    DatabaseUnavailable,
    DiskFull,
    OutputFailed,
    StackshiftError,
)
from stackshift_jobs.programs import inheritance
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import Config, load_config
from stackshift_jobs.project.environment import check_interpreter
from stackshift_jobs.project.locate import find_project
from stackshift_jobs.project.trust import permission_hint
from stackshift_jobs.version import __version__
from stackshiftd.first_process import fork_from_first_process
from stackshiftd.starter import Starter
from stackshiftd.stop_signals import StopSignals

if TYPE_CHECKING:
    from stackshiftd.journal.interface import Journal
    from stackshiftd.shell.cluster.cluster import Cluster
    from stackshiftd.shell.workers.process import EarlyWorker

log = logging.getLogger("stackshiftd")

JOURNAL_VERBS = ("verify", "cat", "stats", "repair", "backup", "restore")
RESTART_PAUSE_SECONDS = 60.0
"""A daemon whose journal failed restarts, to recover; but not twice within this time."""

DATABASE_PAUSE_SECONDS = 1.0
"""How often a daemon that starts again asks for a database that did not answer."""
GC_THRESHOLD = (20_000, 20, 50)
"""Records and frames are not tracked by the collector; objects that are live as long as a run."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""As malloc.h of glibc has them."""
LARGE_BLOCK = 128 << 10
HEAP_SPARE = 1 << 20
"""Bytes at the end of the heap that may stay unused."""
SWITCH_SECONDS = 0.0005
"""The commit thread needs the interpreter for a moment to report that the disk is done. With
Python's default, it would wait up to 5 ms for a busy loop to release it, and every acknowledgement
would be delayed."""


def main(argv: list[str] | None = None) -> int:
    """Parse `argv` (default: `sys.argv`), run the verb, and return the exit status. Errors are
    printed as `error[code]: message` on standard error, if that can be written. A reader that
    closes standard output ends the command quietly."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except BrokenPipeError:
        _discard(1)
        return 0
    except StackshiftError as error:
        if isinstance(error, OutputFailed):
            _discard(1)
        try:
            print(f"error[{error.code}]: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)
            sys.stderr.flush()
        except OSError:
            _discard(2)
        return error.exit_status


def _discard(fd: int) -> None:
    """Let what is still buffered for `fd`, which cannot be written, go nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stackshiftd", description=__doc__)
    parser.add_argument("--version", action="version", version=f"stackshiftd {__version__}")
    verbs = parser.add_subparsers(required=True)
    run = verbs.add_parser("run", help="serve a project in the foreground")
    run.add_argument("--project", required=True, type=Path)
    run.add_argument("--ready-fd", type=int, help="write one line of JSON there when ready")
    run.add_argument(
        "--dev",
        action="store_true",
        help="as `stackshift dev` has it: load what is saved, write a line of JSON about that to"
        " --ready-fd, which is a socket, and stop when it is closed",
    )
    run.add_argument("--restarted-at", type=float, default=0.0, help=argparse.SUPPRESS)
    run.set_defaults(call=_run)
    compact = verbs.add_parser("compact")
    compact.add_argument("--data-dir", required=True, type=Path)
    compact.add_argument("--upto-seq", required=True, type=int)
    compact.set_defaults(call=_compact)
    journal = verbs.add_parser("journal", help="work on a journal without a daemon")
    journal.add_argument("verb", choices=[*JOURNAL_VERBS, "move"])
    journal.add_argument("file", nargs="?", type=Path)
    journal.add_argument("--data-dir", required=True, type=Path)
    journal.add_argument("--since-seq", type=int, default=0)
    journal.add_argument("--dry-run", action="store_true")
    journal.add_argument("--project", type=Path, help="of move, with --to")
    journal.add_argument("--to", choices=["database", "files", "rescue"])
    journal.set_defaults(call=_journal)
    join = verbs.add_parser("join", help="lend workers of this machine to the daemon that leads")
    join.add_argument("--project", required=True, type=Path)
    join.add_argument("--host", help="the name of this machine")
    join.add_argument("--queue", help="a queue that has workers of its own")
    join.add_argument("--processes", type=int)
    join.add_argument("--slots", type=int)
    join.set_defaults(call=_join)
    hosts = verbs.add_parser("hosts", help="try the hosts of a project")
    hosts.add_argument("name", nargs="*")
    hosts.add_argument("--project", required=True, type=Path)
    hosts.set_defaults(call=_hosts)
    return parser


def _hosts(arguments: argparse.Namespace) -> int:
    from stackshiftd.shell.workers.hosts import check

    return check.main(arguments.project, arguments.name)


def _compact(arguments: argparse.Namespace) -> int:
    from stackshiftd.shell.background import compaction

    return compaction.main(arguments.data_dir, arguments.upto_seq)


def _journal(arguments: argparse.Namespace) -> int:
    from stackshiftd.journal_verbs import move, run_verb

    if arguments.verb == "move":
        return move(arguments.project, arguments.to, dry_run=arguments.dry_run)
    return run_verb(
        arguments.verb,
        arguments.data_dir,
        arguments.file,
        arguments.since_seq,
        dry_run=arguments.dry_run,
    )


def _join(arguments: argparse.Namespace) -> int:
    from stackshift_jobs.project.database_url import masked
    from stackshiftd.shell.cluster.opening import Offer

    stop = StopSignals()
    _log_to_stderr()
    inheritance.reset()
    root = arguments.project.resolve()
    find_project(root)
    config = load_config(root)
    check_code(config)
    url = config.journal.url
    if url is None:
        raise BadConfiguration(
            "the journal of this project is in files, and nobody can join the daemon",
            hint="[hosts.NAME] places workers on other machines; docs/cluster.md has the rest",
            key="journal.url",
        )
    workers = config.workers
    offer = Offer(arguments.queue or "", arguments.slots or workers.slots)
    offers = [offer] * (arguments.processes or workers.processes)

    async def serve() -> bool:
        from stackshiftd.journal.shared.postgres_log import PostgresLog
        from stackshiftd.shell.cluster.joining import Joined

        shared = PostgresLog(url, config.project.name)
        joined = Joined(config, shared, arguments.host or config.member, offers)
        loop = asyncio.get_running_loop()
        stop.listen(lambda: loop.call_soon_threadsafe(joined.stop))
        with contextlib.closing(shared):
            await joined.serve(lambda: log.info("a member of the cluster at %s", masked(url)))
        return False

    _new_loop(serve())
    return 0


def _log_to_stderr() -> None:
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S%z",
        stream=sys.stderr,
    )


def _give_large_blocks_back() -> None:
    """Have the C library map each large block by itself, and unmap it when it is freed.

    By itself glibc does so only at first: each such block that is freed raises the size from which
    on it does. After that, large answers lie in its heap, between small blocks that stay, and it
    cannot give them back: a daemon that had listed runs with large payloads held 360 MB, and holds
    45 MB so. Other C libraries have no such setting."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
        mallopt(M_TRIM_THRESHOLD, HEAP_SPARE)


def _run(arguments: argparse.Namespace) -> int:
    if os.getpid() == 1:
        status = fork_from_first_process()
        if status is not None:
            return status
    stop = StopSignals()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to reload yet
    _log_to_stderr()
    notes = inheritance.reset()
    sys.setswitchinterval(SWITCH_SECONDS)
    _give_large_blocks_back()
    starter = Starter(arguments.ready_fd, stays=arguments.dev)
    root = arguments.project.resolve()
    try:
        try:
            inheritance.check_open_files()
            # Here too, and not only by the command that starts it: a service may start it, and what
            # the jobs are is known only from here on.
            find_project(root)
            config = load_config(root)
            again = arguments.restarted_at > 0
            if arguments.dev:
                config = _for_development(config)
            check_code(config)
            check_interpreter(config)
            _trim_log(config)
            if _new_loop(_serve(config, starter, stop, notes, again)) and stop.hold():
                _replace(root)
        except OSError as failed:
            raise _start_error(failed) from failed
    except StackshiftError as error:
        log.error("%s", error)
        starter.tell({"error": error.as_json()})
        if error.code == "append_unknown" and not arguments.dev:
            _start_again(root, arguments.restarted_at, stop)
        if error.code == "fenced" and not arguments.dev:
            _follow_again(root, stop)
        if arguments.ready_fd is not None:
            return error.exit_status
        raise
    return 0


def _for_development(config: Config) -> Config:
    """Settings as somebody who writes jobs expects them: what is saved is loaded, and jobs find the
    variables of the shell."""
    return replace(
        config,
        project=replace(config.project, watch=True),
        workers=replace(config.workers, inherit_env=("*",)),
    )


def _trim_log(config: Config) -> None:
    from stackshiftd.shell.background import daemon_log

    with contextlib.suppress(OSError):
        daemon_log.trim(config.data_dir)


def _start_error(failed: OSError) -> StackshiftError:
    """The error for a file operation that the system refused while the daemon was starting."""
    where = f" ({failed.filename})" if failed.filename else ""
    if failed.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return DiskFull(
            f"no room to start{where}: {failed.strerror}",
            hint="make room there, or choose another disk with [project] data_dir",
        )
    hint = ""
    if failed.filename and failed.errno in (errno.EACCES, errno.EPERM):
        hint = permission_hint(os.fsdecode(failed.filename))
    return BadConfiguration(f"cannot start{where}: {failed.strerror or failed}", hint=hint)


async def _serve(
    config: Config, starter: Starter, stop: StopSignals, inherited: list[str], again: bool
) -> bool:
    """Serve until the daemon ends; returns whether it wants to be replaced by a new one."""
    from stackshiftd.worker.loading.file_schedules import file_schedules

    file_schedules(config)  # What the file says is checked before anything is opened.
    journal, cluster, early = await _opened_journal(config, starter, again)
    from stackshiftd.daemon import Daemon

    daemon = Daemon(config, journal, cluster=cluster)
    daemon.pool.hosts.local.early = early
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    stop.listen(lambda: loop.call_soon_threadsafe(daemon.stop))

    def is_ready() -> None:
        # What is loaded now stays loaded: the collector can ignore it, and run less often.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLD)
        log.info("serving %s, pid %d", config.root, os.getpid())
        for note in inherited:
            log.warning("%s", note)
        notes = [*inherited, *daemon.notes()]
        starter.tell({"ready": True, "pid": os.getpid(), "notes": notes})
        starter.stay(daemon.stop)

    daemon.on_reload = lambda outcome: starter.tell({"reload": outcome})
    try:
        await daemon.serve(is_ready)
    finally:
        stop.asked |= daemon.is_asked_to_stop
        stop.listen(lambda: None)
    log.info("stopped")
    return daemon.starts_over


async def _opened_journal(
    config: Config, starter: Starter, again: bool
) -> tuple[Journal, Cluster | None, EarlyWorker | None]:
    """The journal, of which this daemon becomes the writer, sooner or later, and its place among
    those that share it; and a worker, if this daemon will need one: it loads its modules while this
    process loads more of its own, and reads the journal. One that starts `again` waits for its
    database: nobody looks whether it came up."""
    from stackshiftd.journal.file_journal import FileJournal
    from stackshiftd.journal.filesystem import UNWRITABLE, RealFileSystem
    from stackshiftd.journal.layout import Layout
    from stackshiftd.journal.shared import copying
    from stackshiftd.shell.workers.process import EarlyWorker

    if config.journal.url is not None:
        while True:
            try:
                return *await _shared_journal(config, config.journal.url, starter), None
            except DatabaseUnavailable as lost:
                if not again:
                    raise
                log.warning("waiting for the database: %s", lost)
            await asyncio.sleep(DATABASE_PAUSE_SECONDS)
    copying.refuse_copy(RealFileSystem(), Layout(config.data_dir))
    early: list[EarlyWorker | None] = []
    try:
        journal = FileJournal.open(
            config.data_dir,
            durability=config.journal.durability,  # type: ignore[arg-type]
            segment_size=config.journal.segment_size_bytes,
            locked=lambda: early.append(EarlyWorker.launch(config)),
        )
    except OSError as failed:
        for worker in filter(None, early):
            worker.dismiss()
        if failed.errno not in UNWRITABLE or starter.stays:  # Who stays has come to load jobs.
            raise
        log.warning("the journal cannot be recovered (%s): it is read as it is", failed)
        return FileJournal.open_sealed(config.data_dir), None, None
    return journal, None, early[0]


async def _shared_journal(config: Config, url: str, starter: Starter) -> tuple[Journal, Cluster]:
    from stackshift_jobs.project.database_url import masked
    from stackshiftd.journal.shared.postgres_log import PostgresLog
    from stackshiftd.journal.shared.shared_journal import SharedJournal
    from stackshiftd.shell.cluster.cluster import Cluster

    patience = config.journal.patience_ms / 1000
    shared = PostgresLog(url, config.project.name, patience_seconds=patience)
    # Who stays has come to load jobs, and has no use for a daemon that follows another.
    begin = SharedJournal.lead if starter.stays else SharedJournal.open
    journal = await begin(
        config.data_dir,
        shared,
        masked(url),
        segment_size=config.journal.segment_size_bytes,
        lease_ms=config.journal.lease_ms,
        host=config.member,
    )
    cluster = Cluster(config, shared, journal.host, journal.copy_id)
    journal.may_lead = lambda: cluster.may_lead
    return journal, cluster


def _start_again(root: Path, restarted_at: float, stop: StopSignals) -> None:
    """Replace this process with a new daemon, which recovers; but not if somebody wants it to stop,
    and not in a tight loop."""
    if not stop.hold():
        log.error("not restarting: the daemon was asked to stop")
        return
    now = time.time()
    if now - restarted_at < RESTART_PAUSE_SECONDS:
        log.critical("the journal failed again soon after a restart: not restarting")
        return
    log.error("restarting, to recover the journal")
    _replace(root, "--restarted-at", str(now))


def _follow_again(root: Path, stop: StopSignals) -> None:
    """Replace this process, which led until another daemon took over, with one that follows that
    one; but not if somebody wants it to stop. It cannot lead again before that one is silent."""
    if stop.hold():
        log.warning("starting again, to follow")
        _replace(root, "--restarted-at", str(time.time()))


def _replace(root: Path, *more: str) -> None:
    """Replace this process with a new daemon."""
    python = (sys.executable, "-P", "-m", "stackshiftd", "run")
    inheritance.pass_on()
    os.execv(sys.executable, [*python, "--project", str(root), *more])


def _new_loop(work: Coroutine[Any, Any, bool]) -> bool:
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
