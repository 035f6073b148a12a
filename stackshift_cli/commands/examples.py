"""Examples for each command: what `COMMAND --help` and the man pages end with.

Every command has one or two, and a test reads each with the real parser, so that none is out of
date. An example is a line for a shell; `→` separates it from what it is for.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Example(NamedTuple):
    """A command line, and what it is for."""

    line: str
    purpose: str


def _examples(text: str) -> tuple[Example, ...]:
    rows = [line.partition(" → ") for line in text.strip().splitlines()]
    return tuple(Example(line.strip(), purpose.strip()) for line, _, purpose in rows)


_TABLE: Final = {
    "start": """
stackshift start hello -F name=World --wait → wait, and print the result
stackshift start report -p @report.json --idempotency-key "report:$(date +%F)" → once a day
""",
    "exec": """
stackshift exec --retry 3 -- pg_dump -Fc shop -f shop.dump → here, and again if it fails
stackshift exec --idempotency-key "backup:$(date +%F)" --detach -- ./backup.sh → once a day
""",
    "sh": """
stackshift sh --retry 3 ./deploy.sh staging → with steps, waits and state, and no project
""",
    "step": """
stackshift step dump -- pg_dump -Fc shop -f shop.dump → only if it is not on record
n=$(stackshift step count --timeout 1m -- wc -l orders.csv) → its output, now and ever after
""",
    "checkpoint": """
stackshift checkpoint "$row" → where the next try begins, if this one fails
row=$(stackshift checkpoint || echo 0) → where an earlier try was, or 0
""",
    "heartbeat": """
stackshift heartbeat → for a step or exec with --heartbeat
""",
    "sleep": """
stackshift sleep before-retry 10m → the script is ended meanwhile, and run again
""",
    "wait-event": """
stackshift wait-event approved --correlation-key "run:$STACKSHIFT_RUN" --timeout 4h → or fail
""",
    "runs list": """
stackshift runs list --status failed --since 1d → what failed since yesterday
stackshift runs list --job sync --json --limit 1 | jq '.[0].status' → the newest run of a job
""",
    "runs show": """
stackshift runs show @last → the newest run
stackshift runs show 7k2m9q --logs → with what it printed; the end of an id is enough
""",
    "runs why": """
stackshift runs why @last → one sentence: what it waits for
""",
    "runs tail": """
stackshift runs tail @last → until the run ends
stackshift runs tail --since 10m --json | jq -r .kind → everything, for a program
""",
    "runs wait": """
stackshift runs wait "$A" "$B" --timeout 10m → until both have ended
stackshift runs wait @last && ./publish.sh → only if it has completed
""",
    "runs logs": """
stackshift runs logs @failed → what the last failed run printed
stackshift runs logs 7k2m9q -f --step import → one step, as it comes
""",
    "runs cancel": """
stackshift runs cancel 7k2m9q 4p8x3v → two runs
stackshift runs cancel 7k2m9q --gently --grace 2m → its handler is told, and cleans up
stackshift runs cancel --all --job import --status scheduled → all that match, after confirmation
""",
    "runs count": """
stackshift runs count --since 1d --by status → how many of each
""",
    "runs move": """
stackshift runs move 7k2m9q --now → do not wait for its time, or its backoff
stackshift runs move 7k2m9q --at 2026-05-06T09:00:00Z --queue night → later, elsewhere
""",
    "runs retry": """
stackshift runs retry @failed → go on after the last recorded step
stackshift runs retry @failed --from charge --dry-run → what would be repeated
""",
    "runs fork": """
stackshift runs fork @last --from publish → a new run with the same first steps
stackshift runs fork 7k2m9q -F size:=256 → with another payload
""",
    "runs replay": """
stackshift runs replay @last --check → what the code on disk would make of it
stackshift runs replay --all --check → of all unfinished runs
""",
    "runs rm": """
stackshift runs rm 7k2m9q --yes → without being asked
""",
    "dead list": """
stackshift dead list --job charge → the runs of one job
""",
    "dead retry": """
stackshift dead retry 7k2m9q → one run
stackshift dead retry --all --job charge --yes → all runs of a job, once it is mended
""",
    "dead discard": """
stackshift dead discard --all --queue trial → the runs of one queue
""",
    "jobs list": """
stackshift jobs list → names, queues, retries
""",
    "jobs show": """
stackshift jobs show resizeAvatar → everything that is known about it
""",
    "jobs check": """
