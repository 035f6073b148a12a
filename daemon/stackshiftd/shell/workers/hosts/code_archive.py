"""The code that is sent to hosts: a tar archive, the same bytes for the same files.

It has the regular files below the folders that are sent, with their paths relative to the project.
Left out is what begins with a dot, and what Python has compiled. Links are followed to files inside
the project, and refused elsewhere.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.config import Config
from stackshift_jobs.project.folders import walk

MAX_BYTES: Final = 64 << 20


class Archive(NamedTuple):
    """The bytes of an archive, and their SHA-256."""

    digest: str
    data: bytes


class CodeArchives:
    """The archives of a project, as of when they were first asked for: a worker that is replaced
    gets the code that the others have, although its files have changed since."""

    def __init__(self, config: Config) -> None:
        self._root = config.root
        self._made: dict[tuple[str, ...], Archive] = {}

    async def of(self, send: tuple[str, ...]) -> Archive:
        """The archive of these folders and files. Raises `BadConfiguration` and `OSError`."""
        found = self._made.get(send)
        if found is None:
            found = await asyncio.to_thread(archive, self._root, send)
            self._made[send] = found
        return found

    def clear(self) -> None:
        """Forget them: the next request builds them again."""
        self._made.clear()


def archive(root: Path, send: Iterable[str]) -> Archive:
    """The archive of what `send` names in `root`. Raises `BadConfiguration`, `OSError`."""
    files = sorted({file for entry in send for file in _files(root, entry)})
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in files:
            path = root / name
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            tar.addfile(member, io.BytesIO(content))
            if written.tell() > MAX_BYTES:
                raise BadConfiguration(
                    f"the code to be sent is larger than {MAX_BYTES >> 20} MiB",
                    hint="name what is needed in [hosts.NAME] send, or put it there yourself and "
                    "set [hosts.NAME] code to its directory",
                )
    data = written.getvalue()
    return Archive(sha256(data).hexdigest(), data)


def _files(root: Path, entry: str) -> Iterator[str]:
    """The files below `entry`, relative to `root`."""
    top = root / entry
    if not top.exists():
        raise BadConfiguration(
            f"{entry} is to be sent to hosts, and is not there", hint="see [hosts.NAME] send"
        )
    below = (Path(each.path) for each in walk(str(top)))
    for path in (top,) if top.is_file() else below:
        name = path.relative_to(root)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in name.parts)
        if hidden or path.suffix == ".pyc" or not path.is_file():
            continue
        if not path.resolve().is_relative_to(root.resolve()):
            raise BadConfiguration(
                f"{name} is to be sent to hosts, and leads out of the project",
                hint="put the file itself there",
            )
        yield name.as_posix()
