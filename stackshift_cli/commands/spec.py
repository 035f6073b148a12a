"""The vocabulary of the table of commands, and the part of the table that shell loops need.

Every option, argument and command is written once: here for the global options and for the commands
with a fast path (`start`, `state get|set|increment`, `event send`), in `catalogue` for the rest.
The small parser, the Typer commands, completion and help are all made from it, so they cannot come
to differ. All values are text here; `arguments` and `start_params` decide what a text means.

Every `stackshift start` reads this module, so it must not import anything that costs time.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Option(NamedTuple):
    """An option: `metavar` stands for its value; an option without one is a flag."""

    name: str
    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    many: bool = False


class Argument(NamedTuple):
    """A positional argument; with `many` it takes all words that are left."""

    name: str
    help: str
    metavar: str
    required: bool = True
    many: bool = False


Parameter = Option | Argument


class Command(NamedTuple):
    """A verb. `run` is `module:function` within `stackshift_cli.verbs`, imported when called."""

    path: tuple[str, ...]
    help: str
    run: str
    parameters: tuple[Parameter, ...] = ()


# --- Spellings -----------------------------------------------------------------------------


def option(spelling: str, help: str) -> Option:
    """The option spelled `-n/--lines N`; `K=V...` may be repeated. Its name is `lines`, from the
    last flag, with `_` for `-`."""
    flags, _, metavar = spelling.partition(" ")
    spellings = tuple(flags.split("/"))
    name = spellings[-1].removeprefix("--").replace("-", "_")
    many = metavar.endswith("...")
    return Option(name, spellings, help, metavar.removesuffix("..."), many)


def argument(spelling: str, help: str, name: str = "") -> Argument:
    """The argument spelled `RUN`, `[RUN]` where it may be left out, `RUN...` or `[RUN...]` where it
    takes all words that are left. Without a `name` of its own it is called `run`."""
    metavar = spelling.strip("[]")
    name = name or metavar.removesuffix("...").lower()
    return Argument(name, help, metavar, metavar == spelling, metavar.endswith("..."))


def command(path: str, run: str, help: str, *parameters: Parameter) -> Command:
    """The command `runs list`, done by `run`."""
    return Command(tuple(path.split()), help, run, parameters)


# --- The global options --------------------------------------------------------------------

GLOBALS: Final = (
    option("-C/--project DIR", "Work on the project in DIR."),
    option("--json", "Print JSON; errors also as a JSON object on stderr."),
    option("-q/--quiet", "Say nothing on stderr but errors."),
    option("-v/--verbose", "Say more; show tracebacks of internal errors."),
    option("--color WHEN", "Colour: auto, always or never."),
    option("--no-start", "Do not start the daemon; exit 3 if it does not run."),
)
"""Accepted before and after the verb; after it they win."""

# --- Commands with a fast path -------------------------------------------------------------

PAYLOAD: Final = option(
    "-p/--payload JSON|@FILE|-", "The payload: JSON, @FILE, or - for standard input."
)
FIELD: Final = option(
    "-F/--field K=V|K:=JSON...", "A field of the payload: k=TEXT, or k:=JSON; may be repeated."
)

START: Final = command(
    "start",
    "start:start",
    "Start a run of a job and print its id.",
    argument("[JOB]", "Name of the job."),
    PAYLOAD,
    FIELD,
    option("--queue Q", "Run it in queue Q."),
    option("--idempotency-key K", "One run for all starts with key K."),
    option("--idempotency-ttl D", "Keep the key for D (default 30d)."),
    option("--delay D", "Run it D from now."),
    option("--at T", "Run it at the time T (RFC 3339)."),
    option("--priority N", "Higher runs first (default: the job's)."),
    option("--max-attempts N", "Try at most N times, the first included."),
    option("--label K=V...", "A label of the run; may be repeated."),
    option("--wait", "Wait for the end and print the result as one line of JSON."),
    option("--follow", "Follow the run's timeline until it ends."),
    option("--timeout D", "Stop waiting after D (exit 124); the run goes on."),
    option("--dry-run", "Start nothing; tell what would be."),
    option("--batch FILE|-", "Start one run for each JSON line of FILE."),
)

KEY: Final = argument("KEY", "The key.")
TTL: Final = option("--ttl D", "Let it expire after D (default: never).")
IF_VERSION: Final = option("--if-version N", "Only if its version is N (0: if there is none).")

STATE_GET: Final = command(
    "state get",
    "state:get",
    "Print the value of a key as JSON.",
    KEY,
    option("--default V", "Print V where there is none (else exit 4)."),
    option("--raw", "Print text as it is, without the quotes of JSON."),
)

STATE_SET: Final = command(
    "state set",
    "state:set_",
    "Give a key a value and print its version.",
    KEY,
    argument("VALUE", "The value: JSON, else text; - for standard input."),
    TTL,
    IF_VERSION,
    option("--if-absent", "Only if there is none."),
)

STATE_INCREMENT: Final = command(
    "state increment",
    "state:increment",
    "Add to the number at a key and print the new one.",
    KEY,
    option("--by N", "Add N (default 1)."),
    option("--ttl D", "Let it expire after D (default: as it was)."),
)

EVENT_SEND: Final = command(
    "event send",
    "events:send",
    "Send an event and print its id.",
    argument("NAME", "Name of the event."),
    PAYLOAD._replace(help="The payload: JSON, @FILE, or - for standard input; else null."),
    FIELD,
    option("--correlation-key K", "For those who wait with key K."),
    option("--idempotency-key K", "One event for all with key K."),
    option("--idempotency-ttl D", "Keep the key for D (default 30d)."),
    option(
        "--ttl D", "Keep the event for D where nothing waits for it (default 7d; 0: not at all)."
    ),
)

SHORT: Final = (START, STATE_GET, STATE_SET, STATE_INCREMENT, EVENT_SEND)
"""The commands with a fast path."""
