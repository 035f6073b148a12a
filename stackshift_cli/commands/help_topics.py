"""The texts of `stackshift help TOPIC`. The first line of each is its title."""

from __future__ import annotations

from typing import Final

TOPICS: Final = {
    "runs": """\
How a run is named, and what its statuses mean

  run_01kan5c8...   its id
  7k2m9q            the end of its id, at least 4 characters, if no other run ends so
  @last             the newest run
  @failed           the run that failed last

  scheduled   not due yet             completed   its result is kept
  queued      waits for a slot        failed      for good, in the dead letter: dead retry
  running     is being executed       cancelled   by a person, or with its parent
  waiting     sleeps, or waits for an event, a lock or a child run; uses nothing
  retrying    waits for its next try

A run that does not go on says why: stackshift runs why RUN
""",
    "payload": """\
How to give a payload

  -p '{"imageId": "img_123"}'     JSON; quote it for the shell
  -p @order.json                  from a file
  -p -                            from standard input
  -F name=World                   a field that is text
  -F count:=3 -F tags:='["a"]'    a field that is JSON

-F may be repeated, and adds to the object that -p gives. Without any, the payload is {}.
""",
    "output": """\
What is printed where

Data is on standard output, all else on standard error. On a terminal lists are tables and runs are
pictures; in a pipe there is one line an entry, tab-separated, nothing cut, no header:

  runs list             id status job queue attempt created_at duration_ms
  runs show, runs tail  seq at kind run attempt step detail
  runs wait             id status
  runs logs             at attempt step stream message
  jobs list             name queue max_attempts timeout_ms module code
  schedules list        job schedule timezone next_at last_at paused retired catch_up overlap
                        last_run
  schedules next        at job local
  state list            key version value updated_at expires_at
  state history         seq at kind version value expires_at by
  event list            id name correlation_key received_at kept_until
  event tail            as runs tail; wait.ended tells who consumed a kept event

Columns are only ever appended. --json prints one object, an array for lists, or one object a line
for tail and logs; times are RFC 3339 in UTC, durations whole numbers in fields ending in _ms.
Control and bidi characters in names, payloads and errors are printed as escapes.
""",
    "exit": """\
Exit statuses

    0  done
    1  the run failed (--wait, --follow, runs wait, runs tail RUN)
    2  usage
    3  no daemon, or it did not start
    4  not found
    5  conflict: idempotency key, version, lock held; the lock was lost (state lock -- COMMAND)
    6  payload refused
    7  the run was cancelled
   70  internal error
   75  temporarily refused (limits, disk full): try again
   78  bad configuration, or a job module that does not import
  124  --timeout passed; the run goes on
  130  detached by Ctrl-C; the run goes on

state lock KEY -- COMMAND ends with the status of COMMAND: 126 or 127 where it cannot be run, and
128 + n where the signal n ended it.
""",
    "locks": """\
How scripts share state, and exclude each other

  stackshift state increment sent --by 3            a counter: prints the new number; --by -2
  stackshift state set cursor '"2026-05-06"'        JSON; what is no JSON is text: @me too
  stackshift state set offset -5                    a number; - alone is standard input
  stackshift state get cursor --raw --default none  exit 4 where there is none
  stackshift state set leader "$HOSTNAME" --if-absent --ttl 1m    exit 5 where there is one

  stackshift state lock import --wait 10m -- ./import.sh

holds the lock while ./import.sh runs and gives it back at its end, whatever that is. Exit 5 and
nothing is run where another holds it, at once or after --wait. It is renewed while the command
runs, over restarts of the daemon; one that was killed is started again at once. Should the lock be
lost all the same, the command gets TERM, 10 seconds later KILL, and the status is 5. While the
command is stopped (Ctrl-Z) the lock is not renewed. STACKSHIFT_LOCK_TOKEN grows with every holder:
what is written to can refuse a lower one than it has seen.

By hand: token=$(stackshift state lock KEY --ttl 30s), extended with state lock KEY --token $token
--ttl 30s, given back with state unlock KEY --token $token. Without that it ends after its --ttl.
""",
    "environment": """\
Variables

  STACKSHIFT_PROJECT    the project, where -C does not say
  STACKSHIFT_DATA_DIR   where its data lies, in place of .stackshift
  STACKSHIFT_NO_START   1: never start the daemon, as --no-start
  NO_COLOR              no colour; CLICOLOR_FORCE=1: colour also where TERM is dumb
  STACKSHIFT_LOCK_KEY, STACKSHIFT_LOCK_TOKEN   given to the command of state lock -- COMMAND
  LC_ALL, LC_CTYPE, LANG   pictures are ASCII where they do not say UTF-8
""",
    "cron": """\
Starting runs from cron

  */5 * * * * stackshift -C /srv/shop start sync --idempotency-key "sync:$(date -u +\\%FT\\%H:\\%M)"

Where the daemon is does not depend on the environment, so cron finds the one that runs, or starts
it. With an idempotency key a line that runs twice starts one run. Keys are kept for 30 days, so the
key has to name the date; % ends the command in a crontab, so it is written \\%.

The daemon can start jobs by itself too: @stackshift.job(schedule="*/5 * * * *"), and then
stackshift schedules list.
""",
}
