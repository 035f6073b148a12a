"""Shell jobs: a script is a handler, and each of its calls happens once, whatever comes between."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from stackshift_jobs.testing import Stackshift
from stackshiftd.testing.fixture import opened

Open = Callable[..., Stackshift]


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Open]:
    """Opens a project with one shell job, `job`, of which the lines after the header are given;
    `header` are more options of it."""
    with ExitStack() as stack:

        def open_with(text: str, header: str = "", interpreter: str = "/bin/sh") -> Stackshift:
            root = tmp_path / "shop"
            (root / "jobs").mkdir(parents=True)
            (root / "stackshift.toml").touch()
            (root / "jobs" / "hello.py").write_text(
                "import stackshift_jobs as stackshift\n\n\n"
                '@stackshift.job("greet")\n'
                "def greet(ctx):\n"
                '    if ctx.payload.get("fail"):\n'
                '        raise ValueError("no")\n'
                '    return "Hello, " + ctx.payload["name"]\n'
            )
            script = root / "jobs" / "job.sh"
            head = f"#!{interpreter}\n# stackshift: job job {header}\n"
            script.write_text(head + text)
            script.chmod(0o755)
            return stack.enter_context(opened(root, own_module=__name__, own_jobs={}))

        yield open_with


def lines(path: str = "out") -> list[str]:
    """What the steps of a script have written to a file; the project is where scripts run."""
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def printed(fixture: Stackshift, run: str, step: str | None = None) -> list[str]:
    """What a run has printed, in order: the script, or one of its steps."""
    page = fixture.call("run.logs", run=run)["lines"]
    return [line["message"] for line in page if line["step"] == step]


def test_step_runs_once_and_answers_with_its_output_ever_after(shell: Open) -> None:
    """The script is run from the top after the wait: the step is answered from the record."""
    fixture = shell(
        """set -eu
        n=$(stackshift step count -- sh -c 'echo x >> out; wc -l < out')
        stackshift sleep a-while 1h
        echo "again: $n" >> told
        """
    )
    run = fixture.start("job")
    assert run.status == "waiting"
    assert lines() == ["x"]
    fixture.advance("1h")
    assert (run.status, run.result) == ("completed", {"exit_code": 0})
    assert (lines(), lines("told")) == (["x"], ["again: 1"])


def test_output_of_a_step_comes_back_as_it_was(shell: Open) -> None:
    """Without an end of line, with several, with quotes, and empty; byte for byte."""
    fixture = shell(
        r"""set -eu
        for n in 1 2; do
            stackshift step odd -- printf "it's %s \\\\ \"\$x\" \`\n\n  tail" 50% > one.$n
        done
        stackshift step none -- true > empty
        stackshift sleep a-while 1h
        cat one.1 one.2 empty > after
        """
    )
    run = fixture.start("job")
    first = Path("one.1").read_bytes()
    assert first == b'it\'s 50% \\ "$x" `\n\n  tail'
    for path in ("one.1", "one.2", "empty"):
        Path(path).unlink()
    fixture.advance("1h")
    assert run.status == "completed"
    assert Path("after").read_bytes() == first * 2


def test_recorded_step_is_answered_without_starting_anything(shell: Open) -> None:
    """That is what makes it fast: to start the real `stackshift` takes twenty times as long as the
    shell that has the answer."""
    fixture = shell(
        """set -eu
        [ ! -e told ] || export STACKSHIFT_PYTHON=/bin/false
        for n in 1 2 3; do stackshift step page -- echo "page $n" >> told; done
        [ -e slept ] || { touch slept; stackshift sleep a-while 1h; }
        """
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert run.status == "completed"
    assert lines("told") == ["page 1", "page 2", "page 3"] * 2


def test_name_used_again_is_another_step(shell: Open) -> None:
    """By occurrence, from the record as when it is new."""
    fixture = shell(
        """set -eu
        for n in 1 2 3; do stackshift step page -- sh -c "echo $n >> out"; done
        stackshift sleep a-while 1h
        stackshift step page -- sh -c "echo 4 >> out"
        """
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert run.status == "completed"
    assert lines() == ["1", "2", "3", "4"]
    names = [name for name in run.steps if name.startswith("page")]
    assert names == ["page", "page#2", "page#3", "page#4"]


def test_failed_step_that_is_not_caught_is_tried_again(shell: Open) -> None:
    """It alone: the attempt fails with its error, and the next one goes on there."""
    fixture = shell(
        """set -eu
        stackshift step one -- sh -c 'echo one >> out'
        stackshift step two -- sh -c 'echo two >> out; test $(grep -c two out) -ge 2 || exit 9'
        """,
        "retry 1",
    )
    run = fixture.start("job")
    assert run.status == "retrying"
    [failed] = fixture.call("run.get", run=run.id, detail=True)["attempts"]
    assert failed["error"]["message"] == "sh exited with 9"
    assert failed["error"]["exit_code"] == 9
    fixture.advance("2s")
    assert run.status == "completed"
    assert lines() == ["one", "two", "two"]


def test_failed_step_that_is_caught_stays_as_it_is(shell: Open) -> None:
    """With its status and what it had printed, on every later pass."""
    fixture = shell(
        """found=$(stackshift step check -- sh -c 'echo x >> out; echo found; exit 4')
        echo "$? $found" >> told
        stackshift sleep a-while 1h
        """
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert run.status == "completed"
    assert (lines(), lines("told")) == (["x"], ["4 found", "4 found"])


def test_retries_of_a_step_are_waits_of_the_run(shell: Open) -> None:
    """`--retry 2` is three tries, and the script does not run meanwhile."""
    fixture = shell(
        """set -eu
        echo pass >> passes
        stackshift step flaky --retry 2 --backoff 1m -- sh -c 'echo x >> out; exit 3'
        """,
        "retry 0",
    )
    run = fixture.start("job")
    assert (run.status, len(lines())) == ("retrying", 1)
    fixture.advance("70s")
    assert (run.status, len(lines())) == ("retrying", 2)
    fixture.advance("140s")
    assert (run.status, len(lines()), len(lines("passes"))) == ("failed", 3, 3)
    assert run.error is not None
    assert run.error["exit_code"] == 3


def test_script_that_fails_by_itself_fails_its_attempt(shell: Open) -> None:
    """With its status and the end of standard error; recorded steps are not repeated."""
    fixture = shell(
        """stackshift step one -- sh -c 'echo x >> out'
        echo "what now?" >&2
        exit 5
        """,
        "retry 1",
    )
    run = fixture.start("job")
    fixture.advance("2s")
    assert (run.status, lines()) == ("failed", ["x"])
    assert run.error is not None
    assert run.error["message"] == "jobs/job.sh exited with 5: what now?"
    assert (run.error["type"], run.error["exit_code"]) == ("CommandFailed", 5)


def test_environment_says_which_run_it_is(shell: Open) -> None:
    """Run, attempt, job, payload and the key of a step, which is stable over tries."""
    fixture = shell(
        """set -eu
        export MINE=1
        cd jobs; umask 027
        echo "$STACKSHIFT_RUN $STACKSHIFT_ATTEMPT $STACKSHIFT_JOB $(cat "$STACKSHIFT_PAYLOAD")"
        stackshift step key -- sh -c 'echo "$STACKSHIFT_STEP_KEY $MINE $(pwd) $(umask)"'
        """
    )
    run = fixture.start("job", {"a": [1, "é"]})
    assert run.status == "completed"
    assert printed(fixture, run.id) == [f'{run.id} 1 job {{"a": [1, "\\u00e9"]}}']
    here = Path("jobs").resolve()
    assert printed(fixture, run.id, "key") == [f"{run.id}/key 1 {here} 0027"]


def test_what_is_printed_is_in_the_log_once(shell: Open) -> None:
    """What a step prints is there under the step; what a later pass prints again is left out."""
    fixture = shell(
        """set -eu
        echo before
        stackshift step one -- echo from-one
        echo "got $(stackshift step two -- echo from-two)"
        stackshift sleep a-while 1h
        echo after
        """
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert printed(fixture, run.id) == ["before", "got from-two", "after"]
    assert printed(fixture, run.id, "one") == ["from-one"]
    assert printed(fixture, run.id, "two") == ["from-two"]


def test_step_reads_what_the_script_gives_it(shell: Open) -> None:
    """A pipe or a file as standard input; without one it is empty."""
    fixture = shell(
        """set -eu
        printf 'a\\nb\\n' | stackshift step pipe -- sed s/^/-/
        stackshift step file -- head -n 1 < jobs/hello.py
        stackshift step nothing -- cat < /dev/null
        """
    )
    run = fixture.start("job")
    assert run.status == "completed"
    assert printed(fixture, run.id, "pipe") == ["-a", "-b"]
    assert printed(fixture, run.id, "file") == ["import stackshift_jobs as stackshift"]
    assert printed(fixture, run.id, "nothing") == []


def test_state_events_and_starts_of_the_script_happen_once(shell: Open) -> None:
    """However often it is run: a counter is counted once, reads are what they were."""
    fixture = shell(
        """set -eu
        n=$(stackshift state increment counter)
        stackshift state set key '{"n": 1}'
        id=$(stackshift start greet -F name=once)
        stackshift event send sent -p '{"n": 1}'
        stackshift sleep a-while 1h
        echo "$n $(stackshift state get counter) $(stackshift state get key) $id" >> told
        stackshift state delete key
        """
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert run.status == "completed"
    [started] = fixture.runs_of("greet")
    assert lines("told") == [f'1 1 {{"n":1}} {started.id}']
    assert fixture.state.get("counter") == 1
    assert fixture.state.get("key") is None
    assert len(fixture.call("event.list")["events"]) == 1


def test_child_is_waited_for_durably_and_its_failure_is_the_scripts(shell: Open) -> None:
    """`start --wait` prints the result; a failed child ends the script like a failed command."""
    fixture = shell(
        """set -eu
        echo "told $(stackshift start greet -F name=Ada --wait)"
        stackshift start greet -F name=Ada -F fail=yes --wait
        """,
        "retry 3",
    )
    run = fixture.start("job")
    fixture.advance("1m")
    assert printed(fixture, run.id)[0] == 'told "Hello, Ada"'
    assert run.status == "failed"
    assert run.error is not None
    assert run.error["type"] == "ChildFailed"
    assert len(fixture.runs_of("greet")) == 2


def test_event_is_waited_for_and_told(shell: Open) -> None:
    """Its payload is printed, on every later pass too."""
    fixture = shell(
        """set -eu
        p=$(stackshift wait-event paid --correlation-key "order:$STACKSHIFT_RUN" --timeout 1d)
        late=$(stackshift wait-event approved --timeout 1h --on-timeout continue)
        echo "$p|$late" > told
        """
    )
    run = fixture.start("job")
    assert run.waiting_for is not None
    assert run.waiting_for["event"] == "paid"
    fixture.events.send("paid", {"cents": 5}, correlation_key=f"order:{run.id}")
    fixture.advance("2h")
    assert run.status == "completed"
    assert lines("told") == ['{"cents":5}|']


def test_wait_that_times_out_ends_the_run_as_it_says(shell: Open) -> None:
    """Without `--on-timeout` it fails, and is not retried."""
    fixture = shell("stackshift wait-event paid --timeout 1h; echo never > told", "retry 3")
    run = fixture.start("job")
    fixture.advance("2h")
    assert (run.status, lines("told")) == ("failed", [])


@pytest.mark.parametrize("when", ["before_step", "before_record", "after_record"])
def test_worker_that_dies_repeats_only_what_was_not_recorded(shell: Open, when: str) -> None:
    """As with any handler: at most the step that was under way."""
    fixture = shell(
        """set -eu
        stackshift step one -- sh -c 'echo one >> out'
        stackshift step two -- sh -c 'echo two >> out'
        stackshift step three -- sh -c 'echo three >> out'
        """
    )
    with fixture.crashing("two", when):
        run = fixture.start("job")
    assert run.status == "completed"
    twice = ["two", "two"] if when == "before_record" else ["two"]
    assert lines() == ["one", *twice, "three"]


def test_restored_daemon_goes_on_after_the_record(shell: Open) -> None:
    """Everything is in the journal: steps, failed ones with their output, and waits."""
    fixture = shell(
        """stackshift step one -- sh -c 'echo one >> out'
        bad=$(stackshift step two -- sh -c 'echo two >> out; echo bad; exit 3')
        echo "$? $bad" >> told
        stackshift sleep a-while 1h
        """
    )
    run = fixture.start("job")
    fixture.restart()
    fixture.advance("1h")
    assert run.status == "completed"
    assert (lines(), lines("told")) == (["one", "two"], ["3 bad", "3 bad"])


def test_result_that_a_person_has_set_is_what_the_step_prints(shell: Open) -> None:
    """`runs retry --set` gives text as it is, and anything else as JSON."""
    fixture = shell(
        """set -eu
        a=$(stackshift step a -- false)
        b=$(stackshift step b -- echo never)
        echo "$a $b" > told
        """,
        "retry 0",
    )
    run = fixture.start("job")
    assert run.status == "failed"
    fixture.call("run.retry", run=run.id, set={"a": "by hand", "b": {"n": 1}})
    fixture.advance("1s")
    assert (run.status, lines("told")) == ("completed", ['by hand {"n": 1}'])


def test_any_interpreter_will_do(shell: Open) -> None:
    """It only has to run programs."""
    fixture = shell(
        """import subprocess
