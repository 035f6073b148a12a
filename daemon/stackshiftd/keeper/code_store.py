"""The code that daemons have sent to this host, kept by digest.

    CACHE/stackshift/code/DIGEST/        the archive's files
    CACHE/stackshift/code/DIGEST.ready   how they were prepared, once they were

An archive is unpacked beside its place and renamed, so what has a place is whole. Keepers that
start at the same time do it once: the others wait for the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final

MAX_BYTES: Final = 64 << 20
"""The largest archive."""
KEPT: Final = 10
"""So many of the digests that were used last are kept."""
TOLD_BYTES: Final = 2000
"""The end of what a failed preparation printed that is told."""


class BadCode(Exception):
    """The code cannot be used; the text is a sentence that says why."""


class CodeStore:
    """The codes below `root`. Blocks; used by one thread at a time."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, digest: str) -> Path | None:
        """The directory of the code with this digest, if it is there."""
        place = self._place(digest)
        if not place.is_dir():
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return place

    def unpack(self, digest: str, archive: bytes) -> Path:
        """Store the files of `archive`, a tar file with this digest; their directory. Raises
        `BadCode` and `OSError`."""
        if sha256(archive).hexdigest() != digest:
            raise BadCode("the archive of the code is not what the daemon announced")
        place = self._place(digest)
        with self._locked():
            if place.is_dir():
                return place
            beside = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=self._root))
            try:
                with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                    for member in tar:
                        _extract(tar, member, beside)
                beside.rename(place)
            except tarfile.TarError as bad:
                raise BadCode(f"the archive of the code cannot be read: {bad}") from bad
            finally:
                shutil.rmtree(beside, ignore_errors=True)
            self._drop_oldest(place)
        return place

    def prepare(
        self,
        place: Path,
        command: Sequence[str],
        environment: dict[str, str],
        started: Callable[[subprocess.Popen[bytes]], None],
    ) -> None:
        """Run `command` in `place`, unless that was done. `started` gets its process, to end it.
        Raises `BadCode` with what it printed last, and `OSError`."""
        ready = place.with_name(f"{place.name}.ready")
        how = json.dumps(list(command))
        with self._locked():
            if not command or (ready.exists() and ready.read_text() == how):
                return
            ready.unlink(missing_ok=True)
            with tempfile.TemporaryFile() as output:
                try:
                    process = subprocess.Popen(
                        command,
                        cwd=place,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        start_new_session=True,
                    )
                except OSError as bad:
                    raise BadCode(f"{command[0]} cannot be run: {bad.strerror}") from bad
                started(process)
                status = process.wait()
                if status:
                    size = output.seek(0, os.SEEK_END)
                    output.seek(max(0, size - TOLD_BYTES))
                    said = output.read().decode("utf-8", "replace").strip()
                    raise BadCode(f"{command[0]} ended with status {status}: {said}")
            ready.write_text(how)

    def _place(self, digest: str) -> Path:
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise BadCode(f"{digest!r} is no digest")
        return self._root / digest

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self._root / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _drop_oldest(self, newest: Path) -> None:
        """Drop what was not used for longest. Python has loaded what its workers need; a worker
        that imports more later gets an error, as after any deployment that removes a file."""
        places = [each for each in self._root.iterdir() if each.is_dir() and each.name[:1] != "."]
        places.sort(key=lambda each: each.stat().st_mtime, reverse=True)
        for each in places[KEPT:]:
            if each != newest:
                shutil.rmtree(each, ignore_errors=True)
                each.with_name(f"{each.name}.ready").unlink(missing_ok=True)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """Write a file or folder of an archive, and nothing else, below `into`."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BadCode(f"the archive of the code has a path outside of it: {member.name}")
    place = into / path
    if member.isdir():
        place.mkdir(parents=True, exist_ok=True)
    elif member.isfile():
        place.parent.mkdir(parents=True, exist_ok=True)
        source = tar.extractfile(member)
        assert source is not None
        with place.open("wb") as file:
            shutil.copyfileobj(source, file)
        place.chmod(0o755 if member.mode & 0o100 else 0o644)
    else:
        raise BadCode(f"{member.name} in the archive of the code is neither a file nor a folder")
