"""Reading the daemon's log while others write, empty and replace it."""

from __future__ import annotations

from pathlib import Path

from stackshift_cli.daemon.log import LogFile


def test_lines_of_a_growing_log_are_each_read_once(tmp_path: Path) -> None:
    """A line is read when it is whole; what is emptied or replaced is read from its beginning."""
    path = tmp_path / "daemon.log"
    log = LogFile(path)
    assert log.last_lines(9) == log.new_lines() == []
    path.write_text("a\nb\nc")
    assert (log.last_lines(1), log.unfinished) == (["b"], "c")
    with path.open("a") as file:
        file.write("d\n")
    assert (log.new_lines(), log.new_lines(), log.unfinished) == (["cd"], [], "")
    path.write_text("e\n")
    assert log.new_lines() == ["e"]


def test_log_in_the_place_of_one_that_was_moved_away_is_read_whole(tmp_path: Path) -> None:
    """Even if the new file is longer than the old one, or there was no file for a while."""
    path = tmp_path / "daemon.log"
    log = LogFile(path)
    path.write_text("a\n")
    assert log.last_lines(9) == ["a"]
    path.rename(tmp_path / "daemon.log.old")
    path.write_text("first\nsecond\n")
    assert log.new_lines() == ["first", "second"]
    path.rename(tmp_path / "daemon.log.older")
    assert log.new_lines() == []
    path.write_text("third\nfourth\nfifth\n")
    assert log.new_lines() == ["third", "fourth", "fifth"]
