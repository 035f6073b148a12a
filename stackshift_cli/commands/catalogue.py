"""All commands but those of `table`: what they accept and which function does them.

Read by `tree` (which makes the Typer commands), by completion, by `help`, and by the test that
holds the man page to it. Nothing of what the commands do is imported here.
"""

from __future__ import annotations

from typing import Final

from stackshift_cli.commands.spec import (
    EVENT_SEND,
    FIELD,
    IF_VERSION,
    KEY,
    PAYLOAD,
    START,
    STATE_GET,
    STATE_INCREMENT,
    STATE_SET,
    Argument,
    Command,
    Option,
)

_RUN: Final = Argument("run", "A run: its id, the end of it, @last or @failed.", "RUN")
_RUNS: Final = Argument("runs", "Runs: ids, ends of ids, @last or @failed.", "RUN...", many=True)
_YES: Final = Option("yes", ("-y", "--yes"), "Do not ask.")
_FROM: Final = Option("from", ("--from",), "Forget step S and all recorded after it.", "S")
_SINCE: Final = Option("since", ("--since",), "Since D ago, or since a time.", "D")
_DRY_RUN: Final = Option("dry_run", ("--dry-run",), "Change nothing; tell what would be.")

_RUN_COMMANDS: Final = (
    Command(
        ("runs", "list"),
        "List runs, newest first.",
        "runs:list_",
        (
            Option("job", ("--job",), "Of this job.", "J"),
            Option("status", ("--status",), "With this status.", "S"),
            Option("queue", ("--queue",), "In this queue.", "Q"),
            Option("label", ("--label",), "With this label; may be repeated.", "K=V", many=True),
            _SINCE,
            Option("limit", ("--limit",), "At most N (default 50).", "N"),
            Option("cursor", ("--cursor",), "Go on after the run C.", "C"),
            Option("dead", ("--dead",), "Those in the dead letter."),
        ),
    ),
    Command(
        ("runs", "show"),
        "Show a run and its timeline.",
        "runs:show",
        (
            _RUN,
            Option("logs", ("--logs",), "With what it printed and logged."),
            Option("compact", ("--compact",), "The bars alone."),
            Option("svg", ("--svg",), "Write the picture to F as SVG.", "F"),
            Option("html", ("--html",), "Write the picture to F as HTML.", "F"),
        ),
    ),
    Command(("runs", "why"), "Say why a run does not go on.", "runs:why", (_RUN,)),
    Command(
        ("runs", "tail"),
        "Follow a run, or all that happens.",
        "run_feeds:tail",
        (
            Argument("run", "A run; without one, everything.", "RUN", required=False),
            _SINCE,
            Option("lines", ("-n", "--lines"), "Begin with the last N records.", "N"),
            Option("no_follow", ("--no-follow",), "Print what is there and stop."),
        ),
    ),
    Command(
        ("runs", "wait"),
        "Wait until runs have ended.",
        "run_feeds:wait",
        (
            _RUNS,
            Option("any", ("--any",), "Until the first of them has."),
            Option("timeout", ("--timeout",), "Stop waiting after D (exit 124).", "D"),
        ),
    ),
    Command(
        ("runs", "logs"),
        "Print what a run printed and logged.",
        "runs:logs",
        (
            _RUN,
            Option("follow", ("-f", "--follow"), "Go on until the run ends."),
            Option("step", ("--step",), "Of this step alone.", "S"),
        ),
    ),
    Command(("runs", "cancel"), "Cancel runs.", "run_changes:cancel", (_RUNS,)),
    Command(
        ("runs", "retry"),
        "Send a finished run on again.",
        "run_changes:retry",
        (
            _RUN,
            _FROM,
            Option(
                "set", ("--set",), "Give step S this result; may be repeated.", "S=JSON", many=True
            ),
            _DRY_RUN,
        ),
    ),
    Command(
        ("runs", "fork"),
        "Run it again as a new run, from a step on.",
        "run_changes:fork",
        (
            _RUN,
            _FROM,
            PAYLOAD,
            FIELD,
            _DRY_RUN,
        ),
    ),
    Command(("runs", "rm"), "Remove a finished run from lists.", "run_changes:rm", (_RUN, _YES)),
)

_SOME_RUNS: Final = _RUNS._replace(required=False)
_OF_QUEUE: Final = Option("queue", ("--queue",), "With --all: of this queue.", "Q")
_OF_JOB: Final = Option("job", ("--job",), "With --all: of this job.", "J")
_DEAD_COMMANDS: Final = (
    Command(
        ("dead", "list"),
        "List the dead letter, newest first.",
        "dead:list_",
        tuple(
            parameter
            for parameter in _RUN_COMMANDS[0].parameters
            if parameter.name not in ("status", "dead")
        ),
    ),
    Command(
        ("dead", "retry"),
        "Send runs of the dead letter on again.",
        "dead:retry",
        (
            _SOME_RUNS,
            Option("all", ("--all",), "All of them."),
            _OF_QUEUE,
            _OF_JOB,
            _YES,
        ),
    ),
    Command(
        ("dead", "discard"),
        "Take runs out of the dead letter for good.",
        "dead:discard",
        (
            _SOME_RUNS,
            Option("all", ("--all",), "All of them."),
            _OF_QUEUE,
            _OF_JOB,
            _YES,
        ),
    ),
)

