"""The texts of `stackshift help TOPIC`. The first line of each is its title."""

from __future__ import annotations

from typing import Final

TOPICS: Final = {
    "runs": """\
How to name a run, and what its statuses mean

  run_01kan5c8...   its id
  7k2m9q            the end of its id: at least 4 characters, unique among all runs
  @last             the newest run that no other run started
  @failed           the newest failed run that no other run started

  scheduled   not due yet
  queued      waits for a slot
  running     is being executed
  waiting     sleeps, or waits for an event, a lock or a child run; uses no slot
  retrying    waits before it is tried again
  completed   succeeded; its result is kept
  failed      failed for good; in the dead letter
  cancelled   by a person, or with its parent

To see why a run is not progressing: stackshift runs why RUN

To retry runs that failed for good: stackshift dead retry
""",
    "payload": """\
How to pass a payload

  -p '{"imageId": "img_123"}'     JSON; quote it for the shell
  -p @order.json                  from a file
  -p -                            from standard input
  -F name=World                   a field whose value is text
  -F count:=3 -F tags:='["a"]'    fields whose values are JSON
  -F text="$(cat note.txt)"       a field whose value is the text of a file
  -F token:='{"$env": "TOKEN"}'   a secret, by the variable or "$file" that the worker reads

-F may be repeated; its fields are added to the object that -p gives. Without -p and -F the payload
is {}.
""",
    "output": """\
What is printed where

Data goes to standard output, everything else to standard error. On a terminal, lists are tables and
runs are drawn as timelines. In a pipe, each entry is one line of tab-separated columns, without a
header, and nothing is cut off:

  runs list             id status job queue attempt created_at duration_ms
  runs show, runs tail  seq at kind run attempt step detail
  runs wait             id status
  runs logs             at attempt step stream message
  jobs list             name queue max_attempts timeout_ms module code cron
  schedules list        name schedule timezone next_at last_at paused retired
                        catch_up overlap last_run job last_status skipped source
  schedules next        at name local job tick
  schedules lint        name code message
  schedules backfill    tick id state
  state list            key version value updated_at expires_at
  state locks           key holder since expires_at waiting token
  state history         seq at kind version value expires_at by
  event list            id name correlation_key received_at kept_until
  event tail            as runs tail; wait.ended names the run that consumed a kept event

Later versions may add columns at the end of a line. --json prints one object, an array for lists,
or one object per line for tail and logs. Times are RFC 3339 in UTC; durations are whole numbers in
fields ending in _ms. Control and bidi characters in names, payloads and errors are escaped.
""",
    "exit": """\
Exit statuses

    0  done
    1  the run failed (--wait, --follow, runs wait, runs tail RUN)
    2  usage error
    3  no daemon is running, or it did not start
    4  not found
    5  conflict: idempotency key, version, lock held; or the lock was lost (state lock -- COMMAND)
    6  payload refused
    7  the run was cancelled
   70  internal error
   74  standard output cannot be written; what was done is on standard error
   75  temporarily refused (limits, disk full): try again
   78  bad configuration, or a job module that does not import
  124  --timeout passed; the run continues; or state get --wait passed without an entry
  130  detached by Ctrl-C, or by a reader that closed standard output; the run continues

Standard error that cannot be written changes no status. A reader that closes standard output
(| head) ends a command quietly with 0, but start --batch, if lines were not started, with 74.

state lock KEY -- COMMAND exits with the status of COMMAND: 126 or 127 if it cannot be run, 128 + n
if it was ended by signal n.
""",
    "locks": """\
How scripts share state and exclude each other

  stackshift state increment sent --by 3            a counter: prints the new number; --by -2
  stackshift state set cursor '"2026-05-06"'        JSON; anything else is stored as text: @me
  stackshift state set offset -5                    a number; a single - means standard input
  stackshift state get cursor --raw --default none  without --default: exit 4 if there is none
  stackshift state set leader "$HOSTNAME" --if-absent --ttl 1m    exit 5 if there is one

  stackshift state lock import --wait 10m -- ./import.sh

This holds the lock while ./import.sh runs and releases it when the command ends, however it ends.
If another process or run holds the lock, nothing is run and the exit status is 5, at once or after
--wait. The lock is renewed while the command runs, also across restarts of the daemon; a daemon
that was killed is started again at once. If the lock is lost all the same, the command is sent
TERM, and KILL 10 seconds later, and the exit status is 5. While the command is stopped (Ctrl-Z),
the lock is not renewed. STACKSHIFT_LOCK_TOKEN grows with every holder: a system that the command
writes to can refuse tokens lower than one it has seen.

By hand: token=$(stackshift state lock KEY --ttl 30s) acquires a lock, state lock KEY --token $token
--ttl 30s extends it, and state unlock KEY --token $token releases it. A lock that is not released
expires after its --ttl.
""",
    "environment": """\
Environment variables

  STACKSHIFT_PROJECT    the project, unless -C is given
  STACKSHIFT_DATA_DIR   the project's data directory (default: .stackshift)
  STACKSHIFT_JOURNAL_URL   the database that has the journal (default: none, files alone)
  STACKSHIFT_NO_START   1: never start the daemon, like --no-start
  NO_COLOR              no colour; CLICOLOR_FORCE=1: colour even if TERM is dumb
  STACKSHIFT_LOCK_KEY, STACKSHIFT_LOCK_TOKEN   set for the command of state lock -- COMMAND
  LC_ALL, LC_CTYPE, LANG   timelines are drawn in ASCII unless these say UTF-8

Jobs do not inherit these: what they find around them does not depend on who started the daemon.
PATH is that of [workers] path; other variables are in [project] env_file, or named in [workers]
inherit_env. stackshift config show prints all of them, as environment.NAME.
""",
    "cron": """\
How to start runs from cron

  0 3 * * * stackshift -C /srv/shop start tax --idempotency-key tax:$(date +\\%F)

The daemon is found without any environment variables, so cron reaches the one that is running, or
starts it. With an idempotency key, a line that runs twice starts one run. Keys are kept for 30
days, so the key has to contain the date; % ends the command in a crontab, so it is written \\%.

  stackshift doctor --cron -- \\
      'stackshift start tax --idempotency-key tax:$(date +%F)'

This runs a command as cron would (/bin/sh, a short PATH, the home directory) and, if it succeeds,
prints its line for the crontab: with full paths and the project, and with % as \\%. Put the command
in single quotes. Without them, your shell replaces $(date +%F) before cron ever sees it, and the
key would be today's for ever.

The daemon can also start jobs by itself, and commands, without cron:

  @stackshift.job(schedule="*/5 * * * *")                     a job, in its code
  stackshift schedules add x --cron "*/5 * * * *" -- ./x.sh   a command
  stackshift crontab import --dry-run                         all that your crontab has
""",
    "timeline": """\
How to read the picture of a run

  ✓ completed   ✗ failed   ⊘ cancelled   ● running   ◌ waiting   ↻ retrying
  ○ queued, scheduled

  █   work: a function of a step ran
  ▓   a try that failed
  ·   the pause before the next try
  ░   waiting: for a slot, an event, a lock, a child run
  ─   a lock that was held
  ⌇   a long idle time, left out
  │   from here on with other code

Bars are to scale. A long time in which nothing happened is left out and marked: 5s ⌇ 2h ⌇ +2s. A
step has tries, a run has attempts. Below a step are the tries that failed, with the error. Where
the locale is not UTF-8, the signs are + x / * - ~ o and # x . - = ~ |.

  stackshift runs show @last             the picture
  stackshift runs show @last --logs      with what the run printed
  stackshift runs tail @last             redrawn until the run ends
  stackshift runs show @last | cat       in a pipe: a line per record
""",
    "durations": """\
How to write a duration

  250ms  10s  5m  24h  7d  2w    a number and a unit
  1h30m                          a sum
  90                             a number is seconds
  1.5h                           fractions are fine

A duration is at least 0 and at most 10 years. It is what --delay, --ttl, --timeout, --wait and
--since take, and in stackshift.toml a text: grace = "10s". Rates are a number per time: 100/m,
5/10s. In JSON, fields that end in _ms are whole milliseconds.
""",
    "times": """\
How to write a time

  2026-05-06T09:00:00Z            in UTC
  2026-05-06T09:00:00+02:00       with an offset
  2026-05-06T09:00                local time, and standard error says what was understood
  2026-05-06                      midnight, local time

That is RFC 3339. --at takes a time; --since takes a time or a duration ago. In JSON and in lists in
a pipe, times are in UTC and end in Z. TZ=Europe/Berlin stackshift ... uses another local time.
""",
    "retries": """\
What is retried, when, and by whom

A step that raises an error fails its attempt. The next attempt answers the steps that are recorded
and runs only the failed one again. After max_attempts the run has failed for good: it is in the
dead letter, and waits for a person.

  @stackshift.job("charge", retry=Retry(max_attempts=5, backoff="2s"))    for a job
  ctx.step.run("charge", charge, retry=Retry(max_attempts=3))              for a step
  [retry] max_attempts, backoff, factor, max_backoff, jitter, on, not_on   for a project
  stackshift start charge --max-attempts 1                                 for a run

The pause grows by factor from backoff to max_backoff, and varies by jitter. Retry(on=OSError)
retries nothing else, Retry(not_on=KeyError) all but that. raise NonRetryable ends the run at once,
raise RetryAfter("10m") sets the pause, with counts=False it uses up no attempt, and raise CancelRun
ends the run as cancelled.

By hand: stackshift runs retry RUN goes on after the last recorded step, --from S repeats from S,
and stackshift dead retry --all --job J takes all that have failed.
""",
    "schedules": """\
How jobs start by themselves

  @stackshift.job("nightly", schedule="15 3 * * *", timezone="Europe/Berlin")

  15 3 * * *     minute, hour, day of month, month, day of week, as in a crontab
  */10 * * * *   every ten minutes; 0 9 * * 1-5: at nine from Monday to Friday
  @hourly @daily @weekly @monthly @yearly @every 30m @reboot

catch_up = "once" (default), "skip" or "all": the ticks that were missed while the daemon was down;
catch_up_for = "6h": only those that are not older. overlap = "skip" (default), "allow", "queue" or
"cancel": a tick while the last run is unfinished. jitter = "5m": each run starts up to that later.
schedules={"weekend": "0 11 * * 0,6"}: several of one job. One tick starts one run, whatever
crashes. Where a change of the clock skips a time or has it twice, the job
runs once.

  stackshift schedules list             what there is, and when it starts next
  stackshift schedules next nightly     the next ticks
  stackshift schedules trigger nightly  now
  stackshift schedules add backup --cron "0 2 * * *" -- ./backup.sh
                                        a command, without any code
  stackshift schedules lint             what may surprise
  stackshift daemon install             start the daemon when the machine boots
""",
    "config": """\
Where settings are

stackshift.toml in the project's directory; it may be empty. man stackshift.toml explains each
setting.

  stackshift config show --origin              all that are in force, and where each is from
  stackshift config get workers.slots          one
  stackshift config set queues.media.rate 100/m
  stackshift config path                       the file

An option wins over the environment, that over stackshift.toml, that over your own settings
(default_project, color, output: stackshift config path --user), and those over the default. The
daemon reads stackshift.toml when it starts: stackshift daemon restart.
""",
    "selectors": """\
How to choose runs

  stackshift runs list --status failed --since 1d     status: see stackshift help runs
  stackshift runs list --job sync --queue media       of a job, in a queue
  stackshift runs list --label team=shop              with a label (start --label team=shop)
  stackshift runs list --dead                         in the dead letter
  stackshift runs list --limit 10 --cursor RUN        the next ten after RUN

All that are given have to hold. --since is a duration ago or a time. For programs:

  stackshift runs list --json | jq -r '.[] | select(.attempt > 1) | .id'
  stackshift runs list --status waiting | cut -f1     the first column is the id

One run is named by its id, the end of its id, @last or @failed: see stackshift help runs.
""",
}
"""By the word that is typed. Singular and plural both work."""
