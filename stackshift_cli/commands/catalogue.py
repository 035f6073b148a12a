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
    Parameter,
    argument,
    command,
    option,
)

_RUN: Final = argument("RUN", "A run: its id, the end of its id, @last or @failed.")
_RUNS: Final = argument(
    "RUN...", "One or more runs: ids, ends of ids, @last or @failed.", name="runs"
)
_YES: Final = option("-y/--yes", "Do not ask for confirmation.")
_FROM: Final = option("--from S", "Forget step S and everything recorded after it.")
_SINCE: Final = option("--since D", "Only runs created since D, a duration ago or a time.")
_FEED_SINCE: Final = _SINCE.with_help("Start with records since D, a duration ago or a time.")
_DRY_RUN: Final = option("--dry-run", "Change nothing; show what would happen.")
_SOME_RUNS: Final = _RUNS.optional()
_OF_QUEUE: Final = option("--queue Q", "With --all: only runs in queue Q.")
_OF_JOB: Final = option("--job J", "With --all: only runs of job J.")
_FILTERS: Final = (
    option("--job J", "Only runs of job J."),
    option("--status S", "Only runs with status S (or one of several: S,S)."),
    option("--queue Q", "Only runs in queue Q."),
    option("--label K=V...", "Only runs with this label; may be repeated."),
    option("--parent RUN", "Only runs that RUN has started."),
    option("--forked-from RUN", "Only forks of RUN."),
    _SINCE,
    option("--until D", "Only runs created until D, a duration ago or a time."),
)
_SELECTION: Final[tuple[Parameter, ...]] = (
    _SOME_RUNS,
    option("--all", "All runs that match."),
    *(each.with_help(f"With --all: o{each.help[1:]}") for each in _FILTERS),
    _YES,
)
_RUN_COMMANDS: Final = (
    command(
        "runs list",
        "runs:list_",
        "List runs, newest first.",
        *_FILTERS,
        option("--limit N", "Show at most N (default 50)."),
        option("--cursor C", "Continue after run C, the last of the previous page."),
        option("--dead", "Only runs in the dead letter."),
    ),
    command(
        "runs show",
        "runs:show",
        "Show a run and its timeline.",
        _RUN,
        option("--logs", "Include what the run printed and logged."),
        option("--compact", "Show at most ten lines of bars, and nothing else."),
        option("--all", "Show every row, however many lines that takes."),
        option("--tree", "Show the timelines of child runs below their steps."),
        option("--picture", "Draw the timeline even where there is no terminal."),
        option("--svg F", "Write the timeline to file F as SVG (-: standard output)."),
        option("--html F", "Write it to file F as a page whose steps open (-: standard output)."),
    ),
    command("runs why", "runs:why", "Explain why a run is not progressing.", _RUN),
    command(
        "runs tail",
        "run_feeds:tail",
        "Follow a run, or everything that happens.",
        argument("[RUN]", "The run to follow (default: everything)."),
        _FEED_SINCE,
        option("-n/--lines N", "Start with the last N records."),
        option("--no-follow", "Print what there is and exit."),
    ),
    command(
        "runs wait",
        "run_feeds:wait",
        "Wait until runs have ended.",
        _RUNS,
        option("--any", "Stop when the first of them has ended."),
        option("--timeout D", "Stop waiting after D (exit 124)."),
    ),
    command(
        "runs logs",
        "runs:logs",
        "Print what a run printed and logged.",
        _RUN,
        option("-f/--follow", "Keep printing until the run ends."),
        option("--step S", "Only the output of step S."),
    ),
    command(
        "runs cancel",
        "run_changes:cancel",
        "Cancel runs.",
        *_SELECTION,
        option("--gently", "Tell the handler, and let it clean up first."),
        option("--grace D", "With --gently: cancel it for good after D (default: 30s)."),
        option("--children", "Cancel all that it has started too, and these first."),
    ),
    command(
        "runs move",
        "run_changes:move",
        "Move runs that are not executing to another time, priority or queue.",
        _RUNS,
        option("--now", "Run now."),
        option("--delay D", "Run after D."),
        option("--at T", "Run at time T (RFC 3339)."),
        option("--priority N", "Give it the priority N."),
        option("--queue Q", "Run in queue Q."),
    ),
    command(
        "runs retry",
        "run_changes:retry",
        "Retry failed or cancelled runs.",
        *_SELECTION,
        _FROM,
        option("--set S=JSON...", "Use this result for step S; may be repeated."),
        _DRY_RUN,
    ),
    command(
        "runs fork",
        "run_changes:fork",
        "Start a new run that reuses the recorded steps of this one.",
        _RUN,
        _FROM,
        PAYLOAD,
        FIELD,
        option("--queue Q", "Run it in queue Q (default: that of the run)."),
        _DRY_RUN,
    ),
    command(
        "runs replay",
        "runs:replay",
        "Replay runs on the code as it is now, without running a step.",
        _RUNS.optional(),
        option("--all", "All unfinished runs."),
        option("--check", "Say what would become of them, and change nothing."),
    ),
    command("runs rm", "run_changes:rm", "Remove finished runs from lists.", *_SELECTION),
    command(
        "runs count",
        "runs:count",
        "Count runs.",
        option("--by WORD", "Count those of each status, job or queue."),
        *_FILTERS,
    ),
)

