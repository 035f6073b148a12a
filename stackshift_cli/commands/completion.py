"""Completion of words on the command line: the candidates, and the scripts that ask for them.

The scripts call `stackshift __complete WORD...` with the words typed so far, the one being typed
last. It prints the candidates, one per line, from the table of commands. Names of jobs and keys of
state come from the daemon if one is running; completion never starts it and prints no errors.
"""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.spec import GLOBALS, Command, Option
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_jobs.errors import StackshiftError

WORD: Final = "__complete"
_ANSWER_SECONDS: Final = 1.0
_MOST_KEYS: Final = 100
_VALUES: Final = {
    "color": "auto always never",
    "status": "scheduled queued running waiting retrying completed failed cancelled",
    "shell": "bash zsh fish",
}
"""The values of parameters that have few."""


def complete(words: list[str]) -> int:
    """Print the candidates for the last of `words`; 0."""
    for candidate in candidates(words):
        messages.data(candidate)
    return 0


def candidates(words: list[str]) -> list[str]:
    """The candidates for the last of `words`, given the words before it, sorted."""
    *before, typed = words or [""]
    command, rest = _command(before)
    options = (*GLOBALS, *(command.parameters if command else ()))
    valued = _awaiting_value(before, options)
    if valued is not None:
        offered = _values(valued)
    elif typed.startswith("-"):
        offered = [f for p in options if isinstance(p, Option) for f in p.flags if f[:2] == "--"]
        offered.append("--help")
    elif command is None:
        offered = _next_words(rest)
    elif command.path[0] == "state" and "--" not in before:
        offered = _keys(typed)
    else:
        offered = _arguments(command)
    return sorted(word for word in offered if word.startswith(typed))


def _words(before: list[str]) -> list[str]:
    """`before` without global options and their values."""
    flags = {flag: option for option in GLOBALS for flag in option.flags}
    kept: list[str] = []
    skip = False
    for word in before:
        if skip:
            skip = False
        elif word in flags:
            skip = bool(flags[word].metavar)
        elif not word.startswith("-") or kept:
            kept.append(word)
    return kept


def _command(before: list[str]) -> tuple[Command | None, list[str]]:
    words = _words(before)
    words = [ALIASES.get(words[0], words[0]), *words[1:]] if words else []
    for command in COMMANDS:
        if tuple(words[: len(command.path)]) == command.path:
            return command, words
    return None, words


def _awaiting_value(before: list[str], options: tuple[object, ...]) -> Option | None:
    """The option whose value comes next, if the last word is one that takes a value."""
    last = before[-1] if before else ""
    for option in options:
        if isinstance(option, Option) and option.metavar and last in option.flags:
            return option
    return None


def _next_words(words: list[str]) -> list[str]:
    if not words:
        return [*GROUPS, *(c.path[0] for c in COMMANDS if len(c.path) == 1)]
    return [c.path[1] for c in COMMANDS if len(c.path) == 2 and [c.path[0]] == words]


def _values(option: Option) -> list[str]:
    return _jobs() if option.name == "job" else _choices(option.name)


def _arguments(command: Command) -> list[str]:
    names = {p.name for p in command.parameters if not isinstance(p, Option)}
    if "job" in names:
        return _jobs()
    if names & {"run", "runs"}:
        return ["@last", "@failed"]
    if "topic" in names:
        from stackshift_cli.commands.help_topics import TOPICS

        return [*TOPICS, *GROUPS]
    return [value for name in names for value in _choices(name)]


def _choices(name: str) -> list[str]:
    return _VALUES.get(name, "").split()


def _jobs() -> list[str]:
    """The names of the project's jobs."""
    return [safe(str(job["name"])) for job in _ask("job.list", {}).get("jobs", ())]


def _keys(typed: str) -> list[str]:
    """Keys of state that begin with `typed`, except those that a terminal would show escaped: the
    shell would insert the escapes."""
    reply = _ask("state.list", {"prefix": typed, "limit": _MOST_KEYS})
    keys = [str(entry["key"]) for entry in reply.get("entries", ())]
    return [key for key in keys if safe(key) == key]


def _ask(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """The daemon's answer; empty if no daemon is running or it does not answer at once."""
    from stackshift_cli.daemon.connection import Connection
    from stackshift_jobs.project.locate import find_project

    try:
        with Connection.open(
            find_project().data_dir, connect_timeout=_ANSWER_SECONDS
        ) as connection:
            return dict(connection.call(method, params, _ANSWER_SECONDS))
    except (StackshiftError, OSError, TimeoutError):
        return {}


SCRIPTS: Final = {
    "bash": """
_stackshift() {
    local IFS=$'\\n'
    COMPREPLY=($(stackshift __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _stackshift stackshift
""",
    "zsh": """
#compdef stackshift
_stackshift() {
    local -a found
    found=("${(@f)$(stackshift __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "${found[1]}" ]]; then compadd -a found; else _files; fi
}
compdef _stackshift stackshift
""",
    "fish": """
function __stackshift_complete
    set -l words (commandline -opc) (commandline -ct)
    stackshift __complete $words[2..-1] 2>/dev/null
end
complete -c stackshift -a '(__stackshift_complete)'
""",
}
"""By shell. Without candidates the shell offers files, which suits the values of most options."""
