"""All commands but those with a fast path (`spec` has them): what they accept and what does them.

Read by `typer_app` (which makes the Typer commands), by completion and by `help`. Nothing of what
the commands do is imported here.
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
    argument,
    command,
    option,
)

_RUN: Final = argument("RUN", "A run: its id, the end of it, @last or @failed.")
_RUNS: Final = argument("RUN...", "Runs: ids, ends of ids, @last or @failed.", name="runs")
_YES: Final = option("-y/--yes", "Do not ask.")
_FROM: Final = option("--from S", "Forget step S and all recorded after it.")
_SINCE: Final = option("--since D", "Since D ago, or since a time.")
_DRY_RUN: Final = option("--dry-run", "Change nothing; tell what would be.")
_RUN_COMMANDS: Final = (
    command(
        "runs list",
        "runs:list_",
        "List runs, newest first.",
        option("--job J", "Of this job."),
        option("--status S", "With this status."),
        option("--queue Q", "In this queue."),
        option("--label K=V...", "With this label; may be repeated."),
        _SINCE,
        option("--limit N", "At most N (default 50)."),
        option("--cursor C", "Go on after the run C."),
        option("--dead", "Those in the dead letter."),
    ),
    command(
        "runs show",
        "runs:show",
        "Show a run and its timeline.",
        _RUN,
        option("--logs", "With what it printed and logged."),
        option("--compact", "The bars alone."),
        option("--svg F", "Write the picture to F as SVG."),
        option("--html F", "Write the picture to F as HTML."),
    ),
    command("runs why", "runs:why", "Say why a run does not go on.", _RUN),
    command(
        "runs tail",
        "run_feeds:tail",
        "Follow a run, or all that happens.",
        argument("[RUN]", "A run; without one, everything."),
        _SINCE,
        option("-n/--lines N", "Begin with the last N records."),
        option("--no-follow", "Print what is there and stop."),
    ),
    command(
        "runs wait",
        "run_feeds:wait",
        "Wait until runs have ended.",
        _RUNS,
        option("--any", "Until the first of them has."),
        option("--timeout D", "Stop waiting after D (exit 124)."),
    ),
    command(
        "runs logs",
        "runs:logs",
        "Print what a run printed and logged.",
        _RUN,
        option("-f/--follow", "Go on until the run ends."),
        option("--step S", "Of this step alone."),
    ),
    command("runs cancel", "run_changes:cancel", "Cancel runs.", _RUNS),
    command(
        "runs retry",
        "run_changes:retry",
        "Send a finished run on again.",
        _RUN,
        _FROM,
        option("--set S=JSON...", "Give step S this result; may be repeated."),
        _DRY_RUN,
    ),
    command(
        "runs fork",
        "run_changes:fork",
        "Run it again as a new run, from a step on.",
        _RUN,
        _FROM,
        PAYLOAD,
        FIELD,
        _DRY_RUN,
    ),
    command("runs rm", "run_changes:rm", "Remove a finished run from lists.", _RUN, _YES),
)

_SOME_RUNS: Final = _RUNS._replace(required=False)
_OF_QUEUE: Final = option("--queue Q", "With --all: of this queue.")
_OF_JOB: Final = option("--job J", "With --all: of this job.")
_DEAD_COMMANDS: Final = (
    command(
        "dead list",
        "dead:list_",
        "List the dead letter, newest first.",
        *(p for p in _RUN_COMMANDS[0].parameters if p.name not in ("status", "dead")),
    ),
    command(
        "dead retry",
        "dead:retry",
        "Send runs of the dead letter on again.",
        _SOME_RUNS,
        option("--all", "All of them."),
        _OF_QUEUE,
        _OF_JOB,
        _YES,
    ),
    command(
        "dead discard",
        "dead:discard",
        "Take runs out of the dead letter for good.",
        _SOME_RUNS,
        option("--all", "All of them."),
        _OF_QUEUE,
        _OF_JOB,
        _YES,
    ),
)

_JOB: Final = argument("JOB", "Name of the job.")
_JOB_COMMANDS: Final = (
    command("jobs list", "jobs:list_", "List the project's jobs."),
    command("jobs show", "jobs:show", "Show a job.", _JOB),
    command("jobs check", "jobs:check", "Import all job modules and tell what fails."),
    command("jobs schema", "jobs:schema", "Print the JSON Schema of a job's payload.", _JOB),
)

_QUEUE: Final = argument("QUEUE", "Name of the queue.")
_QUEUE_COMMANDS: Final = (
    command("queues list", "queues:list_", "List queues."),
    command("queues show", "queues:show", "Show a queue, and where each limit is from.", _QUEUE),
    command("queues pause", "queues:pause", "Start nothing more of a queue.", _QUEUE),
    command("queues resume", "queues:resume", "Let a paused queue go on.", _QUEUE),
    command(
        "queues limit",
        "queues:limit",
        "Limit a queue, until it is changed again.",
        _QUEUE,
        option("--concurrency N", "N runs at once, or none."),
        option("--key-concurrency N", "N at once for one key, or none."),
        option("--rate R", "Attempts started in a time: 100/m, or none."),
        option("--rate-burst N", "N at once after a lull."),
        option("--reset", "Drop what was set by this command before."),
    ),
    command(
        "queues drain",
        "queues:drain",
        "Pause a queue and wait for what executes.",
        _QUEUE,
        option("--timeout D", "Stop waiting after D (exit 124)."),
    ),
    command("queues purge", "queues:purge", "Cancel what waits in a queue.", _QUEUE, _YES),
)

_SCHEDULE_COMMANDS: Final = (
    command("schedules list", "schedules:list_", "List the schedules of jobs."),
    command(
        "schedules next",
        "schedules:next_",
        "Tell when jobs will start.",
        argument("[JOB]", "Name of the job; without one, all."),
        option("-n/--number N", "The next N (default 5)."),
    ),
    command("schedules pause", "schedules:pause", "Pause a job's schedule.", _JOB),
    command("schedules resume", "schedules:resume", "Resume a job's schedule.", _JOB),
    command(
        "schedules trigger", "schedules:trigger", "Start a job as its schedule does, now.", _JOB
    ),
)

_LIMIT: Final = option("--limit N", "At most N (default: all).")
_TOKEN: Final = option("--token N", "The token that the lock was taken with.")
_STATE_COMMANDS: Final = (
    STATE_GET,
    STATE_SET,
    command("state delete", "state:delete", "Remove a key.", KEY, IF_VERSION),
    STATE_INCREMENT,
    command(
        "state list",
        "state_lists:list_",
        "List entries, in the order of their keys.",
        argument("[PREFIX]", "The beginning of their keys."),
        _LIMIT,
    ),
    command(
        "state history",
        "state_lists:history",
        "List the changes of a key, newest first.",
        KEY,
        _LIMIT._replace(help="At most N (default 50)."),
    ),
    command(
        "state lock",
        "locks:lock",
        "Take a lock, or hold it while a command runs.",
        KEY,
        argument("[COMMAND...]", "The command, behind --."),
        option("--ttl D", "Hold it for D (with COMMAND: 30s, and renewed)."),
        option("--wait D", "Wait for it for up to D (default: not at all)."),
        _TOKEN._replace(help="Extend the lock that was taken with token N."),
    ),
    command("state unlock", "locks:unlock", "Give a lock back.", KEY, _TOKEN),
)

_EVENT_COMMANDS: Final = (
    EVENT_SEND,
    command(
        "event list",
        "events:list_",
        "List the events that are kept, newest first.",
        option("--name NAME", "Of this name."),
        option("--correlation-key K", "With this correlation key."),
        _LIMIT._replace(help="At most N (default 50)."),
    ),
    command(
        "event tail",
        "event_feeds:tail",
        "Follow events as they come and go.",
        _SINCE,
        option("-n/--lines N", "Begin with the last N that came or expired."),
        option("--no-follow", "Print what is there and stop."),
    ),
)

_DAEMON_COMMANDS: Final = (
    command("daemon run", "daemon:run", "Run the daemon in the foreground."),
    command("daemon start", "daemon:start", "Start the daemon."),
    command(
        "daemon stop",
        "daemon:stop",
        "Stop the daemon.",
        option("--drain", "Wait until running attempts have ended."),
    ),
    command("daemon restart", "daemon:restart", "Stop and start the daemon."),
    command("daemon status", "daemon:status", "Show how the daemon is."),
    command(
        "daemon logs",
        "daemon:logs",
        "Print the daemon's log.",
        option("-f/--follow", "Go on."),
        option("-n/--lines N", "Begin with the last N lines (default 50)."),
    ),
)

_FILE: Final = argument("FILE", "The file.")
_JOURNAL_COMMANDS: Final = (
    command("journal verify", "journal:verify", "Check every record of the journal."),
    command(
        "journal cat",
        "journal:cat",
        "Print the journal's lines.",
        option("--since-seq N", "Those after the sequence number N."),
        option("-f/--follow", "Go on with records as they become durable."),
    ),
    command("journal stats", "journal:stats", "Tell what the journal holds."),
    command("journal compact", "journal:compact", "Take a snapshot now."),
    command("journal repair", "journal:repair", "Move what is damaged aside.", _YES),
    command("journal backup", "journal:backup", "Copy the journal to FILE.", _FILE, _YES),
    command("journal restore", "journal:restore", "Put a backup in place.", _FILE, _YES),
)

_KEY: Final = argument("KEY", "A setting, such as workers.slots.")
_OTHER_COMMANDS: Final = (
    command(
        "init",
        "project:init",
        "Make a project.",
        argument("[DIR]", "Where (default: here).", name="directory"),
    ),
    command("config get", "config:get", "Print a setting.", _KEY),
    command(
        "config set",
        "config:set_",
        "Change a setting.",
        _KEY,
        argument("VALUE", "Its value, as in the file; else text."),
    ),
    command(
        "config path",
        "config:path",
        "Print where the settings are.",
        option("--user", "The user's, not the project's."),
    ),
    command(
        "config show",
        "config:show",
        "Print all settings.",
        option("--origin", "And where each is from."),
    ),
    command(
        "completion",
        "help:completion",
        "Print the completion script of a shell.",
        argument("SHELL", "bash, zsh or fish."),
    ),
    command(
        "help",
        "help:help_",
        "Explain a command or a topic.",
        argument("[TOPIC...]", "A command, or a topic."),
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