_JOB: Final = Argument("job", "Name of the job.", "JOB")
_JOB_COMMANDS: Final = (
    Command(("jobs", "list"), "List the project's jobs.", "jobs:list_"),
    Command(("jobs", "show"), "Show a job.", "jobs:show", (_JOB,)),
    Command(("jobs", "check"), "Import all job modules and tell what fails.", "jobs:check"),
    Command(
        ("jobs", "schema"), "Print the JSON Schema of a job's payload.", "jobs:schema", (_JOB,)
    ),
)

_QUEUE: Final = Argument("queue", "Name of the queue.", "QUEUE")
_QUEUE_COMMANDS: Final = (
    Command(("queues", "list"), "List queues.", "queues:list_"),
    Command(
        ("queues", "show"), "Show a queue, and where each limit is from.", "queues:show", (_QUEUE,)
    ),
    Command(("queues", "pause"), "Start nothing more of a queue.", "queues:pause", (_QUEUE,)),
    Command(("queues", "resume"), "Let a paused queue go on.", "queues:resume", (_QUEUE,)),
    Command(
        ("queues", "limit"),
        "Limit a queue, until it is changed again.",
        "queues:limit",
        (
            _QUEUE,
            Option("concurrency", ("--concurrency",), "N runs at once, or none.", "N"),
            Option(
                "key_concurrency", ("--key-concurrency",), "N at once for one key, or none.", "N"
            ),
            Option("rate", ("--rate",), "Attempts started in a time: 100/m, or none.", "R"),
            Option("rate_burst", ("--rate-burst",), "N at once after a lull.", "N"),
            Option("reset", ("--reset",), "Drop what was set by this command before."),
        ),
    ),
    Command(
        ("queues", "drain"),
        "Pause a queue and wait for what executes.",
        "queues:drain",
        (
            _QUEUE,
            Option("timeout", ("--timeout",), "Stop waiting after D (exit 124).", "D"),
        ),
    ),
    Command(("queues", "purge"), "Cancel what waits in a queue.", "queues:purge", (_QUEUE, _YES)),
)

_SCHEDULE_COMMANDS: Final = (
    Command(("schedules", "list"), "List the schedules of jobs.", "schedules:list_"),
    Command(
        ("schedules", "next"),
        "Tell when jobs will start.",
        "schedules:next_",
        (
            Argument("job", "Name of the job; without one, all.", "JOB", required=False),
            Option("number", ("-n", "--number"), "The next N (default 5).", "N"),
        ),
    ),
    Command(("schedules", "pause"), "Pause a job's schedule.", "schedules:pause", (_JOB,)),
    Command(("schedules", "resume"), "Resume a job's schedule.", "schedules:resume", (_JOB,)),
    Command(
        ("schedules", "trigger"),
        "Start a job as its schedule does, now.",
        "schedules:trigger",
        (_JOB,),
    ),
)

_LIMIT: Final = Option("limit", ("--limit",), "At most N (default: all).", "N")
_TOKEN: Final = Option("token", ("--token",), "The token that the lock was taken with.", "N")
_STATE_COMMANDS: Final = (
    STATE_GET,
    STATE_SET,
    Command(("state", "delete"), "Remove a key.", "state:delete", (KEY, IF_VERSION)),
    STATE_INCREMENT,
    Command(
        ("state", "list"),
        "List entries, in the order of their keys.",
        "state_lists:list_",
        (
            Argument("prefix", "The beginning of their keys.", "PREFIX", required=False),
            _LIMIT,
        ),
    ),
    Command(
        ("state", "history"),
        "List the changes of a key, newest first.",
        "state_lists:history",
        (KEY, _LIMIT._replace(help="At most N (default 50).")),
    ),
    Command(
        ("state", "lock"),
        "Take a lock, or hold it while a command runs.",
        "locks:lock",
        (
            KEY,
            Argument("command", "The command, behind --.", "COMMAND...", required=False, many=True),
            Option("ttl", ("--ttl",), "Hold it for D (with COMMAND: 30s, and renewed).", "D"),
            Option("wait", ("--wait",), "Wait for it for up to D (default: not at all).", "D"),
            _TOKEN._replace(help="Extend the lock that was taken with token N."),
        ),
    ),
    Command(("state", "unlock"), "Give a lock back.", "locks:unlock", (KEY, _TOKEN)),
)