stackshift jobs check && stackshift daemon reload → only if all modules import
""",
    "jobs schema": """
stackshift jobs schema resizeAvatar → for an editor, or for a form
""",
    "queues list": """
stackshift queues list → how much waits, and how much runs
""",
    "queues show": """
stackshift queues show media → where each limit comes from
""",
    "queues pause": """
stackshift queues pause media → what runs goes on, nothing new begins
""",
    "queues resume": """
stackshift queues resume media → until the next pause
""",
    "queues limit": """
stackshift queues limit media --concurrency 2 --rate 100/m → in force at once, and kept
stackshift queues limit media --reset → back to what the settings say
""",
    "queues drain": """
stackshift queues drain media --timeout 5m && ./deploy.sh → when nothing runs any more
""",
    "queues purge": """
stackshift queues purge trial --yes → without being asked
""",
    "schedules list": """
stackshift schedules list → when each job starts next
""",
    "schedules next": """
stackshift schedules next nightly -n 3 → the next three nights
""",
    "schedules pause": """
stackshift schedules pause nightly → no ticks until it is resumed
""",
    "schedules resume": """
stackshift schedules resume nightly → from the next tick on
""",
    "schedules trigger": """
stackshift schedules trigger nightly → now, with the payload of the schedule
""",
    "schedules add": """
stackshift schedules add backup --cron "0 2 * * *" -- ./backup.sh → every night at two, UTC
stackshift schedules add report --job report --cron "0 9 * * 1-5" --timezone Europe/Berlin → a job
stackshift schedules add sync --cron "*/5 * * * *" --jitter 1m -- ./sync.sh → spread over a minute
""",
    "schedules rm": """
stackshift schedules rm backup → its runs stay
""",
    "schedules backfill": """
stackshift schedules backfill report --since 7d --dry-run → the ticks, and which have a run
stackshift schedules backfill report --since 2026-05-01T00:00:00Z → a run for each that has none
""",
    "schedules lint": """
stackshift schedules lint → clock changes, short months, what never ticks
stackshift schedules lint --cron "30 2 31 * *" --timezone Europe/Berlin → before it is added
""",
    "crontab import": """
stackshift crontab import --dry-run → what would become of each line of crontab -l
stackshift crontab import /etc/cron.d/backup → those of its entries that run as you
crontab -l | stackshift crontab import - --overlap skip → and no run beside the last one
""",
    "state get": """
stackshift state get cursor --raw --default none → as text, for a script
stackshift state get import:done --wait 10m && ./report.sh → when somebody has set it
""",
    "state set": """
stackshift state set cursor '"2026-05-06"' → a JSON text
stackshift state set leader "$HOSTNAME" --if-absent --ttl 1m → exit 5 if there is one
""",
    "state delete": """
stackshift state delete cursor --if-version 4 → only if nobody has changed it
""",
    "state increment": """
stackshift state increment sent --by 3 → prints the new number
""",
    "state list": """
stackshift state list orders: → the keys that begin with orders:
""",
    "state history": """
stackshift state history cursor --limit 5 → who has changed it, and when
""",
    "state locks": """
stackshift state locks → who holds which lock, and who waits
""",
    "state lock": """
stackshift state lock import --wait 10m -- ./import.sh → one import at a time
token=$(stackshift state lock import --ttl 30s) → by hand; then state unlock
""",
    "state unlock": """
stackshift state unlock import --token "$token" → the token that state lock has printed
stackshift state unlock import --force → from whoever holds it, after confirmation
""",
    "event send": """
stackshift event send order.paid --correlation-key order:17 -F cents:=4900 → resume who waits for it
""",
    "event list": """
stackshift event list --name order.paid → the ones that no run has consumed
""",
    "event tail": """
stackshift event tail --json | jq -r .event → their names, as they come
""",
    "daemon run": """
stackshift daemon run → for systemd, a container or a terminal
""",
    "daemon start": """
stackshift daemon start → does nothing if it is running
""",
    "daemon stop": """
stackshift daemon stop --drain → when what runs has ended
""",
    "daemon reload": """
stackshift daemon reload → load changed job modules; nothing is interrupted
stackshift daemon reload --strict → not if a run in flight would not go on
""",
    "daemon restart": """
stackshift daemon restart → a new version of StackShift, or new settings; runs go on
""",
    "daemon status": """
stackshift daemon status --json | jq .dead → how many runs have failed for good
""",
    "daemon metrics": """
