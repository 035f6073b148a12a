"""What a host keeps of the code that was sent to it."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest

from stackshiftd.keeper.code_store import KEPT, BadCode, CodeStore


def packed(*members: tarfile.TarInfo, **files: str) -> tuple[str, bytes]:
    """An archive of files by name (`_` for `/`), and its digest."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("_", "/") + ".py")
            member.size = len(text)
            member.mode = 0o755 if text.startswith("#!") else 0o600
            tar.addfile(member, io.BytesIO(text.encode()))
        for member in members:
            tar.addfile(member)
    data = written.getvalue()
    return sha256(data).hexdigest(), data


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    """An empty store."""
    return CodeStore(tmp_path / "code")


def test_archive_is_unpacked_under_its_digest(store: CodeStore, tmp_path: Path) -> None:
    """Private, with the right to be executed where it was one; found from then on."""
    digest, data = packed(jobs_a="x = 1\n", jobs_run="#!/bin/sh\n")
    assert store.find(digest) is None
    place = store.unpack(digest, data)
    assert place == tmp_path / "code" / digest == store.find(digest)
    assert (place / "jobs/a.py").read_text() == "x = 1\n"
    assert [(place / f"jobs/{name}.py").stat().st_mode & 0o111 for name in ("a", "run")] == [
        0,
        0o111,
    ]
    assert (tmp_path / "code").stat().st_mode & 0o777 == 0o700
    assert store.unpack(digest, data) == place
    assert [each.name for each in (tmp_path / "code").iterdir() if each.name[:1] == "."] == []


def link(name: str, to: str) -> tarfile.TarInfo:
    """A symbolic link."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (tarfile.TarInfo("../outside"), "a path outside of it: ../outside"),
        (tarfile.TarInfo("/etc/outside"), "a path outside of it: /etc/outside"),
        (tarfile.TarInfo("a/../../outside"), "a path outside of it"),
        (link("passwd", "/etc/passwd"), "passwd in the archive of the code is neither"),
    ],
)
def test_archive_that_leaves_its_folder_is_refused(
    store: CodeStore, tmp_path: Path, member: tarfile.TarInfo, said: str
) -> None:
    """And nothing of it is left."""
    digest, data = packed(member, jobs_a="x = 1\n")
    with pytest.raises(BadCode, match=said):
        store.unpack(digest, data)
    assert store.find(digest) is None
    assert [each.name for each in (tmp_path / "code").iterdir()] == ["lock"]
    assert [each.name for each in tmp_path.iterdir()] == ["code"]


def test_archive_with_another_digest_is_refused(store: CodeStore) -> None:
    """Half of it, for example."""
    digest, data = packed(jobs_a="x = 1\n")
    with pytest.raises(BadCode, match="is not what the daemon announced"):
        store.unpack(digest, data[:512])
    with pytest.raises(BadCode, match="is no digest"):
        store.find("../../etc")


def test_archive_that_is_none_is_refused(store: CodeStore) -> None:
    """Though its digest is right."""
    data = b"no archive" * 100
    with pytest.raises(BadCode, match="cannot be read"):
        store.unpack(sha256(data).hexdigest(), data)


def test_codes_used_last_are_kept(store: CodeStore, tmp_path: Path) -> None:
    """Finding one is using it."""
    digests = []
    for number in range(KEPT):
        digest, data = packed(jobs_a=f"x = {number}\n")
        place = store.unpack(digest, data)
        os.utime(place, (number, number))
        digests.append(digest)
    assert store.find(digests[0]) is not None
    digest, data = packed(jobs_a="newest\n")
    store.unpack(digest, data)
    left = {each.name for each in (tmp_path / "code").iterdir() if each.is_dir()}
    assert left == {*digests, digest} - {digests[1]}


def prepared(store: CodeStore, place: Path, *command: str) -> list[int]:
    """Prepare; the processes that were started for it."""
    begun: list[subprocess.Popen[bytes]] = []
    store.prepare(place, command, {"PATH": os.environ["PATH"]}, begun.append)
    return [process.pid for process in begun]


def test_code_is_prepared_once_for_each_command(store: CodeStore) -> None:
    """Where it lies; another command prepares it again."""
    place = store.unpack(*packed(jobs_a="x = 1\n"))
    count = ("sh", "-c", "echo . >> ../count; pwd")
    assert len(prepared(store, place, *count)) == 1
    assert prepared(store, place, *count) == []
    assert len(prepared(store, place, "true")) == 1
    assert (place.parent / "count").read_text() == ".\n"
    assert prepared(store, place) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (
            ("sh", "-c", "echo first; echo no network >&2; exit 3"),
            "sh ended with status 3: first\nno",
        ),
        (("/no/such/program",), "/no/such/program cannot be run: No such file or directory"),
    ],
)
def test_preparation_that_fails_is_told_and_tried_again(
    store: CodeStore, command: tuple[str, ...], said: str
) -> None:
    """With the end of what it printed."""
    place = store.unpack(*packed(jobs_a="x = 1\n"))
    for _ in range(2):
        with pytest.raises(BadCode, match=said):
            prepared(store, place, *command)
