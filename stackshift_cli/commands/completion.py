"""Completion of words on the command line: the candidates, and how each shell is told of them.

`stackshift __complete SHELL WORD...` gets the words typed so far, the one being typed last, and
prints a candidate a line: its text, and after a tab what it is. Where the shell should offer files
it prints nothing and exits 10. bash hands over the line instead of words, because it splits words
at `:`, `=` and `@`; see `completion_line`.

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
_CHOICES: Final = {
    "color": "auto always never",
    "status": "scheduled queued running waiting retrying completed failed cancelled",
    "shell": "bash zsh fish",
}
"""The values of parameters that have few, by their names."""
_FILE_METAVARS: Final = frozenset(("FILE", "DIR", "F", "FILE|-"))


def complete(words: list[str]) -> int:
    """Print the candidates for `words`, of which the first is the shell; the exit status."""
    shell, *rest = words or ["bash"]
    if shell == "bash":
        line, current = [*rest, "", ""][:2]
        rest, before = bash_words(line, current)
    found = candidates(rest)
    if found is None:
        return FILES
    for candidate in found:
        if shell == "bash":
            messages.data(bash_word(candidate.text, before, current))
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
    is_file = wanted.metavar.strip("[]") in _FILE_METAVARS or wanted.name in ("command", "payload")
    if is_file:
        return None
    if wanted.name in _CHOICES:
        return _matching([Candidate(word) for word in _CHOICES[wanted.name].split()], typed.word)
    from stackshift_cli.commands.completion_names import names

    found = names(typed, wanted)
    # What a terminal would show escaped is not offered: the shell would insert the escapes.
    return _matching([c for c in found if safe(c.text) == c.text], typed.word)


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
    local IFS=$'\\n' found
    found=$(stackshift __complete bash "${COMP_LINE:0:COMP_POINT}" "${COMP_WORDS[COMP_CWORD]}" \\
        2>/dev/null)
    if [ $? -eq 10 ]; then
        compopt -o filenames 2>/dev/null
        COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
    else
        COMPREPLY=($found)
    fi
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
    if [[ $? -eq 10 ]]; then
        _files
        return
    fi
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
    if test $status -eq 10
        __fish_complete_path (commandline -ct)
    end
end
complete -c stackshift -f -a '(__stackshift_complete)'
""",
}
"""By shell."""
