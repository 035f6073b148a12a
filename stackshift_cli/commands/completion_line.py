"""A command line that is being typed, as completion sees it: its command, its words, and the word
under the cursor; and the same for bash, which splits and quotes words in its own way."""

from __future__ import annotations

from typing import Final, NamedTuple

from stackshift_cli.commands.catalogue import ALIASES, COMMANDS
from stackshift_cli.commands.spec import GLOBALS, Command, Option

_SPECIAL: Final = frozenset(" \t\"'\\$`&|;<>()*?[]#~!{}")
"""What a shell reads as more than a character."""


class Candidate(NamedTuple):
    """A text that may come next, and what it is in a few words."""

    text: str
    about: str = ""


Candidates = list[Candidate]


class Typed(NamedTuple):
    """A command line that is being typed: the command, once its words are complete, the words after
    it, the option whose value comes next, and the word that is being typed."""

    command: Command | None
    words: list[str]
    option: Option | None
    word: str
    project: str | None


def read(words: list[str]) -> Typed:
    """The parts of the command line `words`, the last of which is being typed."""
    *before, word = words
    flags = {flag: option for option in GLOBALS for flag in option.flags}
    kept: list[str] = []
    command: Command | None = None
    option: Option | None = None
    project: str | None = None
    for text in before:
        if option is not None:
            project = text if option.name == "project" else project
            option = None
        elif text == "--":
            kept.append(text)
            flags = {}
        elif text in flags:
            option = flags[text] if flags[text].metavar else None
        elif text.startswith("--project="):
            project = text.partition("=")[2]
        elif not text.startswith("-"):
            kept.append(text)
            if command is None and (command := _named(kept)) is not None:
                kept = []
                flags |= {
                    f: p for p in command.parameters if isinstance(p, Option) for f in p.flags
                }
    return Typed(command, kept, option, word, project)


def _named(words: list[str]) -> Command | None:
    path = (ALIASES.get(words[0], words[0]), *words[1:])
    return next((command for command in COMMANDS if command.path == path), None)


# --- bash ----------------------------------------------------------------------------------


def bash_words(line: str, current: str) -> tuple[list[str], str]:
    """The words after `stackshift` in `line`, which is what was typed up to the cursor, without
    their quotes; and the part of the last one, as typed, that bash takes for words of its own and
    keeps. `current` is the rest of it, which bash replaces."""
    words: list[str] = []
    word, raw, quote, is_word = "", "", "", False
    rest = iter(line)
    for letter in rest:
        if quote:
            if letter == quote:
                quote = ""
            elif letter == "\\" and quote == '"':
                following = next(rest, "")
                word += following if following in '"\\$`' else letter + following
                raw += letter + following
                continue
            else:
                word += letter
        elif letter in " \t":
            if is_word:
                words.append(word)
            word, raw, is_word = "", "", False
            continue
        elif letter in "'\"":
            quote = letter
        elif letter == "\\":
            following = next(rest, "")
            word, raw, is_word = word + following, raw + letter + following, True
            continue
        else:
            word += letter
        raw, is_word = raw + letter, True
    # A sign at which bash splits is a word to it, but one that it keeps; only an @ it replaces.
    if not current.strip(":="):
        return [*words[1:], word], raw
    return [*words[1:], word], raw.removesuffix(current) if raw.endswith(current) else ""


def bash_word(text: str, kept: str, current: str) -> str:
    """The candidate `text` as bash has to insert it in place of `current`: quoted, and without the
    part that it keeps."""
    if current.startswith(("'", '"')):
        return text  # In quotes, bash adds none and needs none.
    quoted = "".join("\\" + letter if letter in _SPECIAL else letter for letter in text)
    return quoted[len(kept) :] if quoted.startswith(kept) else quoted