subprocess.run(["stackshift", "step", "one", "--", "sh", "-c", "echo x >> out"], check=True)
subprocess.run(["stackshift", "sleep", "a-while", "1h"], check=True)
""",
        interpreter="/usr/bin/env python3",
    )
    run = fixture.start("job")
    fixture.advance("1h")
    assert (run.status, lines()) == ("completed", ["x"])


@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        ("stackshift step 'a#b' -- true", 2, "'a#b' is not a valid step name"),
        ("stackshift step one -- stackshift step two -- true", 2, "called inside step 'one'"),
        ("stackshift step none -- no-such-program", 127, "not found in PATH"),
        ("stackshift step late --timeout 100ms -- sleep 60", 124, "ran longer than 100ms"),
        ("stackshift exec -- true", 2, "would not be recorded with its outcome"),
        ("stackshift wait-event e --on-timeout explode", 2, "--on-timeout cannot be 'explode'"),
        ("stackshift state get missing", 4, "there is no entry 'missing'"),
        ("stackshift state get missing --wait 1m", 2, "stackshift wait-event waits durably"),
    ],
)
def test_mistake_is_told_to_the_script(shell: Open, call: str, status: int, message: str) -> None:
    """By an exit status and a line on standard error, which is in the log."""
    fixture = shell(f"{call}; echo $? > told; exit 0")
    run = fixture.start("job")
    fixture.advance("1s")
    assert run.status == "completed"
    assert lines("told") == [str(status)]
    log = fixture.call("run.logs", run=run.id)["lines"]
    assert message in "\n".join(line["message"] for line in log)


def test_folder_of_an_execution_is_private_and_gone_afterwards(shell: Open) -> None:
    """Only its own user can enter it, and the token is in the environment of the script alone."""
    fixture = shell(
        """echo "$STACKSHIFT_SCRIPT" > told
        stat -c '%a' "$STACKSHIFT_SCRIPT" >> told
        stackshift step token -- sh -c 'echo "${STACKSHIFT_TOKEN-none}"'
        """
    )
    run = fixture.start("job")
    [folder, mode] = lines("told")
    assert int(mode, 8) == stat.S_IRWXU
    assert not os.path.lexists(folder)
    assert printed(fixture, run.id, "token") == ["none"]


def test_stray_copy_of_a_lost_execution_changes_nothing(shell: Open) -> None:
    """With another's token, or none, nobody is heard; the caller does not go on to what follows."""
    fixture = shell(
        """export STACKSHIFT_TOKEN=another
        timeout 1 stackshift step one -- sh -c 'echo x >> out' || echo "$?" > told
        """
    )
    run = fixture.start("job")
    assert run.status == "completed"
    assert (lines(), lines("told")) == ([], ["124"])
    assert not run.steps


