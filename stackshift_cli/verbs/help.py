"""`completion SHELL` and `help [COMMAND|TOPIC]`."""

from __future__ import annotations

import difflib

from stackshift_cli.arguments import Given
from stackshift_cli.commands.catalogue import ALIASES, COMMANDS, GROUPS
from stackshift_cli.commands.completion import SCRIPTS
from stackshift_cli.commands.help_topics import TOPICS
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
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
        from stackshift_cli.commands import typer_app

        status = typer_app.run(["--help"])
        messages.data("\nTopics (see stackshift help TOPIC):")
        for name, topic in TOPICS.items():
            messages.data(f"  {name:<12} {topic.splitlines()[0]}")
        return status
    if len(words) == 1 and words[0] in TOPICS:
        messages.data(TOPICS[words[0]].strip())
        return 0
    path = (ALIASES.get(words[0], words[0]), *words[1:])
    known = {command.path for command in COMMANDS} | {(group,) for group in GROUPS}
    if path not in known:
        names = [*TOPICS, *(" ".join(p) for p in sorted(known))]
        near = difflib.get_close_matches(" ".join(words), names, 3, 0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "stackshift help"
        raise NotFound(f"there is no help on {' '.join(words)!r}", hint=hint, near=near)
    from stackshift_cli.commands import typer_app

    return typer_app.run([*path, "--help"])
