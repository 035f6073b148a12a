"""Completion of words on the command line: candidates, in the form each shell reads.

`stackshift __complete SHELL WORD...` gets the words typed so far, the one being typed last, and
prints a candidate a line: its text, and after a tab what it is. Where the shell should offer files
it prints nothing and exits 10, or 11 where they follow an `@`. bash hands over the line instead of
words, because it splits words at `:`, `=` and `@`, see `completion_line`; and how it was asked: if
it only lists what there is, and inserts nothing, it is told what each is, too.

Names come from the daemon if one is running (`completion_names`); completion never starts it and
prints no errors. Every key press waits for this: it must not import what costs time.
"""

from __future__ import annotations

from typing import Final

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.completion_line import (
    Candidate,
    Candidates,
    Typed,
    bash_word,
    bash_words,
    read,
)
from stackshift_cli.commands.spec import GLOBALS, Argument, Command, Option, Parameter
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe

WORD: Final = "__complete"
FILES: Final = 10
"""The exit status that asks the shell to offer files."""
AT_FILES: Final = 11
"""The same, of files whose names follow an `@`."""
_LISTS: Final = "63"
"""`COMP_TYPE` where bash shows all candidates and inserts none: a `?`."""
_MOST_ABOUT: Final = 50
"""Characters of what a candidate is, so that a line of a list has room for both."""
_CHOICES: Final = {
    "color": "auto always never",
    "status": "scheduled queued running waiting retrying completed failed cancelled",
    "shell": "bash zsh fish",
    "by": "status job queue",
    "catch_up": "skip once all",
    "format": "user system",
    "if_running": "skip queue replace fail",
    "on_duplicate": "refuse attach replace queue",
    "on_timeout": "fail continue cancel",
    "overlap": "allow skip queue cancel",
}
"""The values of parameters that have few, by their names."""
_PAYLOADS: Final = [Candidate("@", "a file, behind it"), Candidate("-", "standard input")]
_FILE_METAVARS: Final = frozenset(("FILE", "DIR", "F", "FILE|-"))


def complete(words: list[str]) -> int:
    """Print the candidates for `words`, of which the first is the shell; the exit status."""
    shell, *rest = words or ["bash"]
    if shell == "bash":
        line, current, how = [*rest, "", "", ""][:3]
        rest, before = bash_words(line, current)
    found = candidates(rest)
    if found is None:
        return AT_FILES if _is_payload(rest) else FILES
    for candidate in found:
        if shell == "bash":
            word = bash_word(candidate.text, before, current)
            # A single one may be inserted after all.
            if how == _LISTS and len(found) > 1 and (about := safe(candidate.about)):
                word += f"  ({about if len(about) <= _MOST_ABOUT else about[:_MOST_ABOUT] + '...'})"
            messages.data(word)
        else:
            messages.data(f"{candidate.text}\t{safe(candidate.about)}".rstrip("\t"))
    return 0


def candidates(words: list[str]) -> Candidates | None:
    """The candidates for the last of `words`, sorted; None if files are to be offered."""
    typed = read(words or [""])
    if typed.option is None and typed.word.startswith("--") and "=" in typed.word:
        return _attached(words)
    if typed.option is None and typed.word.startswith("-"):
        return _matching(_options(typed.command), typed.word)
    if typed.option is None and typed.command is None:
        return _matching(_next_words(typed.words), typed.word)
    wanted: Parameter | None = typed.option or _argument(typed)
    if wanted is None:
        return []
    if wanted.metavar.strip("[]") in _FILE_METAVARS or wanted.name == "command":
        return None
    if wanted.name == "payload":
        return None if typed.word.startswith("@") else _matching(_PAYLOADS, typed.word)
    if wanted.name in _CHOICES:
        before, comma, _ = typed.word.rpartition(",") if wanted.name == "status" else ("", "", "")
        words = [before + comma + word for word in _CHOICES[wanted.name].split()]
        return _matching([Candidate(word) for word in words], typed.word)
    from stackshift_cli.commands.completion_names import names

    found = names(typed, wanted)
    # What a terminal would show escaped is not offered: the shell would insert the escapes.
    return _matching([c for c in found if safe(c.text) == c.text], typed.word)


def _is_payload(words: list[str]) -> bool:
    option = read(words).option
    return words[-1].startswith("--payload=") or (option is not None and option.name == "payload")