_DEAD_COMMANDS: Final = (
    command(
        "dead list",
        "dead:list_",
        "List the runs in the dead letter, newest first.",
        *(p for p in _RUN_COMMANDS[0].parameters if p.name not in ("status", "dead")),
    ),
    command(
        "dead retry",
        "dead:retry",
        "Retry runs in the dead letter.",
        _SOME_RUNS,
        option("--all", "Every run in the dead letter."),
        _OF_QUEUE,
        _OF_JOB,
        _YES,
    ),
    command(
        "dead discard",
        "dead:discard",
        "Remove runs from the dead letter without retrying them.",
        _SOME_RUNS,
        option("--all", "Every run in the dead letter."),
        _OF_QUEUE,
        _OF_JOB,
        _YES,
    ),
)

_JOB: Final = argument("JOB", "The name of the job.")
_JOB_COMMANDS: Final = (
    command("jobs list", "jobs:list_", "List the project's jobs."),
    command("jobs show", "jobs:show", "Show the details of a job.", _JOB),
    command(
        "jobs check",
        "jobs:check",
        "Import all job modules and report the ones that fail.",
        option("--in-flight", "Also replay unfinished runs on them, without running a step."),
    ),
    command("jobs schema", "jobs:schema", "Print the JSON Schema of a job's payload.", _JOB),
)

_QUEUE: Final = argument("QUEUE", "The name of the queue.")
_QUEUE_COMMANDS: Final = (
    command("queues list", "queues:list_", "List queues."),
    command(
        "queues show",
        "queues:show",
        "Show a queue and where each of its limits comes from.",
        _QUEUE,
    ),
    command("queues pause", "queues:pause", "Stop starting runs of a queue.", _QUEUE),
    command("queues resume", "queues:resume", "Resume a paused queue.", _QUEUE),
    command(
        "queues limit",
        "queues:limit",
        "Change the limits of a queue.",
        _QUEUE,
        option("--concurrency N", "At most N runs at once; none: no limit."),
        option(
            "--key-concurrency N", "At most N runs at once per concurrency key; none: no limit."
        ),
        option("--rate R", "At most so many attempts per time, e.g. 100/m; none: no limit."),
        option("--rate-burst N", "Allow N attempts at once after an idle period."),
        option("--reset", "Remove all limits set by this command."),
    ),
    command(
        "queues drain",
        "queues:drain",
        "Pause a queue and wait until none of its runs is running.",
        _QUEUE,
        option("--timeout D", "Stop waiting after D (exit 124)."),
    ),
    command(
        "queues purge",
        "queues:purge",
        "Cancel the runs that are not running yet, or wait for a retry.",
        _QUEUE,
        _YES,
    ),
)

