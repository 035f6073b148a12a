"""`stackshift journal backup|restore`: a copy that is whole, or an error that says why."""

from __future__ import annotations

import errno
import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from journal.builders import (
    FIRST,
    ROOT,
    add,
    claimed,
    opened,
    queued,
    run,
    stories,
)
from journal.disk import Disk, PowerCut
from journal.journals import KEEPS, LONG, SEGMENT, damage, filled, segments, told
from stackshift_jobs.errors import BadConfiguration, Conflict, DiskFull, JournalDamaged, Usage
from stackshiftd.journal.offline import tools
from stackshiftd.journal_verbs import run_verb


def test_backup_beside_a_daemon_restores_to_the_same_journal(tmp_path: Path) -> None:
    """A backup of an open, trimmed journal contains everything acknowledged."""
    disk = Disk()
    filled(disk, snapshots=(10, 31), trim=40)

    async def work() -> list[tuple[int, int, str]]:
        journal = opened(disk, segment_size=SEGMENT)
        claim = await claimed(journal)
        await add(journal, claim, [queued()] * 2)
        made = tools.backup(ROOT, tmp_path / "b.tar.gz", fs=disk)
        assert (made.journal, made.last_seq) == ("jrn_test", 43)
        told_then = stories(journal)
        await add(journal, claim, [queued()] * 2)
        journal.close()
        return told_then

    expected = run(work())
    assert (tmp_path / "b.tar.gz").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["b.tar.gz"]
    copy = Disk()
    restored = tools.restore(tmp_path / "b.tar.gz", ROOT, fs=copy)
    assert restored.last_seq == 43
    assert told(copy) == expected
    journal = opened(copy)
    assert run(journal.get_snapshot()) == (31, [b'{"upto":31}'])
    journal.close()
    assert tools.verify(ROOT, fs=copy).ok


def test_backup_leaves_out_what_is_no_whole_append(tmp_path: Path) -> None:
    """A half-written append at the end is not in the archive."""
    disk = Disk()
    filled(disk, segment_size=1 << 20)
    disk.put(FIRST, bytes(disk.find(FIRST).data) + b'{"crc":"0000')
    tools.backup(ROOT, tmp_path / "b.tar.gz", fs=disk)
    copy = Disk()
    tools.restore(tmp_path / "b.tar.gz", ROOT, fs=copy)
    assert bytes(copy.find(FIRST).data) == bytes(disk.find(FIRST).data)[: -len(b'{"crc":"0000')]


def test_damaged_journal_is_not_backed_up(tmp_path: Path) -> None:
    """A damaged journal is not backed up, and an existing backup file is left unchanged."""
    disk = Disk()
    filled(disk)
    (tmp_path / "b.tar.gz").write_bytes(b"the old one")
    damage(disk, segments(disk)[1], 300)
    with pytest.raises(JournalDamaged):
        tools.backup(ROOT, tmp_path / "b.tar.gz", fs=disk)
    assert (tmp_path / "b.tar.gz").read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 1


def test_restore_into_a_used_directory_is_refused(tmp_path: Path) -> None:
    """A restore never overwrites: existing files stay."""
    disk = Disk()
    before = filled(disk)
    tools.backup(ROOT, tmp_path / "b.tar.gz", fs=disk)
    with pytest.raises(Conflict, match="not empty"):
        tools.restore(tmp_path / "b.tar.gz", ROOT, fs=disk)
    assert told(disk) == before