_EVENT_COMMANDS: Final = (
    EVENT_SEND,
    Command(
        ("event", "list"),
        "List the events that are kept, newest first.",
        "events:list_",
        (
            Option("name", ("--name",), "Of this name.", "NAME"),
            Option("correlation_key", ("--correlation-key",), "With this correlation key.", "K"),
            _LIMIT._replace(help="At most N (default 50)."),
        ),
    ),
    Command(
        ("event", "tail"),
        "Follow events as they come and go.",
        "event_feeds:tail",
        (
            _SINCE,
            Option("lines", ("-n", "--lines"), "Begin with the last N that came or expired.", "N"),
            Option("no_follow", ("--no-follow",), "Print what is there and stop."),
        ),
    ),
)

_DAEMON_COMMANDS: Final = (
    Command(("daemon", "run"), "Run the daemon in the foreground.", "daemon:run"),
    Command(("daemon", "start"), "Start the daemon.", "daemon:start"),
    Command(
        ("daemon", "stop"),
        "Stop the daemon.",
        "daemon:stop",
        (Option("drain", ("--drain",), "Wait until running attempts have ended."),),
    ),
    Command(("daemon", "restart"), "Stop and start the daemon.", "daemon:restart"),
    Command(("daemon", "status"), "Show how the daemon is.", "daemon:status"),
    Command(
        ("daemon", "logs"),
        "Print the daemon's log.",
        "daemon:logs",
        (
            Option("follow", ("-f", "--follow"), "Go on."),
            Option("lines", ("-n", "--lines"), "Begin with the last N lines (default 50).", "N"),
        ),
    ),
)

_FILE: Final = Argument("file", "The file.", "FILE")
_JOURNAL_COMMANDS: Final = (
    Command(("journal", "verify"), "Check every record of the journal.", "journal:verify"),
    Command(
        ("journal", "cat"),
        "Print the journal's lines.",
        "journal:cat",
        (
            Option("since_seq", ("--since-seq",), "Those after the sequence number N.", "N"),
            Option("follow", ("-f", "--follow"), "Go on with records as they become durable."),
        ),
    ),
    Command(("journal", "stats"), "Tell what the journal holds.", "journal:stats"),
    Command(("journal", "compact"), "Take a snapshot now.", "journal:compact"),
    Command(("journal", "repair"), "Move what is damaged aside.", "journal:repair", (_YES,)),
    Command(("journal", "backup"), "Copy the journal to FILE.", "journal:backup", (_FILE, _YES)),
    Command(("journal", "restore"), "Put a backup in place.", "journal:restore", (_FILE, _YES)),
)

_KEY: Final = Argument("key", "A setting, such as workers.slots.", "KEY")
_OTHER_COMMANDS: Final = (
    Command(
        ("init",),
        "Make a project.",
        "project:init",
        (Argument("directory", "Where (default: here).", "DIR", required=False),),
    ),
    Command(("config", "get"), "Print a setting.", "config:get", (_KEY,)),
    Command(
        ("config", "set"),
        "Change a setting.",
        "config:set_",
        (
            _KEY,
            Argument("value", "Its value, as in the file; else text.", "VALUE"),
        ),
    ),
    Command(
        ("config", "path"),
        "Print where the settings are.",
        "config:path",
        (Option("user", ("--user",), "The user's, not the project's."),),
    ),
    Command(
        ("config", "show"),
        "Print all settings.",
        "config:show",
        (Option("origin", ("--origin",), "And where each is from."),),
    ),
    Command(
        ("completion",),
        "Print the completion script of a shell.",
        "help:completion",
        (Argument("shell", "bash, zsh or fish.", "SHELL"),),
    ),
    Command(
        ("help",),
        "Explain a command or a topic.",
        "help:help_",
        (Argument("topic", "A command, or a topic.", "TOPIC", required=False, many=True),),
    ),
)

COMMANDS: Final = (
    START,
    *_RUN_COMMANDS,
    *_DEAD_COMMANDS,
    *_JOB_COMMANDS,
    *_QUEUE_COMMANDS,
    *_SCHEDULE_COMMANDS,
    *_STATE_COMMANDS,
    *_EVENT_COMMANDS,
    *_DAEMON_COMMANDS,
    *_JOURNAL_COMMANDS,
    *_OTHER_COMMANDS,
)

GROUPS: Final = {
    "runs": "Look at runs, wait for them, act on them.",
    "dead": "Runs that failed for good, and await a person.",
    "jobs": "The project's jobs.",
    "queues": "When the runs of a queue go.",
    "schedules": "What starts jobs by itself.",
    "state": "Durable values, counters and locks.",
    "event": "Events that runs wait for.",
    "daemon": "The background daemon.",
    "journal": "The log of everything.",
    "config": "Settings.",
}
ALIASES: Final = {
    "run": "runs",
    "job": "jobs",
    "queue": "queues",
    "schedule": "schedules",
    "journals": "journal",
    "daemons": "daemon",
    "states": "state",
    "events": "event",
}
"""Singular and plural both work; the other one is the documented spelling."""