stackshift daemon metrics > stackshift.prom → for the textfile collector of node_exporter
stackshift daemon metrics | grep queue_oldest → how long has the oldest run of each queue waited?
""",
    "daemon clock": """
stackshift daemon clock → is it ahead of the system clock, and standing still?
stackshift daemon clock --set-back → after the system clock was wrong for a while
""",
    "daemon logs": """
stackshift daemon logs -f → as it is written
""",
    "daemon install": """
stackshift daemon install → a service of systemd or launchd, or a crontab line
stackshift daemon install --print → look at it first
""",
    "daemon uninstall": """
stackshift daemon uninstall → the daemon keeps running until it is stopped
""",
    "journal verify": """
stackshift journal verify → every record, also while the daemon runs
""",
    "journal cat": """
stackshift journal cat | jq -c 'select(.kind == "run.failed")' → as data
""",
    "journal stats": """
stackshift journal stats → how large it is, and what is in it
""",
    "journal compact": """
stackshift journal compact → before a backup, or to free space
""",
    "journal repair": """
stackshift daemon stop && stackshift journal repair → after journal verify has found damage
""",
    "journal backup": """
stackshift journal backup /backup/shop.tar → also while the daemon runs
""",
    "journal restore": """
stackshift journal restore /backup/shop.tar → into a project without a journal
""",
    "journal move": """
stackshift journal move --to postgresql://db-1/shop → into a database, when no daemon runs
stackshift journal move --to files → and back
stackshift journal move --rescue --dry-run → what a restored database has lost and this copy has
""",
    "init": """
stackshift init shop && cd shop → a new directory, with a job to begin with
""",
    "doctor": """
stackshift doctor → when something does not run, and you do not know why
stackshift doctor --cron -- stackshift start nightly → will this crontab line work?
stackshift doctor --cron 'stackshift start a --idempotency-key a:$(date +%F)' → with a date
""",
    "notify list": """
stackshift notify list → who is told of what, and what could not be delivered
""",
    "notify test": """
stackshift notify test phone → does a message arrive? 1 if not, with the reason
""",
    "hosts list": """
stackshift hosts list → which hosts have workers, and what keeps the others from having some
""",
    "hosts check": """
stackshift hosts check → does a worker come up on every host? 78 if not
stackshift hosts check gpu-1 -v → with all that ssh and the host say
""",
    "cluster status": """
stackshift cluster status → who leads, who follows and how far behind, whose clock is wrong
""",
    "cluster handover": """
stackshift cluster handover → before this machine is taken down, or upgraded
stackshift cluster handover app-2 → to this one
""",
    "cluster forget": """
stackshift cluster forget app-3 → a machine that will not come back
""",
    "daemon dial": """
ssh app-1 stackshift -C /srv/shop daemon dial → the far end of -C ssh://app-1/srv/shop
""",
    "worker join": """
stackshift worker join → in a container that has the project: more workers for whoever leads
stackshift worker join --queue gpu --processes 1 --slots 1 → on a machine that the queue needs
""",
    "config get": """
stackshift config get workers.slots → the value in force
""",
    "config trust": """
stackshift config trust /srv/shop → use a project that other users can change
stackshift config trust --list → which ones that are
""",
    "config set": """
stackshift config set queues.media.rate 100/m → in stackshift.toml, whose comments are kept
stackshift config set default_project /srv/shop → for you, in all directories
""",
    "config unset": """
stackshift config unset queues.media.rate → no limit again; the rest of the file is kept
""",
    "config path": """
$EDITOR "$(stackshift config path)" → edit it
""",
    "config show": """
stackshift config show --origin → which file or variable each value comes from
""",
    "completion": """
eval "$(stackshift completion bash)" → in ~/.bashrc
eval "$(stackshift completion zsh)" → in ~/.zshrc, after compinit
stackshift completion fish > ~/.config/fish/completions/stackshift.fish → once
""",
    "dev": """
stackshift dev → until q; then start jobs in another terminal
stackshift dev --json | jq 'select(.kind == "run.failed")' → for a program
""",
    "top": """
stackshift top → until q; enter opens a run, c cancels it, r retries it
stackshift top --once → one picture of it, as for a script
""",
    "help": """
stackshift help schedules → a topic
stackshift help runs retry → a command
""",
}
EXAMPLES: Final = {tuple(path.split()): _examples(text) for path, text in _TABLE.items()}
"""By the path of the command."""
