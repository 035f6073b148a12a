#!/bin/sh
# Backs up the data and the pictures: packs them, compares the pack with them, and keeps the newest
# three packs in out/backups.
#
# stackshift: job nightlyBackup
# stackshift: schedule 15 3 * * *  timezone Europe/Berlin
# stackshift: retry 3  backoff 10s  timeout 30m  unique nightlyBackup
# stackshift: expect "daily by 04:00"  max_runtime 20m
set -eu

# On record, so that a later pass means the same file.
name=$(stackshift step name -- date -u +%Y-%m-%dT%H%M%SZ)
backups=out/backups pack=out/backups/$name.tar.gz

# A step may run twice if it was cut off in the middle, so each can: it writes beside, and renames.
stackshift step pack -- sh -c 'mkdir -p "$1" && tar -chzf "$2.part" data pictures' - $backups "$pack"

stackshift step verify -- sh -eu -c '
    rm -rf "$1.unpacked" && mkdir "$1.unpacked"
    tar -xzf "$1.part" -C "$1.unpacked"
    for folder in data pictures; do diff -r "$folder" "$1.unpacked/$folder"; done
    rm -rf "$1.unpacked"
' - "$pack"

stackshift step keep -- sh -c '[ -e "$1" ] || mv "$1.part" "$1"' - "$pack"

stackshift step rotate -- sh -c '
    ls -1 "$1" | grep "Z.tar.gz$" | sort -r | tail -n +4 | while read -r old; do
        rm -f "$1/$old" && echo "removed $old"
    done
' - $backups

bytes=$(stackshift step size -- sh -c 'wc -c < "$1" | tr -d " "' - "$pack")
stackshift state set backup:newest "{\"file\": \"$pack\", \"bytes\": $bytes}" > /dev/null
stackshift event send backup.made -F file="$pack" > /dev/null
echo "$pack: $bytes bytes"