_SCHEDULE: Final = argument("NAME", "The name of the schedule.", name="schedule")
_SCHEDULE_OR_ALL: Final = argument(
    "[NAME]", "The name of the schedule (default: all).", name="schedule"
)
_TIMEZONE: Final = option("--timezone Z", "The time zone of the expression (default: UTC).")
_SCHEDULE_COMMANDS: Final = (
    command("schedules list", "schedules:list_", "List all schedules."),
    command(
        "schedules next",
        "schedules:next_",
        "Show when schedules will tick next.",
        _SCHEDULE_OR_ALL,
        option("-n/--number N", "Show the next N (default 5)."),
    ),
    command("schedules pause", "schedules:pause", "Pause a schedule.", _SCHEDULE),
    command("schedules resume", "schedules:resume", "Resume a schedule.", _SCHEDULE),
    command(
        "schedules trigger",
        "schedules:trigger",
        "Start a run now, with the schedule's payload.",
        _SCHEDULE,
    ),
    command(
        "schedules add",
        "schedule_changes:add",
        "Add a schedule, of a job or of a command.",
        argument("NAME", "What to call it."),
        argument("[COMMAND...]", "The program that it starts and its arguments, after --."),
        option("--job J", "Start job J."),
        option("--cron EXPRESSION", 'When: "0 2 * * *", @daily, "@every 30m", @reboot.'),
        _TIMEZONE,
        option("--catch-up WORD", "Missed ticks: skip, once (the default: the latest) or all."),
        option("--catch-up-for D", "Only those that are at most D old."),
        option("--overlap WORD", "While the last run is unfinished: skip, allow, queue, cancel."),
        option("--jitter D", "Start each run up to D later."),
        PAYLOAD,
        FIELD,
        option("--queue Q", "Run in queue Q (default: the job's)."),
        option("--retry N", "Try again up to N times if it fails (default: the job's, or 0)."),
        option("--backoff D", "Wait D before the first retry, then twice as long."),
        option("--timeout D", "End each attempt of a job, or try of a command, after D."),
        option("--env NAME...", "Give the command this variable, or NAME=TEXT; may be repeated."),
        option("--expect TEXT", 'Alert if no run completes so: "daily by 03:00", "every 6h".'),
        option("--max-runtime D", "Alert if a run takes longer than D (default: the job's)."),
        option("--heartbeat URL", "Call URL when a run begins (/start), completes, fails (/fail)."),
        option("--note TEXT", "What schedules list --json says about it."),
        option("--replace", "If another schedule was added as NAME, change it."),
    ),
    command(
        "schedules rm",
        "schedule_changes:rm",
        "Remove schedules that were added.",
        argument("NAME...", "The names of the schedules.", name="schedule"),
        option("-y/--yes", "Do not ask; it does not in any case, since runs stay."),
    ),
    command(
        "schedules backfill",
        "schedule_changes:backfill",
        "Start runs for past ticks that have none.",
        _SCHEDULE,
        option("--since T", "From time T on, or from a duration ago."),
        option("--until T", "Up to time T, which is not included (default: now)."),
        _DRY_RUN,
    ),
    command(
        "schedules lint",
        "schedules:lint",
        "Say what may surprise: clock changes, short months, no tick at all.",
        _SCHEDULE_OR_ALL,
        option("--cron EXPRESSION", "Check this expression instead."),
        _TIMEZONE,
    ),
)

_CRONTAB_COMMANDS: Final = (
    command(
        "crontab import",
        "crontab:import_",
        "Make schedules of the entries of a crontab.",
        argument("[FILE]", "The crontab; - for standard input (default: crontab -l)."),
        option("--format WORD", "Entries without a user (user) or with one (system)."),
        option("--timezone Z", "The time zone of the entries (default: this machine's)."),
        option("--catch-up WORD", "Missed ticks: skip (the default: as cron), once or all."),
        option("--overlap WORD", "While the last run is unfinished: allow (as cron), skip, …"),
        _DRY_RUN,
    ),
)

_LIMIT: Final = option("--limit N", "Show at most N (default: all).")
_TOKEN: Final = option("--token N", "The token that was printed when the lock was acquired.")
_STATE_COMMANDS: Final = (
    STATE_GET,
    STATE_SET,
    command("state delete", "state:delete", "Delete a key.", KEY, IF_VERSION),
    STATE_INCREMENT,
    command(
        "state list",
        "state_lists:list_",
        "List entries, sorted by key.",
        argument("[PREFIX]", "Only keys that begin with PREFIX."),
        _LIMIT,
    ),
    command(
        "state history",
        "state_lists:history",
        "List the changes of a key, newest first.",
        KEY,
        _LIMIT.with_help("Show at most N (default 50)."),
    ),
    command(
        "state lock",
        "locks:lock",
        "Acquire a lock, or hold it while a command runs.",
        KEY,
        argument("[COMMAND...]", "The command to run, after --."),
        option("--ttl D", "Hold the lock for D (with COMMAND: 30s by default, renewed)."),
        option("--wait D", "Wait up to D for the lock (default: do not wait)."),
        option("--holders N", "So many may hold it at a time (default 1)."),
        _TOKEN.with_help("Extend the lock that has token N instead of acquiring it."),
    ),
    command(
        "state unlock",
        "locks:unlock",
        "Release a lock.",
        KEY,
        _TOKEN,
        option("--force", "Take the lock away from whoever holds it."),
        _YES,
    ),
    command(
        "state locks",
        "locks:list_",
        "List the locks that are held, by whom, and how many wait for each.",
        argument("[PREFIX]", "Only locks whose keys begin with PREFIX."),
        _LIMIT,
    ),
)

