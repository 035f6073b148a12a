"""`checkpoint` and `heartbeat`, outside of where they belong and inside."""

from __future__ import annotations

import pytest

from cli.conftest import Shell


@pytest.fixture
def here(real: Shell) -> Shell:
    """The project made by `init`, whose workers import what is tested."""
    config = '[workers]\nprocesses = 1\ninherit_env = ["PYTHONPATH"]\n'
    (real.directory / "stackshift.toml").write_text(config)
    return real


@pytest.mark.parametrize("words", [("checkpoint", "1"), ("checkpoint",), ("heartbeat",)])
def test_outside_of_a_step_they_say_where_they_belong(here: Shell, words: tuple[str, ...]) -> None:
    """No daemon is started for that."""
    told = here(*words)
    assert told.code == 2
    assert f"error[usage]: {words[0]} is for the programs of steps" in told.stderr
    assert "hint: stackshift exec" in told.stderr


def test_program_goes_on_from_its_checkpoint_as_it_was_written(here: Shell) -> None:
    """JSON is JSON, text is text; `--raw` prints it without quotes, and none is exit 4."""
    script = """
    stackshift checkpoint; echo "$?"
    stackshift checkpoint --raw && exit 0
    stackshift checkpoint '{"row": 1}'; stackshift checkpoint
    stackshift checkpoint --json --flush 'half way'; stackshift checkpoint
    exit 3
    """
    told = here("exec", "--retry", "1", "--backoff", "10ms", "--", "sh", "-c", script)
    assert told.stdout.splitlines() == [
        "4",
        '{"row":1}',
        '{"recorded":true}',
        '"half way"',
        '"half way"',
        "0",
        "half way",
    ]
    assert told.code == 0


def test_silent_program_ends_with_124(here: Shell) -> None:
    """As after `--timeout`; and the options need each other."""
    told = here("exec", "--heartbeat", "200ms", "--", "sleep", "600")
    assert told.code == 124
    assert "HeartbeatTimeout: step 'command' has not beaten for 200ms" in told.stderr
    for wrong in (("--output-beats",), ("--heartbeat", "0")):
        assert here("exec", *wrong, "--", "true").code == 2


def test_step_of_a_script_has_both(here: Shell) -> None:
    """In the script itself there is no step that they could be for."""
    (here.directory / "long.sh").write_text("""
        stackshift heartbeat 2>/dev/null; echo "$?"
        stackshift step load --retry 1 --backoff 10ms -- sh -c '
            stackshift heartbeat && stackshift checkpoint >/dev/null && exit 0
            stackshift checkpoint 7; exit 1'
        stackshift step quiet --heartbeat 200ms -- sleep 600; echo "$?"
        """)
    told = here("sh", "long.sh")
    assert told.stdout.splitlines() == ["2", "124"]
    assert told.code == 0
