#!/bin/sh
# A night's work, as cron starts it:
#
#     15 3 * * *  /srv/shop/cron.sh
#
# It may be started twice, run into itself, or be killed at any moment and started again: the import
# runs once a day, and is told of once. Exit status: 0 done, 75 not done yet (cron's next turn goes
# on), anything else is for a person to look at.
set -eu
cd "$(dirname "$0")"
day=${1:-$(date +%F)}

# One key a day: whoever comes first starts the run, everybody else gets the same one.
run=$(stackshift start import --idempotency-key "import:$day" --label "day=$day")

# Wait for it, but not for ever. The exit status says how it went.
status=0
stackshift runs wait "$run" --timeout "${PATIENCE:-10m}" >/dev/null || status=$?
case $status in
0) ;;
124)
    echo "the import of $day is still under way: $(stackshift runs why "$run")" >&2
    exit 75
    ;;
*)
    # The run is in the dead letter, with its steps on record. `stackshift runs retry` goes on
    # from there; so would a person.
    echo "the import of $day did not go well: $(stackshift runs why "$run")" >&2
    exit "$status"
    ;;
esac

# What it found. State is JSON, and an absent key is an error but for a default.
rows=$(stackshift state get import:data/customers.csv:rows --default 0)

# Two of these scripts at once write one report, one after the other.
stackshift state lock "report:$day" --ttl 30s --wait 1m -- sh -c '
    mkdir -p out
    printf "%s\t%s rows read in all\n" "$1" "$2" >"out/report-$1.txt"
' report "$day" "$rows"

# Told once: with the same key and payload it is the same event.
stackshift event send import.finished --correlation-key "day:$day" \
    --idempotency-key "import.finished:$day" -p "{\"run\": \"$run\"}" >/dev/null
echo "imported: $(cat "out/report-$day.txt")"