def rewritten(file: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """The archive with its members replaced."""
    with tarfile.open(file) as tar:
        members = {}
        for info in tar:
            body = tar.extractfile(info)
            assert body is not None
            members[info.name] = body.read()
    change(members)
    with tarfile.open(file, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    "change",
    [
        lambda members: members.pop("manifest.json"),
        lambda members: members.pop("journal/00000000000000000001.jsonl"),
        lambda members: members.update({"../evil": b"x"}),
        lambda members: members.update({"journal/../../evil.jsonl": b"x"}),
        lambda members: members.update({"journal/00000000000000000001.jsonl": b"x"}),
        lambda members: members.update({"manifest.json": b"{}"}),
    ],
)
def test_changed_archive_is_refused(
    tmp_path: Path, change: Callable[[dict[str, bytes]], None]
) -> None:
    """Members missing, added, changed or with a path that leads elsewhere: nothing is restored,
    and the directory is as usable as before."""
    disk = Disk()
    filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    rewritten(file, change)
    copy = Disk()
    with pytest.raises(JournalDamaged):
        tools.restore(file, ROOT, fs=copy)
    assert copy.names("data") == ["lock"]
    assert told(copy) == []


def test_archive_cut_short_is_refused_and_a_whole_one_restored_after_it(tmp_path: Path) -> None:
    """An archive cut off at any point is refused; the next try starts over."""
    disk = Disk()
    before = filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    whole = file.read_bytes()
    copy = Disk()
    for size in range(0, len(whole), 97):
        file.write_bytes(whole[:size])
        with pytest.raises(JournalDamaged):
            tools.restore(file, ROOT, fs=copy)
        assert copy.names("data") == ["lock"]
    file.write_bytes(whole)
    tools.restore(file, ROOT, fs=copy)
    assert told(copy) == before


def test_archive_with_any_damaged_byte_is_refused(tmp_path: Path) -> None:
    """A changed byte is detected before anything is unpacked, or makes no difference."""
    disk = Disk()
    before = filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    whole = file.read_bytes()
    for at in range(0, len(whole), 53):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        copy = Disk()
        try:
            tools.restore(file, ROOT, fs=copy)
        except JournalDamaged:
            assert copy.names("data") == ["lock"]
        else:
            assert told(copy) == before


def test_restore_of_a_file_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    """A wrong file name is a usage error, and an empty project stays usable."""
    disk = Disk()
    for wrong, why in (("none.tar.gz", "No such file or directory"), (".", "Is a directory")):
        with pytest.raises(Usage, match=f"cannot read .*: {why}") as caught:
            tools.restore(tmp_path / wrong, ROOT, fs=disk)
        assert (caught.value.code, caught.value.exit_status) == ("usage", 2)
        assert "data" not in disk.names("")
    assert told(disk) == []


def test_unfinished_restore_is_left_to_a_good_archive(tmp_path: Path) -> None:
    """After a killed restore, a bad archive changes nothing, and a good one completes it."""
    disk = Disk()
    before = filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    copy = Disk()
    tools.restore(file, ROOT, fs=copy)
    calls = len(copy.calls)
    copy = Disk()
    copy.fail_once(calls - 12, -1)
    with suppress(PowerCut):
        tools.restore(file, ROOT, fs=copy)
    copy = copy.after_power_cut("all")
    left = copy.names("data")
    assert "restore.tmp" in left
    (tmp_path / "bad.tar.gz").write_bytes(file.read_bytes()[:300])
    with pytest.raises(JournalDamaged):
        tools.restore(tmp_path / "bad.tar.gz", ROOT, fs=copy)
    assert copy.names("data") == left
    tools.restore(file, ROOT, fs=copy)
    assert told(copy) == before


def test_restore_without_room_leaves_the_directory_as_it_was(tmp_path: Path) -> None:
    """If the disk fills up half-way, unpacked files are removed, and the next try has the space."""
    disk = Disk()
    before = filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    copy = Disk()
    copy.room = 2500
    with pytest.raises(OSError) as caught:
        tools.restore(file, ROOT, fs=copy)
    assert caught.value.errno == errno.ENOSPC
    assert copy.names("data") == ["lock"]
    copy.room = None
    tools.restore(file, ROOT, fs=copy)
    assert told(copy) == before


def test_restore_goes_beside_what_is_no_journal(tmp_path: Path) -> None:
    """Logs and leftovers of a daemon are allowed; the index of another journal is removed."""
    disk = Disk()
    before = filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    copy = Disk()
    for folder in ("", "logs", "journal", "snapshots", "quarantine"):
        copy.mkdir(ROOT / folder)
    stays = ["daemon.log", "daemon.log.1", "daemon.sock", "lock", "logs/run_1.jsonl"]
    goes = ["daemon.json", "history.db", "history.db-shm", "history.db-wal"]
    for name in (*stays, *goes):
        copy.put(f"data/{name}", b"1")
    tools.restore(file, ROOT, fs=copy)
    assert copy.names("data") == sorted(
        [
            "daemon.log",
            "daemon.log.1",
            "daemon.sock",
            "lock",
            "logs",
            "journal",
            "snapshots",
            "quarantine",
        ]
    )
    assert copy.names("data/logs") == ["run_1.jsonl"]
    assert told(copy) == before


@pytest.mark.parametrize("name", ["notes.txt", "history.old", "journal/x", "quarantine/x.tail"])
def test_restore_beside_anything_else_is_refused(tmp_path: Path, name: str) -> None:
    """Unknown files are named in the error, and nothing is touched."""
    disk = Disk()
    filled(disk)
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    copy = Disk()
    for folder in ("", "journal", "quarantine"):
        copy.mkdir(ROOT / folder)
    for path in (name, "history.db"):
        copy.put(f"data/{path}", b"1")
    with pytest.raises(Conflict, match=f"not empty: it contains {name.split('/')[0]}$"):
        tools.restore(file, ROOT, fs=copy)
    assert copy.names("data") == sorted(
        {"history.db", "journal", "lock", "quarantine"} | {name.split("/")[0]}
    )


def test_backup_to_a_path_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    """It is a usage error with the path and the reason; nothing is left there."""
    disk = Disk()
    filled(disk)
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "folder").mkdir()
    for wrong, why in (
        ("none/b.tar.gz", "No such file or directory"),
        ("file/b.tar.gz", "Not a directory"),
        ("folder", "Is a directory"),
    ):
        with pytest.raises(Usage, match=f"cannot write .*{wrong}: {why}") as caught:
            tools.backup(ROOT, tmp_path / wrong, fs=disk)
        assert caught.value.exit_status == 2
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_verbs_name_a_full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A full disk is an error with a code and a hint, not a traceback."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tools, "restore", full)
    with pytest.raises(DiskFull, match="journal restore: No space left on device"):
        run_verb("restore", tmp_path, tmp_path / "b.tar.gz", 0)


def test_restore_killed_at_any_call_is_no_journal_until_run_again(tmp_path: Path) -> None:
    """A half restored directory never passes for a journal, least of all for an empty one."""
    disk = Disk()
    before = filled(disk, snapshots=(10, 19))
    file = tmp_path / "b.tar.gz"
    tools.backup(ROOT, file, fs=disk)
    copy = Disk()
    tools.restore(file, ROOT, fs=copy)
    calls = len(copy.calls)
    for number in range(calls):
        # In the short form each call has one kind of power cut, in turn.
        for keep in KEEPS if LONG else [KEEPS[number % len(KEEPS)]]:
            copy = Disk()
            copy.fail_once(number, -1)
            with suppress(PowerCut):
                tools.restore(file, ROOT, fs=copy)
            copy = copy.after_power_cut(keep, number)
            if "data" in copy.names("") and set(copy.names("data")) - {"lock"}:
                try:
                    assert told(copy) == before
                    continue
                except (BadConfiguration, JournalDamaged):
                    pass
            tools.restore(file, ROOT, fs=copy)
            assert told(copy) == before
