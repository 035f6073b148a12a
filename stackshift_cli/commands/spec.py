"""The vocabulary of the table of commands, and the part of the table that shell loops need.

Every option, argument and command is written once: here for the global options and for the commands
with a fast path (`start`, `state get|set|increment`, `event send`), in `catalogue` for the rest.
The small parser, the Typer commands, completion and help are all made from it, so they cannot come
to differ. All values are text here; `arguments` and `start_params` decide what a text means.

Every `stackshift start` reads this module, so it must not import anything that costs time.
"""

from __future__ import annotations

TYPE_CHECKING = False  # See `stackshift_jobs.errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from typing import Final


class Option:
    """An option: `metavar` stands for its value; an option without one is a flag."""

    __slots__ = ("flags", "help", "many", "metavar", "name")

    def __init__(
        self, name: str, flags: tuple[str, ...], help: str, metavar: str = "", many: bool = False
    ) -> None:
        self.name = name
        self.flags = flags
        self.help = help
        self.metavar = metavar
        self.many = many

    def __repr__(self) -> str:
        return f"Option({'/'.join(self.flags)})"

    def with_help(self, help: str) -> Option:
        """The same option with another help text."""
        return Option(self.name, self.flags, help, self.metavar, self.many)


class Argument:
    """A positional argument; with `many` it takes all words that are left."""

    __slots__ = ("help", "many", "metavar", "name", "required")

    def __init__(
        self, name: str, help: str, metavar: str, required: bool = True, many: bool = False
    ) -> None:
        self.name = name
        self.help = help
        self.metavar = metavar
        self.required = required
        self.many = many

    def __repr__(self) -> str:
        return f"Argument({self.metavar})"

    def optional(self) -> Argument:
        """The same argument, which may be left out."""
        return Argument(self.name, self.help, self.metavar, False, self.many)


Parameter = Option | Argument


class Command:
    """A verb. `run` is `module:function` within `stackshift_cli.verbs`, imported when called."""

    __slots__ = ("help", "parameters", "path", "run")

    def __init__(
        self, path: tuple[str, ...], help: str, run: str, parameters: tuple[Parameter, ...] = ()
    ) -> None:
        self.path = path
        self.help = help
        self.run = run
        self.parameters = parameters

    def __repr__(self) -> str:
        return f"Command({' '.join(self.path)})"


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
    option("-C/--project DIR", "Use the project in DIR, or at ssh://HOST/DIR."),
    option("--json", "Print JSON; errors also go to stderr as a JSON object."),
    option("-q/--quiet", "Print nothing but errors on stderr."),
    option("-v/--verbose", "Print more; show the traceback of an internal error."),
    option("--color WHEN", "Use colour: auto (the default), always or never."),
    option("--no-start", "Do not start the daemon; exit 3 if it is not running."),
)
"""Accepted before and after the verb; after it they win."""

# --- Commands with a fast path -------------------------------------------------------------

PAYLOAD: Final = option(
    "-p/--payload JSON|@FILE|-", "The payload: JSON, @FILE, or - for standard input."
)
FIELD: Final = option(
    "-F/--field K=V|K:=JSON...", "A field of the payload: K=TEXT or K:=JSON; may be repeated."
)

START: Final = command(
    "start",
    "start:start",
    "Start a run of a job and print its id.",
    argument("[JOB]", "The name of the job."),
    PAYLOAD,
    FIELD,
    option("--queue Q", "Run in queue Q (default: the job's)."),
    option("--idempotency-key K", "Start only one run, however often K is used."),
    option("--idempotency-ttl D", "Keep the key for D (default 30d)."),
    option("--retry-failed", "If the run that has the key has failed, retry it."),
    option("--unique K", "Start no run while another with key K is unfinished (exit 5)."),
    option("--on-duplicate WORD", "Then: refuse (the default), attach, replace or queue."),
    option("--delay D", "Run after D."),
    option("--at T", "Run at time T (RFC 3339)."),
    option("--after RUN...", "Begin when this run has ended; may be repeated."),
    option("--even-if-failed", "Also if a run of --after has not completed."),
    option("--ttl D", "Cancel the run if it has not begun D after it is due."),
    option("--deadline D", "Fail the run if it has not ended D after it is due."),
    option("--priority N", "Run before runs of a lower priority (default: the job's)."),
    option("--max-attempts N", "Make at most N attempts, including the first."),
    option("--label K=V...", "Label the run; may be repeated."),
    option("--wait", "Wait for the run to end and print its result as JSON."),
    option("--follow", "Follow the run's timeline until it ends."),
    option("--timeout D", "Stop waiting after D (exit 124); the run continues."),
    option("--dry-run", "Start nothing; show what would be started."),
    option("--batch FILE|-", "Start one run for each line of JSON in FILE."),
)

KEY: Final = argument("KEY", "The key.")
TTL: Final = option("--ttl D", "Expire after D (default: never).")
IF_VERSION: Final = option(
    "--if-version N", "Only if the version is N (0: the key does not exist)."
)

STATE_GET: Final = command(
    "state get",
    "state:get",
    "Print the value of a key as JSON.",
    KEY,
    option("--default V", "Print V if the key does not exist (otherwise exit 4)."),
    option("--wait D", "Wait up to D until the key exists (otherwise exit 124)."),
    option("--raw", "Print text without JSON quotes."),
)

STATE_SET: Final = command(
    "state set",
    "state:set_",
    "Set the value of a key and print its new version.",
    KEY,
    argument("VALUE", "The value: JSON or text, or - for standard input."),
    TTL,
    IF_VERSION,
    option("--if-absent", "Only if the key does not exist."),
)

STATE_INCREMENT: Final = command(
    "state increment",
    "state:increment",
    "Add to a number and print the result.",
    KEY,
    option("--by N", "Add N (default 1)."),
    option("--ttl D", "Expire after D (default: unchanged)."),
)

EVENT_SEND: Final = command(
    "event send",
    "events:send",
    "Send an event and print its id.",
    argument("NAME", "The name of the event."),
    PAYLOAD.with_help("The payload: JSON, @FILE, or - for standard input (default: {})."),
    FIELD,
    option("--correlation-key K", "Resume runs that wait for correlation key K."),
    option("--idempotency-key K", "Send only one event, however often K is used."),
    option("--idempotency-ttl D", "Keep the key for D (default 30d)."),
    option("--ttl D", "Keep the event for D if no run waits for it (default 7d; 0: drop it)."),
)

FAST: Final = (START, STATE_GET, STATE_SET, STATE_INCREMENT, EVENT_SEND)
"""The commands with a fast path."""
