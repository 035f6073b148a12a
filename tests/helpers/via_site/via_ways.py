"""What a program does so that a test reaches its daemon in another way; see `helpers.via`."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

VIA: Final = "STACKSHIFT_VIA"
DATABASE: Final = "STACKSHIFT_VIA_DATABASE"
VARIABLES: Final = (VIA, DATABASE)
ROLE: Final = "STACKSHIFT_VIA_ROLE"
"""`leader`, or `follower` where the leader is there. Without it, one that follows starts one."""
TIED: Final = "STACKSHIFT_VIA_TIED"
HOST: Final = "elsewhere"
ORDERLY: Final = b"."

WITH_FILES: Final = (
    "__complete",
    "completion",
    "config",
    "daemon",
    "dev",
    "doctor",
    "help",
    "hosts check",
    "init",
    "jobs check",
    "journal",
    "notify",
    "worker",
)
"""Commands that need the files of the project. They are given on its machine."""
WITH_VALUE: Final = ("-C", "--project", "--color")


# --- The daemon ----------------------------------------------------------------------------


def be_daemon(root: Path) -> None:
    """Let the daemon that this process will be have its journal in the database; and if it is to
    follow, have one lead."""
    from stackshift_jobs.project import config as settings
    from stackshift_jobs.project.locate import data_dir_of

    leads = os.environ.get(ROLE) == "leader" or os.environ[VIA] != "follower"
    load = settings.load_config
    theirs = data_dir_of(root)
    url = database(theirs)

    def load_config(root: Any, environ: Any = None) -> Any:
        found = load(root, {**(os.environ if environ is None else environ), URL: url})
        return member(found, leads=leads)

    URL = settings.JOURNAL_URL_VARIABLE
    settings.load_config = load_config
    asyncio.run(make_schema(url))
    if not leads:
        if ROLE not in os.environ:
            start_leader(root)
    elif TIED in os.environ:
        threading.Thread(target=end_with, args=(int(os.environ[TIED]),), daemon=True).start()


def database(data_dir: Path) -> str:
    """The URL of a schema of the test's own, so that the names of projects may be alike."""
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    return f"{os.environ[DATABASE]}?search_path=s{name}"


async def make_schema(url: str) -> None:
    """Make it, unless it is there."""
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        # Of two daemons that look at the same moment, both find none, and one is refused.
        with contextlib.suppress(asyncpg.UniqueViolationError):
            await connection.execute(f"CREATE SCHEMA IF NOT EXISTS {url.rpartition('=')[2]}")
    finally:
        await connection.close()


def member(config: Any, *, leads: bool) -> Any:
    """The settings of the one that leads, or of the one that follows it."""
    listening = replace(config.cluster, listen=("127.0.0.1", 0))
    if os.environ[VIA] != "follower":
        return replace(config, cluster=listening)
    cluster = replace(listening, host="app-1" if leads else "app-2", lead=leads, lend=False)
    data_dir = leader_dir(config.data_dir) if leads else config.data_dir
    return replace(config, cluster=cluster, data_dir=data_dir)


def leader_dir(data_dir: Path) -> Path:
    """Where the leader has its files: beside the follower's, which is the one that clients know."""
    return data_dir.with_name(f"{data_dir.name}-leader")