def _attached(words: list[str]) -> Candidates | None:
    """The candidates for `--job=h`, which is `--job h` in one word."""
    flag, equals, value = words[-1].partition("=")
    found = candidates([*words[:-1], flag, value])
    return found and [Candidate(flag + equals + text, about) for text, about in found]


def _matching(found: Candidates, word: str) -> Candidates:
    return sorted({c.text: c for c in found if c.text.startswith(word)}.values())


def _next_words(words: list[str]) -> Candidates:
    if not words:
        own = [Candidate(c.path[0], c.help) for c in COMMANDS if len(c.path) == 1]
        return [*own, *(Candidate(name, about) for name, about in GROUPS.items())]
    group = [ALIASES.get(words[0], words[0])]
    return [
        Candidate(c.path[1], c.help) for c in COMMANDS if [c.path[0]] == group and words[1:] == []
    ]


def _options(command: Command | None) -> Candidates:
    options = (*GLOBALS, *(command.parameters if command else ()))
    found = [
        Candidate(flag, p.help)
        for p in options
        if isinstance(p, Option)
        for flag in p.flags
        if flag[:2] == "--"
    ]
    return [*found, Candidate("--help", "Show help and exit.")]


def _argument(typed: Typed) -> Argument | None:
    """The argument that the word being typed is; None if the command takes no more."""
    assert typed.command is not None
    arguments = [p for p in typed.command.parameters if isinstance(p, Argument)]
    if "--" in typed.words:
        return next((a for a in arguments if a.name == "command"), None)
    for number, argument in enumerate(a for a in arguments if a.name != "command"):
        if number == len(typed.words) or argument.many:
            return argument
    return None


SCRIPTS: Final = {
    "bash": """\
# eval "$(stackshift completion bash)" in ~/.bashrc, or this file in
# ~/.local/share/bash-completion/completions/stackshift
_stackshift() {
    local IFS=$'\\n' word=${COMP_WORDS[COMP_CWORD]} found
    # bash splits at @, and replaces it all the same.
    case $2 in @*) word=$2 ;; esac
    found=$(stackshift __complete bash "${COMP_LINE:0:COMP_POINT}" "$word" "$COMP_TYPE" 2>/dev/null)
    case $? in
    10) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$word")) ;;
    11)
        COMPREPLY=($(compgen -P "${2%%@*}@" -f -- "${2#*@}"))
        if [ ${#COMPREPLY[@]} -eq 1 ] && [ -d "${COMPREPLY[0]#*@}" ]; then
            COMPREPLY[0]+=/
            compopt -o nospace 2>/dev/null
        fi
        ;;
    *) COMPREPLY=($found) ;;
    esac
    if [ "${COMPREPLY[0]}" = @ ]; then compopt -o nospace 2>/dev/null; fi
}
complete -F _stackshift stackshift
""",
    "zsh": """\
#compdef stackshift
# eval "$(stackshift completion zsh)" in ~/.zshrc after compinit, or this file as _stackshift in a
# directory of $fpath
_stackshift() {
    local found line
    local -a texts shown
    found=$(stackshift __complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    case $? in
    10) _files; return ;;
    11) compset -P '*@'; _files; return ;;
    esac
    for line in "${(@f)found}"; do
        [[ -n $line ]] || continue
        texts+=("${line%%$'\\t'*}")
        if [[ $line == *$'\\t'* ]]; then
            shown+=("${line%%$'\\t'*}  -- ${line#*$'\\t'}")
        else
            shown+=("$line")
        fi
    done
    compadd -l -d shown -a texts
}
if [ "$funcstack[1]" = _stackshift ]; then _stackshift; else compdef _stackshift stackshift; fi
""",
    "fish": """\
# This file as ~/.config/fish/completions/stackshift.fish
function __stackshift_complete
    set -l words (commandline -opc) (commandline -ct)
    stackshift __complete fish $words[2..-1] 2>/dev/null
    switch $status
        case 10
            __fish_complete_path (commandline -ct)
        case 11
            set -l parts (string split -m 1 @ -- (commandline -ct))
            __fish_complete_path $parts[2] | string replace -r '^' -- $parts[1]@
    end
end
complete -c stackshift -f -a '(__stackshift_complete)'
""",
}
"""By shell."""
