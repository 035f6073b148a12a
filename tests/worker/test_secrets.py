"""The worker finds what a payload names, and masks it in all that is printed."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stackshift_jobs.errors import SecretUnavailable
from stackshift_jobs.handler.failures import Failure
from stackshift_jobs.handler.replay import Pass
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.secrets import current_secrets
from stackshiftd.worker.output import run_log, streams
from stackshiftd.worker.output.log_file import LogFile
from stackshiftd.worker.output.log_lines import MAX_LINE
from stackshiftd.worker.output.run_log import MAX_PARTS, RunLog
from stackshiftd.worker.output.streams import OwnLog
from stackshiftd.worker.secrets import (
    MAX_BYTES,
    MAX_HIDDEN,
    MAX_HIDDEN_CHARS,
    MAX_REFERENCES,
    SecretTerms,
    read_payload,
)

TEXT = "worker-s3cret-text"


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    """What this process knows: nothing, at the beginning of each test."""
    fresh = Secrets()
    for module in (run_log, streams):
        monkeypatch.setattr(module, "PROCESS", fresh)
    made_here = current_secrets.set(Secrets(fresh))
    yield fresh
    current_secrets.reset(made_here)


@pytest.fixture
def terms(tmp_path: Path) -> SecretTerms:
    """Those of a project with one secret, in `secrets/token`."""
    root = tmp_path / "project"
    (root / "secrets").mkdir(parents=True)
    (root / ".stackshift").mkdir()
    put(root / "secrets" / "token", TEXT + "\n")
    return SecretTerms(str(root), str(root / ".stackshift"))


def put(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    """Write a file with this mode."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def revealed(reference: Any, terms: SecretTerms) -> str:
    """The text of the secret that a payload names."""
    payload = read_payload(json.dumps({"s": reference}).encode(), terms, Secrets())
    return str(payload["s"].reveal())


def refusal(reference: Any, terms: SecretTerms) -> str:
    """Why a reference is refused: never for something that a retry would change."""
    with pytest.raises(SecretUnavailable) as refused:
        revealed(reference, terms)
    assert not Failure.of(refused.value).retryable
    [[kind, name]] = reference.items()
    assert repr(name) in refused.value.message
    assert ("variable" if kind == "$env" else "file") in refused.value.message
    return refused.value.message


# --- Variables -----------------------------------------------------------------------------


def test_variable_is_read_when_the_handler_is_called(
    terms: SecretTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is at that time: the next pass has another one."""
    monkeypatch.setenv("SHOP_TOKEN", TEXT)
    assert revealed({"$env": "SHOP_TOKEN"}, terms) == TEXT
    monkeypatch.setenv("SHOP_TOKEN", " replaced ")
    assert revealed({"$env": "SHOP_TOKEN"}, terms) == " replaced "


def test_variable_that_is_missing_or_not_allowed_is_named(
    terms: SecretTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name, and not the value: `[secrets] env` says which ones a payload may name."""
    assert "env_file" in refusal({"$env": "SHOP_NOPE"}, terms)
    monkeypatch.setenv("SHOP_TOKEN", TEXT)
    monkeypatch.setenv("OTHER", TEXT)
    few = terms._replace(env=("SHOP_*", "ONE"))
    assert revealed({"$env": "SHOP_TOKEN"}, few) == TEXT
    for name in ("OTHER", "XSHOP_TOKEN", "shop_token", "", "*"):
        assert TEXT not in refusal({"$env": name}, few)
    monkeypatch.setenv("SHOP_BYTES", os.fsdecode(b"\xff\xfe"))
    assert "UTF-8" in refusal({"$env": "SHOP_BYTES"}, terms)


# --- Files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (TEXT, TEXT),
        (TEXT + "\n", TEXT),
        (TEXT + "\r\n", TEXT),
        (TEXT + "\n\n", TEXT + "\n"),
        (f"a\nb {TEXT}\n", f"a\nb {TEXT}"),
        ("", ""),
        ("x" * MAX_BYTES, "x" * MAX_BYTES),
    ],
    ids=["plain", "newline", "crlf", "two newlines", "lines", "empty", "largest"],
)
def test_file_is_its_text_without_the_last_line_end(
    terms: SecretTerms, content: str, text: str
) -> None:
    """Which editors and `echo` add, and nobody means."""
    put(Path(terms.root, "secrets", "token"), content)
    assert revealed({"$file": "secrets/token"}, terms) == text


