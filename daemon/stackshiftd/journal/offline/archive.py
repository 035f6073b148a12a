"""`journal backup` and `journal restore`: a journal as one `.tar.gz`.

    snapshots/….jsonl
    journal/….jsonl    the last one ends after its last whole append
    manifest.json      {"format":1,"journal":"jrn_…","last_seq":4711,
                        "files":{"journal/….jsonl":{"bytes":4711,"sha256":"…"},…}}

Owns the archive's format. A backup can be made while the daemon runs, without its lock: it contains
a sound journal, of which every record was on disk when it was read. A restore is all or nothing and
never overwrites; a restore that is refused leaves the directory unchanged.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from errno import EISDIR
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

import msgspec

from stackshift_jobs.errors import BadConfiguration, Conflict, JournalDamaged, NewerFormat, Usage
from stackshiftd.core.records import NEWER_HINT, has_unknown_field
from stackshiftd.journal.filesystem import FileSystem, RealFileSystem, put_file, read_range
from stackshiftd.journal.layout import HeldLock, Layout, check_root
from stackshiftd.journal.offline import inspect
from stackshiftd.journal.offline.verify import verify

FORMAT: Final = 1
_MEMBER: Final = re.compile(r"(?:journal|snapshots)/[0-9]{20}\.jsonl")
_MANIFEST: Final = "manifest.json"
_MAX_MANIFEST: Final = 16 << 20
_TRIES: Final = 5
"""How often a backup is tried when the daemon trims segments that it was about to read."""
_DERIVED: Final = re.compile(r"history\.db.*|daemon\.json.*|witness\.json.*")
"""Rebuilt from the journal or by the next daemon. A restore removes them: they belong to another
journal."""
_BESIDE: Final = re.compile(r"lock|logs|daemon\.log.*|daemon\.sock")
"""May exist beside a restored journal; a restore keeps them."""


class _Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    journal: str
    last_seq: int
    files: dict[str, _Member]


class Backup(NamedTuple):
    """What was backed up or restored: all records up to `last_seq`; `bytes` before compression."""

    journal: str
    last_seq: int
    bytes: int


def backup(data_dir: Path, file: Path, *, fs: FileSystem | None = None) -> Backup:
    """Write the journal in `data_dir` to `file`, which appears whole and durable or not at all.

    Raises `JournalDamaged` if the journal is damaged, since its backup would be trusted later;
    `Usage` if `file` cannot be written.
    """
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    check_root(fs, layout)
    for tries in range(1, _TRIES + 1):
        try:
            return _backup(fs, layout, file)
        except FileNotFoundError:
            if tries == _TRIES:
                raise
    raise AssertionError("not reached")


def _backup(fs: FileSystem, layout: Layout, file: Path) -> Backup:
    found = inspect.survey(fs, layout)
    good, looks = found.snapshots, found.segments
    losses = found.losses()
    # A daemon may have trimmed segments that these snapshots need; then there is a newer snapshot.
    if looks and looks[0].first_seq > found.covered + 1:
        raise FileNotFoundError(looks[0].path)
    if not looks and not losses:
        raise BadConfiguration(f"there is no journal in {layout.root}")
    for problem in (*found.strays(), *found.flaws().values(), *losses):
        raise JournalDamaged(
            f"the journal is damaged and was not backed up: {problem}",
            hint="stackshift journal verify",
            file=problem.file,
            offset=problem.offset,
            seq=problem.seq,
        )
    last = looks[-1]
    assert last.found is not None
    sizes = {f"snapshots/{one.path.name}": one.size for one in good}
    sizes |= {one.name: one.size for one in looks}
    sizes[last.name] = last.found.end
    beside = file.with_name(file.name + ".tmp")
    fd = _created(file, beside)
    try:
        with os.fdopen(fd, "wb", closefd=False) as out:
            _write(fs, layout, out, sizes, found.journal, last.found.seq)
        RealFileSystem().sync_data(fd)
        beside.replace(file)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise
    finally:
        os.close(fd)
    RealFileSystem().sync_dir(file.absolute().parent)
    return Backup(found.journal, last.found.seq, sum(sizes.values()))


def _created(file: Path, beside: Path) -> int:
    """Create the file `beside`, which will be renamed to `file`, and open it for writing."""
    try:
        if file.is_dir():
            raise IsADirectoryError(EISDIR, os.strerror(EISDIR))
        with suppress(FileNotFoundError):
            beside.unlink()
        return os.open(beside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as failed:
        raise Usage(f"cannot write {file}: {failed.strerror}") from failed


def _write(
    fs: FileSystem,
    layout: Layout,
    out: io.BufferedWriter,
    sizes: dict[str, int],
    journal: str,
    last_seq: int,
) -> None:
    files: dict[str, _Member] = {}
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=6) as tar:
        for name, size in sizes.items():
            data = _durable_prefix(fs, layout.root / name, size)
            files[name] = _Member(size, hashlib.sha256(data).hexdigest())
            _add(tar, name, data)
        manifest = _Manifest(FORMAT, journal, last_seq, files)
        _add(tar, _MANIFEST, msgspec.json.encode(manifest))


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o600
    tar.addfile(info, io.BytesIO(data))


def _durable_prefix(fs: FileSystem, path: Path, size: int) -> bytes:
    fd = fs.open(path, "read")
    try:
        # What is read may not be on disk yet; a backup must not know more than the journal.
        fs.sync_data(fd)
        data = read_range(fs, fd, 0, size)
    finally:
        fs.close(fd)
    if len(data) != size:
        raise FileNotFoundError(path)  # Replaced or cut meanwhile: try again.
    return data


def restore(file: Path, data_dir: Path, *, fs: FileSystem | None = None) -> Backup:
    """Restore the journal backed up in `file` into `data_dir`; remove what was derived from another
    journal.

    The archive is checked as a whole before any of it takes effect: a restore that is killed leaves
    a directory that no daemon mistakes for an empty journal, and one that fails leaves the
    directory unchanged. Raises `Conflict` if the directory contains anything else, `Usage` if
    `file` cannot be read, `JournalDamaged` if the archive is not sound, and `NewerFormat`.
    """
    fs = fs or RealFileSystem()
    layout = Layout(data_dir)
    with _opened(file) as archive:
        if fs.lstat(layout.root) is None:
            fs.mkdir(layout.root)
        check_root(fs, layout)
        lock = HeldLock.take(fs, layout, os.getpid())
        try:
            unfinished = fs.lstat(layout.restoring) is not None
            if not unfinished:
                _check_free(fs, layout)
            _read_through(archive, file)
            if unfinished:
                # Left by a restore that was killed. No journal is opened while it exists, so all
                # of this belongs to that restore.
                _remove_folders(fs, layout)
                _remove_staged(fs, layout)
            manifest = _staged(fs, layout, archive, file)
            _put_in_place(fs, layout)
        finally:
            lock.release()
    size = sum(member.bytes for member in manifest.files.values())
    return Backup(manifest.journal, manifest.last_seq, size)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except OSError as failed:
        raise Usage(f"cannot read {file}: {failed.strerror}") from failed


def _check_free(fs: FileSystem, layout: Layout) -> None:
    ours = {folder.name for folder in layout.folders}
    foreign = [
        name
        for name in fs.listdir(layout.root)
        if not (_BESIDE.fullmatch(name) or _DERIVED.fullmatch(name))
        # A daemon that was refused the lock may have created our folders, but nothing in them.
        and not (name in ours and not fs.listdir(layout.root / name))
    ]
    if foreign:
        raise Conflict(
            f"{layout.root} is not empty: it contains {', '.join(foreign[:5])}",
            hint="restore into a new directory, or move this one away",
        )


def _staged(fs: FileSystem, layout: Layout, archive: BinaryIO, file: Path) -> _Manifest:
    """Unpack into a staging directory and check the journal there.

    A failure leaves nothing behind, except what the disk refuses to remove; the next restore
    removes that.
    """
    staged = Layout(layout.restoring)
    try:
        for folder in (staged.root, *staged.folders):
            fs.mkdir(folder)
        fs.sync_dir(staged.root)
        fs.sync_dir(layout.root)
        manifest = _read_through(archive, file, (fs, staged))
        report = verify(staged.root, fs=fs)
        if report.problems or report.last_seq != manifest.last_seq:
            what = report.problems[0] if report.problems else "it ends too early"
            raise _bad_archive(file, f"the journal in it is damaged: {what}")
    except BaseException:
        with suppress(OSError):
            _remove_staged(fs, layout)
        raise
    return manifest


def _put_in_place(fs: FileSystem, layout: Layout) -> None:
    for name in fs.listdir(layout.root):
        if _DERIVED.fullmatch(name):
            fs.unlink(layout.root / name)
    staged = Layout(layout.restoring)
    for old, new in zip(staged.folders, layout.folders, strict=True):
        fs.sync_dir(old)
        fs.rename(old, new)
    fs.sync_dir(layout.root)
    fs.rmdir(staged.root)  # From here on the directory is a journal.
    fs.sync_dir(layout.root)


def _remove_staged(fs: FileSystem, layout: Layout) -> None:
    staged = Layout(layout.restoring)
    if fs.lstat(staged.root) is not None:
        _remove_folders(fs, staged)
        fs.rmdir(staged.root)
        fs.sync_dir(layout.root)


def _remove_folders(fs: FileSystem, layout: Layout) -> None:
    for folder in layout.folders:
        if fs.lstat(folder) is not None:
            for name in fs.listdir(folder):
                fs.unlink(folder / name)
            fs.rmdir(folder)


def _read_through(
    archive: BinaryIO, file: Path, into: tuple[FileSystem, Layout] | None = None
) -> _Manifest:
    """Check names, sizes and hashes against the archive's manifest; with `into`, also write the
    files to that directory."""
    seen: dict[str, _Member] = {}
    manifest: _Manifest | None = None
    archive.seek(0)
    try:
        with tarfile.open(fileobj=archive, mode="r:gz") as tar:
            for info, data in _members(tar, file):
                if info.name == _MANIFEST:
                    manifest = _read_manifest(file, data)
                    continue
                seen[info.name] = _Member(len(data), hashlib.sha256(data).hexdigest())
                if into is not None:
                    fs, staged = into
                    put_file(fs, staged.root / info.name, [data])
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as bad:
        if isinstance(bad, OSError) and bad.errno is not None:
            if into is None:
                raise Usage(f"cannot read {file}: {bad.strerror}") from bad
            raise  # The disk is full or failing.
        raise _bad_archive(file, str(bad)) from bad
    if manifest is None or manifest.files != seen:
        raise _bad_archive(file, "its contents do not match its manifest")
    return manifest


def _members(tar: tarfile.TarFile, file: Path) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for info in tar:
        # Only names of ours: an archive must not be able to place a file anywhere else.
        if not info.isreg() or not (info.name == _MANIFEST or _MEMBER.fullmatch(info.name)):
            raise _bad_archive(file, f"{info.name!r} does not belong in a backup")
        body = tar.extractfile(info)
        assert body is not None
        yield info, body.read()


def _read_manifest(file: Path, data: bytes) -> _Manifest:
    try:
        manifest = msgspec.json.decode(data[:_MAX_MANIFEST], type=_Manifest)
    except msgspec.DecodeError as bad:
        if isinstance(bad, msgspec.ValidationError) and has_unknown_field(bad):
            raise _newer(file) from bad
        raise _bad_archive(file, f"its manifest is damaged ({bad})") from bad
    if manifest.format > FORMAT:
        raise _newer(file)
    return manifest


def _newer(file: Path) -> NewerFormat:
    return NewerFormat(f"{file} was written by a newer stackshift", hint=NEWER_HINT)


def _bad_archive(file: Path, why: str) -> JournalDamaged:
    return JournalDamaged(
        f"{file} is not a valid backup: {why}",
        hint="use another backup",
        file=str(file),
        offset=0,
        seq=0,
    )