def start_leader(root: Path) -> None:
    """Start the daemon that leads, and wait until it is ready. It ends with this process, and this
    one with it: in good order if the other one does, and at once if that was killed. If it cannot
    serve, this process ends as it does."""
    ready, ready_end = os.pipe()
    tie, tie_end = os.pipe()
    command = [sys.executable, "-P", "-m", "stackshiftd", "run", "--project", str(root)]
    process = subprocess.Popen(
        [*command, "--ready-fd", str(ready_end)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, ROLE: "leader", TIED: str(tie)},
        pass_fds=(ready_end, tie),
        start_new_session=True,
    )
    os.close(ready_end)
    os.close(tie)
    with os.fdopen(ready, "rb") as pipe:
        line = pipe.readline()
    said = json.loads(line or b"{}")
    if not said.get("ready"):
        if "--ready-fd" in sys.argv:
            os.write(int(sys.argv[sys.argv.index("--ready-fd") + 1]), line)
        os._exit(process.wait())

    say_at_start(said["notes"])
    is_ending = threading.Event()

    def end() -> None:
        is_ending.set()
        os.write(tie_end, ORDERLY)
        process.wait()

    def end_as_it_does() -> None:
        """A test that ends the leader means the daemon, whichever that is."""
        status = process.wait()
        if not is_ending.is_set():
            os.kill(os.getpid(), signal.SIGKILL if status else signal.SIGTERM)

    atexit.register(end)
    threading.Thread(target=end_as_it_does, daemon=True).start()


def say_at_start(notes: list[str]) -> None:
    """Let the daemon that follows say what the leader has said. That it follows, whoever has
    started it does not expect."""
    from stackshiftd.starter import Starter

    tell = Starter.tell

    def as_leader(self: Starter, what: dict[str, Any]) -> None:
        tell(self, what | ({"notes": notes} if "notes" in what else {}))

    Starter.tell = as_leader  # type: ignore[method-assign]  # that is the point


def end_with(tie: int) -> None:
    """End when the process at the other end does: at once if it was killed."""
    orderly = os.read(tie, 1) == ORDERLY
    os.kill(os.getpid(), signal.SIGTERM if orderly else signal.SIGKILL)


# --- Commands ------------------------------------------------------------------------------


def be_far(argv: list[str]) -> None:
    """Let the command that this process will be name its project as one on another machine."""
    from stackshift_jobs.project import locate

    named, words = given(argv)
    if words == [] or any(f"{' '.join(words[:2])} ".startswith(f"{each} ") for each in WITH_FILES):
        return
    if locate.DATA_DIR_VARIABLE in os.environ:
        return
    place = named or os.environ.get(locate.PROJECT_VARIABLE)
    try:
        root = str(Path(place).resolve()) if place else locate.project_above(str(Path.cwd()))
    except OSError:
        return
    if root is None or (place or "").startswith("ssh://") or not Path(root).is_dir():
        return
    reach_by_shell()
    if named is None:
        argv[1:1] = ["-C", url(root)]
    else:
        argv[argv.index(named)] = url(root)


def given(argv: list[str]) -> tuple[str | None, list[str]]:
    """The project that a command names before its first word, and its words."""
    named = None
    words: list[str] = []
    rest = iter(argv[1:])
    for word in rest:
        if word == "--":
            break
        if not word.startswith("-"):
            words.append(word)
        elif not words and word in WITH_VALUE:
            value = next(rest, "")
            named = named if word == "--color" else value
    return named, words


def url(root: str) -> str:
    """The address of the project at `root`, as from another machine."""
    return f"ssh://{HOST}{root}"


def reach_by_shell() -> None:
    """Have a shell of this machine do what `ssh` would have one of the other do: it knows nothing
    of our variables and of where we are."""
    from stackshift_jobs.wire import ssh

    real = ssh.command
    programs = str(Path(__file__).parent / "bin")

    def command(project: Any, *, start: bool) -> list[str]:
        made = real(project, start=start)
        if project.host != HOST:
            return made
        known = {
            "HOME": os.environ.get("HOME", "/"),
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": os.environ["PYTHONPATH"],
            "STACKSHIFT_VIA_PYTHON": sys.executable,
            VIA: "leader",
            DATABASE: os.environ.get(DATABASE, ""),
        }
        # What the test tells a fake daemon does not go through ssh.
        known |= {name: text for name, text in os.environ.items() if name.startswith("FAKE_")}
        words = [f"{name}={text}" for name, text in known.items()]
        return ["env", "-i", *words, "/bin/sh", "-c", f"cd /; {made[-1]}"]

    ssh.command = command