def test_file_is_looked_for_in_the_project_and_in_folders_of_the_configuration(
    terms: SecretTerms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is the project's; others are by their whole path, also through a link."""
    (tmp_path / "run").mkdir()
    outside = put(tmp_path / "run" / "token", "outside")
    assert "[secrets] files" in refusal({"$file": str(outside)}, terms)
    more = terms._replace(files=("secrets", str(tmp_path / "run")))
    assert revealed({"$file": str(outside)}, more) == "outside"
    assert revealed({"$file": "../run/token"}, more) == "outside"
    Path(terms.root, "secrets", "link").symlink_to(outside)
    assert revealed({"$file": "secrets/link"}, more) == "outside"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert revealed({"$file": str(outside)}, terms._replace(files=("~/run",))) == "outside"


def test_file_outside_of_the_folders_is_not_opened(terms: SecretTerms, tmp_path: Path) -> None:
    """By a path that climbs, by a link, or in the data directory; and a name is no pattern."""
    outside = put(tmp_path / "token", TEXT)
    root = Path(terms.root)
    (root / "secrets" / "link").symlink_to(outside)
    (root / "secrets" / "circle").symlink_to("circle")
    put(root / ".stackshift" / "daemon.json", TEXT)
    for name in (
        "../token",
        str(outside),
        "secrets/link",
        ".stackshift/daemon.json",
        "/etc/passwd",
    ):
        assert "in none of the folders" in refusal({"$file": name}, terms)
    for name in ("secrets/nope", "secrets/tok*", "~/token", "secrets/circle", "a\0b", "x" * 5000):
        assert "cannot be read" in refusal({"$file": name}, terms)
    few = terms._replace(files=("secrets/token",))
    assert revealed({"$file": "secrets/token"}, few) == TEXT
    assert "in none of" in refusal({"$file": "stackshift.toml"}, few)


def test_what_is_no_file_of_ours_is_refused(terms: SecretTerms) -> None:
    """A folder, a pipe that would block, what others can write, what is too large or no text."""
    folder = Path(terms.root, "secrets")
    os.mkfifo(folder / "pipe", 0o600)
    for name in ("secrets", "secrets/pipe", "", "."):
        assert "is not a file" in refusal({"$file": name}, terms)
    for mode in (0o620, 0o602, 0o666):
        put(folder / "open", TEXT, mode)
        assert f"{mode:04o}" in refusal({"$file": "secrets/open"}, terms)
    assert revealed({"$file": "secrets/token"}, terms) == TEXT
    put(folder / "large", "x" * (MAX_BYTES + 1))
    assert str(MAX_BYTES) in refusal({"$file": "secrets/large"}, terms)
    put(folder / "bytes", b"\xff\xfe\x00")
    assert "UTF-8" in refusal({"$file": "secrets/bytes"}, terms)


def test_file_of_another_user_is_refused(
    terms: SecretTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who could put there what the job then trusts; root can do so anyway."""
    real = os.fstat

    def owned_by(uid: int) -> None:
        def fstat(fd: int) -> os.stat_result:
            found = list(real(fd))
            found[stat.ST_UID] = uid
            return os.stat_result(found)

        monkeypatch.setattr(os, "fstat", fstat)

    owned_by(os.geteuid() + 12345)
    assert f"owner {os.geteuid() + 12345}" in refusal({"$file": "secrets/token"}, terms)
    owned_by(0)
    assert revealed({"$file": "secrets/token"}, terms) == TEXT


# --- Payloads ------------------------------------------------------------------------------


def test_payload_without_references_comes_as_it_is(terms: SecretTerms) -> None:
    """Whatever else has a `$` in it; a key that is written with an escape is the same key."""
    for value in ({"a": "$env"}, {"$env": 1}, [1, 2], "$file", None, {"$x": {"$env": "A", "b": 1}}):
        assert read_payload(json.dumps(value).encode(), terms, Secrets()) == value
    for escaped in (b'{"\\u0024file": "secrets/token"}', b'{"$f\\u0069le": "secrets/token"}'):
        assert read_payload(escaped, terms, Secrets()).reveal() == TEXT


def test_payload_names_a_bounded_number_of_secrets(
    terms: SecretTerms, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is read once, however often it is named; more than that many are refused."""
    opened = list[str]()
    real = os.open

    def noted(path: str, *more: int) -> int:
        opened.append(path)
        return real(path, *more)

    monkeypatch.setattr(os, "open", noted)
    one = read_payload(json.dumps([{"$file": "secrets/token"}] * 1000).encode(), terms, Secrets())
    assert len(opened) == 1
    assert one[0] is one[999]
    many = []
    for number in range(MAX_REFERENCES):
        monkeypatch.setenv(f"SHOP_{number}", f"text of {number}")
        many.append({"$env": f"SHOP_{number}"})
    got = read_payload(json.dumps(many).encode(), terms, Secrets())
    assert got[-1].reveal() == f"text of {MAX_REFERENCES - 1}"
    with pytest.raises(SecretUnavailable, match=f"more than {MAX_REFERENCES} secrets"):
        read_payload(json.dumps([*many, {"$env": "HOME"}]).encode(), terms, Secrets())


def test_redacted_values_are_masked_in_the_output(terms: SecretTerms) -> None:
    """The handler has them, texts and numbers; what it prints of them is masked."""
    known = Secrets()
    payload = {"card": {"number": "4111-1111-1111", "pin": 123456789}, "name": "Ada Lovelace"}
    redact = terms._replace(redact=("card", "nope"))
    assert read_payload(json.dumps(payload).encode(), redact, known) == payload
    assert known.mask("4111-1111-1111 123456789 Ada Lovelace") == (
        "[redacted] [redacted] Ada Lovelace"
    )


def test_redacted_values_that_are_masked_are_bounded(terms: SecretTerms) -> None:
    """Short lines of them, and not too many: a payload may come from anybody."""
    known = Secrets()
    notes = ["first note\nsecond line", "x" * (MAX_HIDDEN_CHARS + 1), "short"]
    notes += [f"note {number:06}" for number in range(2 * MAX_HIDDEN)]
    read_payload(json.dumps({"notes": notes}).encode(), terms._replace(redact=("notes",)), known)
    assert known.mask("first note, second line") == "[redacted], [redacted]"
    assert known.mask(f"note {MAX_HIDDEN - 3:06}") == "[redacted]"
    for text in ("x" * (MAX_HIDDEN_CHARS + 1), "short", f"note {2 * MAX_HIDDEN - 1:06}"):
        assert known.mask(text) == text


# --- Output --------------------------------------------------------------------------------


class Log:
    """A run's log that knows a secret, and what is in its file."""

    def __init__(self, folder: Path) -> None:
        pass_ = Pass({})
        pass_.secrets = Secrets(current_secrets.get())
        pass_.secrets.add(TEXT, "[secret]")
        self._path = folder / "run_1.jsonl"
        self.log = RunLog(LogFile(folder, "run_1", 1), 1, 7, pass_)

    def stored(self) -> list[str]:
        """The messages, in order."""
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        return [json.loads(line)["message"] for line in lines]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """A log with nothing in it."""
    made = Log(tmp_path / "logs")
    yield made
    made.log.close()


def test_secret_is_masked_wherever_its_text_is_cut(tmp_path: Path) -> None:
    """In pieces of every size, flushed after each, as text and as bytes of a program."""
    for size in range(1, len(TEXT) + 2):
        for number, way in enumerate(("print", "program", "bytes")):
            one = Log(tmp_path / f"{size}{number}")
            whole = f"my {TEXT}, again {TEXT}\nlast {TEXT}"
            for at in range(0, len(whole), size):
                piece = whole[at : at + size]
                if way == "program":
                    one.log.take("stdout", None, 1, piece.encode())
                elif way == "bytes":
                    one.log.write_bytes("stdout", piece.encode())
                else:
                    one.log.write("stdout", piece)
                    one.log.flush("stdout")
            one.log.close()
            text = "".join(one.stored())
            assert text == "my [secret], again [secret]last [secret]"


def test_what_only_begins_like_a_secret_is_stored(log: Log) -> None:
    """When more comes, when its line ends, and when nothing comes any more."""
    log.log.write("stdout", TEXT[:8])
    log.log.flush("stdout")
    assert log.stored() == []
    log.log.write("stdout", "!")
    log.log.flush("stdout")
    assert log.stored() == [TEXT[:8] + "!"]
    log.log.write("stdout", TEXT[:4])
    log.log.write("stdout", "\n")
    log.log.take("stdout", "step", 1, TEXT[:5].encode())
    log.log.end("stdout", "step", 1)
    log.log.write("stderr", TEXT[:6])
    log.log.close()
    assert log.stored()[1:] == [TEXT[:4], TEXT[:5], TEXT[:6]]


def test_records_of_logging_are_masked_in_all_their_lines(log: Log) -> None:
    """A traceback in one, for example."""
    log.log.record("ERROR", f"failed\n  at {TEXT}\n  {TEXT}")
    assert log.stored() == ["failed\n  at [secret]\n  [secret]"]


def test_line_is_masked_before_it_is_cut(log: Log) -> None:
    """A line that is too long shows no part of a secret at its end."""
    for before in range(MAX_LINE - len(TEXT), MAX_LINE + 1):
        log.log.write("stdout", "x" * before + TEXT + "\n")
    assert len(log.stored()) == len(TEXT) + 1
    for line in log.stored():
        assert TEXT[:3] not in line


def test_many_small_parts_show_no_secret(log: Log) -> None:
    """More than are stored apart, before the line ends."""
    for letter in TEXT * (2 * MAX_PARTS // len(TEXT)):
        log.log.write("stdout", letter)
        log.log.flush("stdout")
    log.log.close()
    assert TEXT not in "".join(log.stored())
    assert "[secret][secret]" in "".join(log.stored())


def test_program_that_another_run_left_behind_shows_no_secret(log: Log, process: Secrets) -> None:
    """Its output comes to the log of whichever run is alone then, which does not know its
    secrets."""
    process.add("secret-of-an-earlier-run", "[secret]")
    log.log.take("stdout", None, 3, b"late secret-of-an-earlier-run\n")
    log.log.close()
    assert log.stored() == ["late [secret]"]


def test_output_of_no_run_shows_no_secret(process: Secrets) -> None:
    """The log of the daemon: lines, those that are too long, and what is flushed before its end."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    process.add(TEXT, "[secret]")
    own = OwnLog(writing, "w7: ")
    for piece in ("a ", TEXT[:5], TEXT[5:], " b\nc ", TEXT[:9]):
        own.write("stdout", piece.encode())
        own.flush("stdout")
    own.write("stdout", TEXT[9:].encode() + b"\n")
    assert os.read(reading, 1000) == b"w7: a \nw7: [secret]\nw7:  b\nw7: c \nw7: [secret]\n"
    own.write("stdout", b"x" * (MAX_LINE - 4) + TEXT[:9].encode())
    own.write("stdout", TEXT[9:].encode() + b"\xff\n")
    shown = os.read(reading, 1 << 17)
    assert shown == b"w7: " + b"x" * (MAX_LINE - 4) + b"\nw7: [secret]\xff\n"
