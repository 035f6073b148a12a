"""`completion SHELL` and `help [COMMAND|TOPIC]`."""

from __future__ import annotations

import difflib

from stackshift_cli.arguments import Given
from stackshift_cli.commands.catalogue import COMMANDS, GROUPS
from stackshift_cli.commands.completion import SCRIPTS
from stackshift_cli.commands.help_page import page_for, page_width, program_page
from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.commands.unknown import verbs
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages, wrapping
from stackshift_jobs.errors import NotFound, Usage


def completion(_session: Session, given: Given) -> int:
    """`completion SHELL`: print the script that the shell has to source."""
    shell = given.word("shell")
    if shell not in SCRIPTS:
        raise Usage(
            f"there is no completion script for {shell!r}", hint=f"one of: {', '.join(SCRIPTS)}"
        )
    messages.data(SCRIPTS[shell].strip())
    return 0


def help_(_session: Session, given: Given) -> int:
    """`help [COMMAND|TOPIC]`: print the help of a command, a topic, or the list of both."""
    words = given.texts("topic")
    if not words:
        messages.data(program_page())
        messages.data("\nTopics (see stackshift help TOPIC):")
        for name, text in TOPICS.items():
            messages.data(f"  {name:<12} {text.splitlines()[0]}")
        return 0
    if len(words) == 1 and (topic := _topic(words[0])) is not None:
        messages.data(wrapping.page(topic, page_width()))
        return 0
    if (page := page_for(tuple(words))) is None:
        known = {command.path for command in COMMANDS} | {(group,) for group in GROUPS}
        names = [*TOPICS, *(" ".join(p) for p in sorted(known))]
        near = verbs(words[0]) if len(words) == 1 else []
        near = near or difflib.get_close_matches(" ".join(words), names, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "stackshift help"
        raise NotFound(f"there is no help on {' '.join(words)!r}", hint=hint, near=near)
    messages.data(page)
    return 0


def _topic(word: str) -> str | None:
    """The text of the topic `word`, in the singular or the plural."""
    for spelled in (word, f"{word}s", word.removesuffix("s")):
        if spelled in TOPICS:
            return TOPICS[spelled]
    return None