_EVENT_COMMANDS: Final = (
    EVENT_SEND,
    command(
        "event list",
        "events:list_",
        "List the events that are kept, newest first.",
        option("--name NAME", "Only events named NAME."),
        option("--correlation-key K", "Only events with correlation key K."),
        _LIMIT.with_help("Show at most N (default 50)."),
    ),
    command(
        "event tail",
        "event_feeds:tail",
        "Follow events as they are received, consumed and expire.",
        _FEED_SINCE,
        option("-n/--lines N", "Start with the last N events received or expired."),
        option("--no-follow", "Print what there is and exit."),
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
    command("daemon restart", "daemon:restart", "Restart the daemon."),
    command(
        "daemon reload",
        "daemon:reload",
        "Load changed job modules, without a restart.",
        option("--strict", "Not if a run in flight would not go on as it is recorded."),
    ),
    command("daemon status", "daemon:status", "Show the status of the daemon."),
    command(
        "daemon metrics",
        "daemon:metrics",
        "Print counters and gauges in Prometheus's text format.",
    ),
    command(
        "daemon clock",
        "daemon:clock",
        "Show the daemon's time, and whether it stands still.",
        option("--set-back", "Set it back to the system clock, which was ahead for a while."),
        _YES,
    ),
    command(
        "daemon dial",
        "daemon:dial",
        "Join standard input and output to the daemon: the far end of -C ssh://HOST/DIR.",
        option("--start", "Start the daemon if none is running."),
    ),
    command(
        "daemon logs",
        "daemon:logs",
        "Print the daemon's log.",
        option("-f/--follow", "Keep printing lines as they are written."),
        option("-n/--lines N", "Start with the last N lines (default 50)."),
    ),
)

_BOOT_COMMANDS: Final = (
    command(
        "daemon install",
        "daemon_boot:install",
        "Start the daemon when the machine boots.",
        option("--print", "Install nothing; print the unit, agent or crontab line."),
    ),
    command("daemon uninstall", "daemon_boot:uninstall", "No longer start the daemon at boot."),
)

_FILE: Final = argument("FILE", "The backup file.")
_TO_FILE: Final = argument("FILE", "The backup file, or - for standard output.")
_HOST_COMMANDS: Final = (
    command("hosts list", "hosts:list_", "List the hosts that workers are placed on."),
    command(
        "hosts check",
        "hosts:check",
        "Start a worker on each host, import the modules there, and end it.",
        argument("[HOST...]", "The names of hosts; without one, all of them."),
    ),
)

_NOTIFY_COMMANDS: Final = (
    command("notify list", "notify:list_", "List who is told of failures, and of which."),
    command(
        "notify test",
        "notify:test",
        "Send a message now, and say whether it was taken.",
        argument("NOTIFY", "The NAME of a [notify.NAME] in stackshift.toml."),
    ),
)

_CLUSTER_COMMANDS: Final = (
    command("cluster status", "cluster:status", "Show which daemon leads, and which follow."),
    command(
        "cluster handover",
        "cluster:handover",
        "Let a daemon that follows lead; the one that leads follows it.",
        argument("[HOST]", "The host whose daemon is to lead; without it, any that is level."),
    ),
    command(
        "cluster forget",
        "cluster:forget",
        "Forget a host whose daemon is gone for good.",
        argument("HOST", "The name of the host."),
    ),
)

_WORKER_COMMANDS: Final = (
    command(
        "worker join",
        "worker:join",
        "Lend workers of this machine to the daemon that leads, until stopped.",
        option("--queue Q", "Only for this queue, which must have workers of its own."),
        option("--processes N", "Worker processes (default: [workers] processes)."),
        option("--slots N", "Runs at once in each (default: [workers] slots)."),
        option("--host NAME", "Name of this machine (default: its own)."),
    ),
)

_JOURNAL_COMMANDS: Final = (
    command("journal verify", "journal:verify", "Verify every record of the journal."),
    command(
        "journal cat",
        "journal:cat",
        "Print the lines of the journal.",
        option("--since-seq N", "Only records after sequence number N."),
        option("-f/--follow", "Keep printing records as they become durable."),
    ),
    command("journal stats", "journal:stats", "Show the size and contents of the journal."),
    command("journal compact", "journal:compact", "Write a snapshot now."),
    command(
        "journal repair",
        "journal:repair",
        "Make a damaged journal readable again; what cannot be kept is set aside.",
        _YES,
        _DRY_RUN,
    ),
    command("journal backup", "journal:backup", "Back up the journal to FILE.", _TO_FILE, _YES),
    command("journal restore", "journal:restore", "Restore the journal from FILE.", _FILE, _YES),
    command(
        "journal move",
        "journal:move",
        "Move the journal into a database, or from there into files.",
        option("--to WHERE", "URL of a PostgreSQL database, or files."),
        option("--rescue", "Put back what the database has lost, from the copy here."),
        _YES,
        _DRY_RUN,
    ),
)

_PROGRAM_OPTIONS: Final = (
    option("--name N", "What to call the run in lists (default: the program's name)."),
    option("--queue Q", "Run in queue Q."),
    option("--idempotency-key K", "Run it only once, however often K is used."),
    option("--unique K", "Not while another run with key K is unfinished (exit 5)."),
    option("--if-running WORD", "While one of its name is: skip, queue, replace or fail."),
    option("--retry N", "Try again up to N times if it fails (default 0)."),
    option("--backoff D", "Wait D before the first retry, then twice as long (default 1s)."),
    option("--timeout D", "End each try after D (exit 124)."),
    option("--env NAME...", "Give it this variable, or NAME=TEXT; may be repeated."),
    option("--wait", "Pass its output through (the default off a terminal)."),
    option("--follow", "The same, and say its id and retries (the default on a terminal)."),
    option("--detach", "Print the run's id, and do not wait."),
)
_HEARTBEAT_OPTIONS: Final = (
    option("--heartbeat D", "End a try that gives no sign of life for D (exit 124)."),
    option("--output-beats", "What it prints is a sign of life too."),
)
SH: Final = command(
    "sh",
    "programs:sh",
    "Run a script as a shell job, without a project.",
    argument("FILE...", "The script, and its arguments."),
    *_PROGRAM_OPTIONS,
)
_PROGRAM_COMMANDS: Final = (
    command(
        "exec",
        "programs:exec_",
        "Run a program durably, and exit with its status.",
        argument("COMMAND...", "The program and its arguments, after --."),
        *_PROGRAM_OPTIONS,
        *_HEARTBEAT_OPTIONS,
    ),
    SH,
    command(
        "step",
        "script:step",
        "In a shell job: run a program, unless it is on record.",
        argument("NAME", "The name of the step."),
        argument("COMMAND...", "The program and its arguments, after --."),
        option("--retry N", "Try again up to N times if it fails (default 0)."),
        option("--backoff D", "Wait D before the first retry, then twice as long (default 1s)."),
        option("--timeout D", "End each try after D (exit 124)."),
        *_HEARTBEAT_OPTIONS,
    ),
    command(
        "checkpoint",
        "step_program:checkpoint",
        "In the program of a step: record how far it has come.",
        argument("[VALUE]", "JSON, or text; without it, print the last one.", name="value"),
        option("--flush", "Record it now, however many have come just before it."),
        option("--raw", "Print text without JSON quotes."),
    ),
    command(
        "heartbeat",
        "step_program:heartbeat",
        "In the program of a step: say that it is alive.",
    ),
    command(
        "sleep",
        "script:sleep",
        "In a shell job: wait durably.",
        argument("NAME", "The name of the wait."),
        argument("D", "How long, such as 30s or 2h.", name="duration"),
    ),
    command(
        "wait-event",
        "script:wait_event",
        "In a shell job: wait durably for an event.",
        argument("EVENT", "The name of the event."),
        option("--correlation-key K", "Only an event with correlation key K."),
        option("--timeout D", "Wait at most D (default: for ever)."),
        option("--on-timeout WHAT", "Then fail (the default), continue, or cancel the run."),
        option("--name NAME", "The name of the wait (default: the event's)."),
    ),
)

_KEY: Final = argument("KEY", "The name of a setting, such as workers.slots.")
_OTHER_COMMANDS: Final = (
    command(
        "dev",
        "dev:dev",
        "Run the daemon here: load what is saved, and show every run.",
    ),
    command(
        "top",
        "top:top",
        "Show on one live screen what is going on.",
        option("--once", "Print one frame and exit; with --json, an object."),
    ),
    command(
        "init",
        "project:init",
        "Create a project.",
        argument("[DIR]", "The directory (default: the current one).", name="directory"),
    ),
    command(
        "doctor",
        "doctor:doctor",
        "Look for what keeps jobs from running.",
        argument("[COMMAND...]", "With --cron: the command to try, after --."),
        option("--cron", "Run COMMAND as cron would, and print the crontab line for it."),
    ),
    command("config get", "config:get", "Print a setting.", _KEY),
    command(
        "config set",
        "config:set_",
        "Change a setting.",
        _KEY,
        argument("VALUE", "The value as written in TOML, or text."),
    ),
    command("config unset", "config:unset", "Remove a setting, so that its default holds.", _KEY),
    command(
        "config path",
        "config:path",
        "Print the path of the project's settings file.",
        option("--user", "The user's settings file instead."),
    ),
    command(
        "config show",
        "config:show",
        "Print all settings in force, and the variables of jobs.",
        option("--origin", "Also show where each value comes from."),
    ),
    command(
        "config trust",
        "trust:trust",
        "Use the project in DIR although other users can change it.",
        argument("[DIR]", "The directory of the project.", name="directory"),
        option("--list", "Print the trusted directories instead."),
        option("--remove", "Trust the directory no longer."),
    ),
    command(
        "completion",
        "help:completion",
        "Print a shell completion script.",
        argument("SHELL", "bash, zsh or fish."),
    ),
    command(
        "help",
        "help:help_",
        "Show help on a command or a topic.",
        argument("[TOPIC...]", "A command or a topic."),
    ),
)

COMMANDS: Final = (
    START,
    *_RUN_COMMANDS,
    *_DEAD_COMMANDS,
    *_PROGRAM_COMMANDS,
    *_JOB_COMMANDS,
    *_QUEUE_COMMANDS,
    *_SCHEDULE_COMMANDS,
    *_CRONTAB_COMMANDS,
    *_STATE_COMMANDS,
    *_EVENT_COMMANDS,
    *_DAEMON_COMMANDS,
    *_BOOT_COMMANDS,
    *_NOTIFY_COMMANDS,
    *_HOST_COMMANDS,
    *_CLUSTER_COMMANDS,
    *_WORKER_COMMANDS,
    *_JOURNAL_COMMANDS,
    *_OTHER_COMMANDS,
)

GROUPS: Final = {
    "runs": "List, inspect, follow, cancel and retry runs.",
    "dead": "Retry or discard runs that failed for good.",
    "jobs": "List, show and check the project's jobs.",
    "queues": "Inspect, pause and limit queues.",
    "schedules": "Add, inspect, pause and trigger schedules.",
    "crontab": "Make schedules of a crontab.",
    "state": "Read and write durable values, counters and locks.",
    "event": "Send, list and follow events.",
    "daemon": "Start, stop and inspect the background daemon.",
    "notify": "List and test who is told of failures.",
    "hosts": "List and check the other machines on which workers run.",
    "cluster": "Show and move the lead among daemons on several machines.",
    "worker": "Lend workers of this machine to a daemon on another one.",
    "journal": "Verify, print, back up and repair the journal.",
    "config": "Read and change settings.",
}
ALIASES: Final = {
    "run": "runs",
    "job": "jobs",
    "queue": "queues",
    "schedule": "schedules",
    "host": "hosts",
    "workers": "worker",
    "journals": "journal",
    "daemons": "daemon",
    "states": "state",
    "events": "event",
}
"""Singular and plural both work; the other one is the documented spelling."""