def test_gentle_cancel_is_exit_7_of_the_wait_and_later_calls_are_carried_out(shell: Open) -> None:
    """So that a trap cleans up by steps; `set -e` does the rest."""
    fixture = shell(
        """set -eu
        trap 'stackshift step release -- sh -c "echo released >> out"' EXIT
        stackshift step reserve -- sh -c 'echo reserved >> out'
        trap - EXIT
        status=0
        stackshift wait-event paid || status=$?
        if [ $status -eq 7 ]; then
            stackshift step release -- sh -c 'echo released >> out'
            stackshift sleep settle 5s
            stackshift step tell -- sh -c 'echo told >> out'
            exit 7
        fi
        """
    )
    run = fixture.start("job")
    assert run.status == "waiting"
    run.cancel(gently=True)
    assert lines() == ["reserved", "released"]
    fixture.advance("5s")
    assert run.status == "cancelled"
    assert lines() == ["reserved", "released", "told"]
    assert run.timeline[-1]["reason"] == "gently"


def test_script_that_ends_at_the_call_that_is_told_is_cancelled(shell: Open) -> None:
    """It need not know of it."""
    fixture = shell("set -eu\nstackshift sleep long 1d\nstackshift step after -- touch after\n")
    run = fixture.start("job")
    run.cancel(gently=True)
    assert run.status == "cancelled"
    assert not Path("after").exists()
