"""The lines of a crontab: entries, the environment that is in force at each, and comments.

Pure: text in, values out. The forms are those of `crontab -l`, and of `/etc/crontab` and
`/etc/cron.d`, whose entries name a user. As in cron, an environment line holds for the entries
below it, `%` ends the command and begins what it reads, and `#` begins a comment only at the
beginning of a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from stackshift_cli.crontab.fields import NICKNAMES, refusal

_VARIABLE: Final = re.compile(r"""[ \t]*("[^"]*"|'[^']*'|[^ \t=]+)[ \t]*=[ \t]*(.*?)[ \t]*""")
_ENTRY: Final = re.compile(r"[ \t]*-?(@\S+|\S+(?:[ \t]+\S+){4})(?:[ \t]+(.*))?")
_WORD: Final = re.compile(r"(\S+)(?:[ \t]+(.*))?")
_ESCAPED: Final = re.compile(r"\\(.)|%")
_NO_USER: Final = "it has no user and command"
_PERCENT: Final = re.compile(r"\\%|%")


class CronEntry(NamedTuple):
    """An entry: the number of its line, when it ticks, whose it is (empty: the crontab's owner's),
    what the shell runs, what that reads (None: nothing), the variables in force, and the comments
    above it."""

    line: int
    schedule: str
    user: str
    command: str
    stdin: str | None
    variables: Mapping[str, str]
    note: str


class LeftOut(NamedTuple):
    """A line that is no entry, and why."""

    line: int
    text: str
    why: str


def parse(text: str, *, names_users: bool) -> Iterator[CronEntry | LeftOut]:
    """The entries of a crontab in order, and what cron would refuse. `names_users`: each entry has
    a user before its command. Comments below the last entry belong to it."""
    variables: dict[str, str] = {}
    comments: list[str] = []
    last: CronEntry | None = None
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip(" \t")
        if not stripped:
            continue
        if stripped.startswith("#"):
            comments.append(stripped)
            continue
        if (found := _VARIABLE.fullmatch(line)) is not None:
            variables[_unquoted(found[1])] = _unquoted(found[2])
            continue
        if last is not None:
            yield last
            last = None
        made = _entry(number, line, names_users, variables, "\n".join(comments))
        if isinstance(made, LeftOut):
            yield made
            continue
        last = made
        comments = []
    if last is not None:
        yield last._replace(note="\n".join(filter(None, (last.note, *comments))))


def may_name_users(text: str, users: frozenset[str]) -> bool:
    """Has each entry of a crontab the name of one of `users` where `/etc/crontab` has it?"""
    named: list[str] = []
    for each in parse(text, names_users=True):
        if isinstance(each, CronEntry):
            named.append(each.user)
        elif each.why == _NO_USER:
            return False
    return bool(named) and all(user in users for user in named)


def _entry(
    number: int, line: str, names_users: bool, variables: Mapping[str, str], note: str
) -> CronEntry | LeftOut:
    text = line.strip(" \t")
    found = _ENTRY.fullmatch(line)
    if found is None:
        return LeftOut(number, text, "it has no five fields and a command")
    when, rest = found[1], found[2] or ""
    if when.startswith("@"):
        schedule = when.lower()
        if schedule not in NICKNAMES:
            return LeftOut(number, text, f"cron does not know {when}")
    else:
        fields = when.split()
        if why := refusal(fields):
            return LeftOut(number, text, f"cron would refuse it: {why}")
        schedule = " ".join(fields)
    user = ""
    if names_users:
        word = _WORD.fullmatch(rest)
        user, rest = (word[1], word[2] or "") if word is not None else ("", "")
    if not rest.strip():
        return LeftOut(number, text, _NO_USER if names_users else "it has no command")
    command, stdin = percent(rest)
    return CronEntry(number, schedule, user, command, stdin, dict(variables), note)


def percent(text: str) -> tuple[str, str | None]:
    """The command of an entry, up to the first `%` that no backslash stands before, and what it
    reads: the rest, in which `%` is the end of a line; None if there is no `%`. `\\%` is `%`."""
    first = next((found for found in _ESCAPED.finditer(text) if found[0] == "%"), None)
    command = text if first is None else text[: first.start()]
    command = _ESCAPED.sub(lambda found: "%" if found[1] == "%" else found[0], command)
    if first is None:
        return command, None
    stdin = _PERCENT.sub(lambda found: "\n" if found[0] == "%" else "%", text[first.end() :])
    return command, stdin if stdin.endswith("\n") or not stdin else f"{stdin}\n"


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return text
