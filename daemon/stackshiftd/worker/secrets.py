"""The secrets of a payload: where the worker finds what its references name.

References are resolved each time a handler is called, so a secret that was replaced meanwhile is
the new one on the next pass. A payload may come from anybody, so it names only what it is allowed
to: variables that match `[secrets] env`, and files in the folders of `[secrets] files`. What the
file system says is believed of the file that was opened, not of its name.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import islice
from json import loads
from pathlib import Path
from typing import Any, Final, NamedTuple

from stackshift_jobs.errors import SecretUnavailable
from stackshift_jobs.values.masking import MIN_CHARS, Secrets
from stackshift_jobs.values.redaction import REDACTED, values_at
from stackshift_jobs.values.secrets import ENV, Reference, Secret, with_secrets

MAX_BYTES: Final = 64 << 10
"""The largest secret."""
MAX_REFERENCES: Final = 100
"""Secrets that one payload may name."""
MAX_HIDDEN: Final = 1000
MAX_HIDDEN_CHARS: Final = 1024
"""Lines of the redacted values of a payload that are masked in the output, and their length. They
may come from anybody, and each costs time wherever something is printed."""
_MAY_NAME: Final = re.compile(rb'"\$(?:env|file)"|\\u00[2-7]')
"""A reference, or an escape with which it could be written."""


class SecretTerms(NamedTuple):
    """What a project says of secrets. Relative folders are those of `root`, the project; nothing
    may be read from `private`, the data directory. `redact` are the paths in payloads whose values
    are not to be shown."""

    root: str = "."
    private: str = ""
    env: tuple[str, ...] = ("*",)
    files: tuple[str, ...] = (".",)
    redact: tuple[str, ...] = ()


def read_payload(text: bytes, terms: SecretTerms, known: Secrets) -> Any:
    """The value of a payload, with a `Secret` in the place of each reference; `known` gets what
    output must not show. Raises `SecretUnavailable`."""
    value = loads(text)  # The daemon has already checked it strictly.
    if terms.redact:
        known.hide(islice(_hidden(value, terms.redact), MAX_HIDDEN), REDACTED)
    if _MAY_NAME.search(text) is None:
        return value
    found: dict[Reference, Secret] = {}

    def resolve(reference: Reference) -> Secret:
        if reference not in found:
            if len(found) == MAX_REFERENCES:
                raise SecretUnavailable(f"the payload names more than {MAX_REFERENCES} secrets")
            found[reference] = resolved(reference, terms)
        return found[reference]

    return with_secrets(value, resolve)


def _hidden(value: Any, paths: Iterable[str]) -> Iterator[str]:
    """The lines of text, and the numbers, at these paths."""
    for path in paths:
        for text in values_at(value, path):
            for line in text.splitlines():
                if MIN_CHARS <= len(line) <= MAX_HIDDEN_CHARS:
                    yield line


def unresolved(reference: Reference) -> Secret:
    """What stands for a secret where its text is not needed, as in a check of types."""
    return Secret("", reference)


def resolved(reference: Reference, terms: SecretTerms) -> Secret:
    """The secret that `reference` names. Raises `SecretUnavailable`."""
    if reference.kind == ENV:
        return Secret(_variable(reference.name, terms), reference)
    return Secret(_content(reference.name, terms), reference)


def _variable(name: str, terms: SecretTerms) -> str:
    if not any(fnmatchcase(name, pattern) for pattern in terms.env):
        raise _refused("variable", name, "[secrets] env in stackshift.toml does not allow it")
    value = os.environ.get(name)
    if value is None:
        remedy = "set it in [project] env_file or [workers] inherit_env, and restart the daemon"
        raise _refused("variable", name, f"the workers do not have it: {remedy}")
    try:
        value.encode()
    except UnicodeEncodeError:  # It has bytes that are not UTF-8.
        raise _refused("variable", name, "it is not UTF-8 text") from None
    return value


def _content(name: str, terms: SecretTerms) -> str:
    """The text of a file, without the line end at its end."""
    try:
        path = Path(terms.root, name).resolve()
        _check_place(name, path, terms)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            _check_file(name, os.fstat(fd))
            data = _read(fd)
        finally:
            os.close(fd)
    except (OSError, ValueError, RuntimeError) as bad:  # A null character, links in a circle.
        why = bad.strerror if isinstance(bad, OSError) and bad.strerror else str(bad)
        raise _refused("file", name, f"it cannot be read: {why}") from None
    if len(data) > MAX_BYTES:
        raise _refused("file", name, f"it has more than {MAX_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _refused("file", name, "it is not UTF-8 text: encode it as base64") from None
    return text.removesuffix("\n").removesuffix("\r")


def _read(fd: int) -> bytes:
    """The content of a file; of one that is too large, a byte too many."""
    data = b""
    while len(data) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(data))):
        data += more
    return data


def _check_place(name: str, path: Path, terms: SecretTerms) -> None:
    """Raise `SecretUnavailable` for a file outside of the folders that references may name."""
    folders = (Path(terms.root, Path(each).expanduser()).resolve() for each in terms.files)
    inside = any(path.is_relative_to(folder) for folder in folders)
    private = bool(terms.private) and path.is_relative_to(Path(terms.private).resolve())
    if not inside or private:
        raise _refused("file", name, "it is in none of the folders of [secrets] files")


def _check_file(name: str, found: os.stat_result) -> None:
    """Raise `SecretUnavailable` for what is not a file, or what others could have written."""
    if not stat.S_ISREG(found.st_mode):
        raise _refused("file", name, "it is not a file")
    owned = found.st_uid in (os.geteuid(), 0)
    if not owned or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = f"owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o}"
        raise _refused("file", name, f"other users can write it ({mode}): chmod 600, or chown it")


def _refused(what: str, name: str, why: str) -> SecretUnavailable:
    return SecretUnavailable(f"the payload names a secret in the {what} {name!r}, but {why}")
