"""What the command line accepts: the kinds of its parameters, the global options, and the commands
that shell loops call: `start`, `state get|set|increment`, `event send`.

This table is the one place where an option of theirs is written down. The small parser (`plain`)
and the Typer commands (`tree`) are both made from it, so that they cannot come to differ. All
values are text here; what a text means is decided once, by `given` and `request`. The rest of the
commands are in `catalogue`.

It is read by every `stackshift start`, so it imports nothing that costs time.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Option(NamedTuple):
    """An option: `metavar` is what stands for its value; without one it is a flag."""

    name: str
    flags: tuple[str, ...]
    help: str
    metavar: str = ""
    many: bool = False


class Argument(NamedTuple):
    """A positional argument; `many` takes all that are left."""

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


GLOBALS: Final = (
    Option("project", ("-C", "--project"), "Work on the project in DIR.", "DIR"),
    Option("json", ("--json",), "Print JSON; errors also as a JSON object on stderr."),
    Option("quiet", ("-q", "--quiet"), "Say nothing on stderr but errors."),
    Option("verbose", ("-v", "--verbose"), "Say more; show tracebacks of internal errors."),
    Option("color", ("--color",), "Colour: auto, always or never.", "WHEN"),
    Option("no_start", ("--no-start",), "Do not start the daemon; exit 3 if it does not run."),
)
"""Accepted before and after the verb; after it they win."""

PAYLOAD: Final = Option(
    "payload",
    ("-p", "--payload"),
    "The payload: JSON, @FILE, or - for standard input.",
    "JSON|@FILE|-",
)
FIELD: Final = Option(
    "field",
    ("-F", "--field"),
    "A field of the payload: k=TEXT, or k:=JSON; may be repeated.",
    "K=V|K:=JSON",
    many=True,
)

START: Final = Command(
    ("start",),
    "Start a run of a job and print its id.",
    "start:start",
    (
        Argument("job", "Name of the job.", "JOB", required=False),
        PAYLOAD,
        FIELD,
        Option("queue", ("--queue",), "Run it in queue Q.", "Q"),
        Option(
            "idempotency_key", ("--idempotency-key",), "One run for all starts with key K.", "K"
        ),
        Option("idempotency_ttl", ("--idempotency-ttl",), "Keep the key for D (default 30d).", "D"),
        Option("delay", ("--delay",), "Run it D from now.", "D"),
        Option("at", ("--at",), "Run it at the time T (RFC 3339).", "T"),
        Option("priority", ("--priority",), "Higher runs first (default: the job's).", "N"),
        Option(
            "max_attempts", ("--max-attempts",), "Try at most N times, the first included.", "N"
        ),
        Option("label", ("--label",), "A label of the run; may be repeated.", "K=V", many=True),
        Option("wait", ("--wait",), "Wait for the end and print the result as one line of JSON."),
        Option("follow", ("--follow",), "Follow the run's timeline until it ends."),
        Option("timeout", ("--timeout",), "Stop waiting after D (exit 124); the run goes on.", "D"),
        Option("dry_run", ("--dry-run",), "Start nothing; tell what would be."),
        Option("batch", ("--batch",), "Start one run for each JSON line of FILE.", "FILE|-"),
    ),
)

KEY: Final = Argument("key", "The key.", "KEY")
TTL: Final = Option("ttl", ("--ttl",), "Let it expire after D (default: never).", "D")
IF_VERSION: Final = Option(
    "if_version", ("--if-version",), "Only if its version is N (0: if there is none).", "N"
)

STATE_GET: Final = Command(
    ("state", "get"),
    "Print the value of a key as JSON.",
    "state:get",
    (
        KEY,
        Option("default", ("--default",), "Print V where there is none (else exit 4).", "V"),
        Option("raw", ("--raw",), "Print text as it is, without the quotes of JSON."),
    ),
)

STATE_SET: Final = Command(
    ("state", "set"),
    "Give a key a value and print its version.",
    "state:set_",
    (
        KEY,
        Argument("value", "The value: JSON, else text; - for standard input.", "VALUE"),
        TTL,
        IF_VERSION,
        Option("if_absent", ("--if-absent",), "Only if there is none."),
    ),
)

STATE_INCREMENT: Final = Command(
    ("state", "increment"),
    "Add to the number at a key and print the new one.",
    "state:increment",
    (
        KEY,
        Option("by", ("--by",), "Add N (default 1).", "N"),
        TTL._replace(help="Let it expire after D (default: as it was)."),
    ),
)

EVENT_SEND: Final = Command(
    ("event", "send"),
    "Send an event and print its id.",
    "events:send",
    (
        Argument("name", "Name of the event.", "NAME"),
        PAYLOAD._replace(help="The payload: JSON, @FILE, or - for standard input; else null."),
        FIELD,
        Option("correlation_key", ("--correlation-key",), "For those who wait with key K.", "K"),
        Option("idempotency_key", ("--idempotency-key",), "One event for all with key K.", "K"),
        Option("idempotency_ttl", ("--idempotency-ttl",), "Keep the key for D (default 30d).", "D"),
        Option(
            "ttl",
            ("--ttl",),
            "Keep the event for D where nothing waits for it (default 7d; 0: not at all).",
            "D",
        ),
    ),
)

SHORT: Final = (START, STATE_GET, STATE_SET, STATE_INCREMENT, EVENT_SEND)
"""Those with a short path."""
