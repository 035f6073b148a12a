"""The rows and spans of a run's timeline, and the axis: no terminal, no clock."""

from __future__ import annotations

from typing import Any

from stackshift_cli.timeline.axis import Axis, lay_out, short, strip, ticks
from stackshift_cli.timeline.build import build
from stackshift_cli.timeline.failure import where
from stackshift_cli.timeline.intervals import Kind
from stackshift_cli.timeline.model import Child, CodeChange, Row, Timeline, Totals
from stackshift_cli.timeline.progress import Progress
from stackshift_jobs.values.durations import rfc3339

T0_US = 1_800_000_000_000_000
TIMEOUT = {
    "type": "TimeoutError",
    "message": "PUT timed out",
    "traceback": 'File "/srv/jobs/media.py", line 48, in put\nTimeoutError',
}


def at(seconds: float) -> str:
    """The time `seconds` after the run was created."""
    return rfc3339(T0_US + round(seconds * 1e6))


class Log:
    """A run's records, built in the order in which they happen."""

    def __init__(self, **run: Any) -> None:
        self.run: dict[str, Any] = {"id": "run_x", "created_at": at(0), "status": "running", **run}
        self.records: list[dict[str, Any]] = []

    def add(self, seconds: float, kind: str, **more: Any) -> Log:
        """Add a record and return the log."""
        seq = len(self.records) + 1
        self.records.append({"seq": seq, "at": at(seconds), "kind": kind, "run": "run_x", **more})
        return self

    def lost(self, seconds: float, attempt: int = 1) -> Log:
        reason = f"worker w{attempt} died"
        return self.add(seconds, "attempt.lost", attempt=attempt, reason=reason)

    def started(self, seconds: float, attempt: int = 1) -> Log:
        """An attempt starts."""
        return self.add(seconds, "attempt.started", attempt=attempt, code="abc", worker="w1")

    def done(self, seconds: float, step: str, ms: int, tried: int = 1) -> Log:
        """A step completes after `ms` milliseconds."""
        return self.add(
            seconds, "step.completed", step=step, duration_ms=ms, tried=tried, attempt=1
        )

    def failed(self, seconds: float, step: str, ms: int, retry: float | None = None) -> Log:
        """A try of a step fails; it is retried at `retry` seconds, if that is given."""
        more = {} if retry is None else {"retry_at": at(retry)}
        return self.add(
            seconds, "step.failed", step=step, duration_ms=ms, error=TIMEOUT, attempt=1, **more
        )

    def timeline(self, now: float = 0) -> Timeline:
        """The timeline at `now`, in seconds since the run was created."""
        return build(self.run | {"timeline": self.records}, T0_US + round(now * 1e6))

    def end(self, seconds: float) -> Timeline:
        """The timeline of the run when it has completed."""
        return self.add(seconds, "run.completed").timeline()


def run_log(seconds: float = 0, **run: Any) -> Log:
    """A run that was created at 0 and has left the queue `seconds` later."""
    return Log(**run).add(0, "run.created").started(seconds)


def spans(row: Row) -> list[tuple[str, float, float]]:
    """A row's spans as kind, from, to, in seconds since the run was created."""
    return [(s.kind.value, (s.start_us - T0_US) / 1e6, (s.end_us - T0_US) / 1e6) for s in row.spans]


def rows(timeline: Timeline) -> dict[str, Row]:
    """Rows by name, in order."""
    return {row.name: row for row in timeline.rows}


def test_queue_and_steps_are_rows_in_the_order_in_which_they_begin() -> None:
    """The time in the queue and each step have a row; the duration of a step gives its
    beginning."""
    told = rows(run_log(1).done(5, "b", 1000).done(6, "a", 5000).end(6))
    assert list(told) == ["queued", "a", "b"]
    assert spans(told["queued"]) == [("wait", 0, 1)]
    assert spans(told["a"]) == [("work", 1, 6)]
    assert told["a"].status == told["queued"].status == "completed"


def test_tries_of_a_step_are_failed_spans_with_backoff_between() -> None:
    """Each failed try has its duration, and the time until the next one."""
    log = run_log().failed(1, "upload", 1000, retry=3).failed(4, "upload", 500, retry=8)
    row = rows(log.done(9, "upload", 800).end(9))["upload"]
    assert spans(row) == [
        ("failed", 0, 1),
        ("backoff", 1, 3.5),
        ("failed", 3.5, 4),
        ("backoff", 4, 8.2),
        ("work", 8.2, 9),
    ]
    assert [(t.number, t.took_ms, t.retry_ms, where(t.traceback)) for t in row.tries] == [
        (1, 1000, 2000, "media.py:48"),
        (2, 500, 4000, "media.py:48"),
    ]
    assert (row.status, row.remark, row.duration_ms) == ("completed", "try 3", 9000)


def test_failure_of_an_attempt_backs_off_on_the_row_of_its_step() -> None:
    """If a step's failure ends the attempt, the wait for the next attempt is drawn in its row."""
    log = run_log().failed(1, "pay", 1000)
    log.add(1, "attempt.failed", attempt=1, step="pay", error=TIMEOUT, retry_at=at(3))
    row = rows(log.started(3, 2).done(4, "pay", 1000).end(4))["pay"]
    assert spans(row) == [("failed", 0, 1), ("backoff", 1, 3), ("work", 3, 4)]
    assert [(t.number, t.retry_ms) for t in row.tries] == [(1, 2000)]


def test_failure_outside_of_steps_has_a_row_of_its_own() -> None:
    """An error raised by the handler itself is drawn in the handler's row."""
    log = run_log(1).done(2, "a", 1000).add(3, "attempt.failed", attempt=1, error=TIMEOUT)
    row = rows(log.add(3, "run.failed", attempt=1, error=TIMEOUT).timeline())["handler"]
    assert spans(row) == [("failed", 2, 3)]
    assert (row.status, row.tries[0].retry_ms) == ("failed", None)


def test_handler_without_steps_is_one_bar() -> None:
    """A handler without steps has a row of its own."""
    told = run_log(1, status="completed").end(5)
    assert spans(rows(told)["handler"]) == [("work", 1, 5)]
    assert rows(told)["handler"].status == "completed"
    assert (told.totals.active_ms, told.totals.waiting_ms) == (4000, 1000)


def test_time_of_the_handler_between_steps_is_shown_where_it_is_long() -> None:
    """Seconds of the handler's own are not an idle gap; a moment is not worth a row."""
    told = run_log().done(1, "a", 1000).done(1.4, "b", 100).end(1.5)
    assert "handler" not in rows(told)
    told = run_log().done(1, "a", 1000).done(9, "b", 1000).end(9)
    assert spans(rows(told)["handler"]) == [("work", 1, 8)]
    assert told.totals.active_ms == 9000


def test_waits_are_rows_and_not_active_time() -> None:
    """A sleep counts as waiting; what executed before and after it counts as active."""
    log = run_log().done(2, "a", 2000)
    log.add(2, "wait.started", step="nap", wait="sleep", until=at(100)).add(2, "attempt.suspended")
    log.add(100, "wait.ended", step="nap").add(100, "attempt.resumed", attempt=1)
    told = log.done(103, "b", 3000).end(103)
    assert spans(rows(told)["nap"]) == [("wait", 2, 100)]
    assert rows(told)["nap"].note == "sleep"
    assert (told.totals.active_ms, told.totals.waiting_ms) == (5000, 98_000)


def test_what_is_under_way_lasts_until_now() -> None:
    """A step that was recorded as started is drawn up to the present time."""
    told = run_log().add(1, "step.started", step="a").timeline(now=7)
    assert spans(rows(told)["a"]) == [("work", 0.75, 7)]
    assert (rows(told)["a"].status, told.finished) == ("running", False)


def test_wait_in_the_future_is_scheduled() -> None:
    """Before its time a run is scheduled, not queued."""
    log = Log().add(0, "run.created", scheduled_at=at(60))
    assert [row.name for row in log.timeline(now=5).rows] == ["scheduled"]
    told = log.add(60, "run.queued", reason="due").timeline(now=61)
    assert spans(rows(told)["scheduled"]) == [("wait", 0, 60)]
    assert spans(rows(told)["queued"]) == [("wait", 60, 61)]


def test_lost_attempt_shows_where_it_was_and_why() -> None:
    """The step that was executing has a failed try that says that it was lost."""
    log = run_log().add(1, "step.started", step="a").lost(5).add(6, "attempt.resumed")
    row = rows(log.done(8, "a", 2000).end(8))["a"]
    assert [(t.type, t.message) for t in row.tries] == [("lost", "worker w1 died")]
    assert [s[0] for s in spans(row)] == ["failed", "work"]


def test_run_given_up_after_lost_attempts_failed_in_the_handler() -> None:
    """No row is left running, and the queue's row has not failed."""
    log = run_log(1, status="failed").lost(3)
    assert rows(log.timeline(now=4))["handler"].status == "retrying"
    told = rows(log.started(5).lost(6, 2).add(6, "run.failed", attempt=2, error=TIMEOUT).timeline())
    statuses = {name: row.status for name, row in told.items()}
    assert statuses == {"queued": "completed", "handler": "failed"}
    assert spans(told["handler"]) == [("failed", 1, 3), ("failed", 5, 6)]


def test_handler_that_was_lost_and_then_done_is_done() -> None:
    """The handler's row gets the status of the run."""
    told = rows(run_log(1, status="completed").lost(3).started(4).end(6))
    assert told["handler"].status == "completed"


def test_finished_run_without_records_lasted_as_long_as_it_says() -> None:
    """It does not last until now: the run object has its end and its duration."""
    told = Log(status="completed", finished_at=at(5), duration_ms=3000).timeline(now=1000)
    assert (told.totals.total_ms, told.end_us) == (3000, T0_US + 5_000_000)


def test_cancelled_run_ends_all_that_was_open() -> None:
    """No row of an ended run goes on."""
    log = run_log().add(1, "step.started", step="a")
    told = log.add(4, "run.cancelled", reason="requested").timeline(now=1000)
    assert spans(rows(told)["a"]) == [("work", 0.75, 4)]
    assert (rows(told)["a"].status, told.end_us) == ("cancelled", T0_US + 4_000_000)


def test_retried_run_goes_on_on_the_same_rows() -> None:
    """After `runs retry` the run has not ended yet, and its rows continue."""
    log = (
        run_log().failed(1, "a", 1000).add(1, "attempt.failed", attempt=1, step="a", error=TIMEOUT)
    )
    log.add(1, "run.failed", attempt=1, error=TIMEOUT).add(50, "run.retried", forgotten=["a"])
    assert spans(rows(log.timeline(now=51))["queued"])[-1] == ("wait", 50, 51)
    told = log.started(52, 2).done(53, "a", 1000).end(53)
    assert [s[0] for s in spans(rows(told)["a"])] == ["failed", "work"]
    assert (rows(told)["a"].status, told.end_us) == ("completed", T0_US + 53_000_000)


def test_children_are_named() -> None:
    """The row of a child names its run."""
    log = run_log().add(1, "child.started", step="call", child="run_y", job="pay")
    log.add(1, "wait.started", step="call", wait="child", child="run_y")
    told = rows(log.add(9, "wait.ended", step="call", status="failed").timeline(now=9))
    assert told["call"].child == Child("run_y", "pay", "failed")
    assert told["call"].status == "failed"


def test_steps_without_records_are_shown_as_reused() -> None:
    """Steps that a fork took over have no records, but a row."""
    steps = [
        {"name": "a", "status": "completed", "kind": "run"},
        {"name": "now", "status": "completed", "kind": "value"},
    ]
    told = rows(run_log(steps=steps).timeline(now=1))
    assert told["a"].note == "reused"
    assert "now" not in told


def test_step_may_be_called_like_a_row_that_is_no_step() -> None:
    """A step named `queued` is not the time in the queue."""
    told = run_log(2).done(3, "queued", 1000).timeline(now=3)
    assert [(row.name, spans(row)) for row in told.rows] == [
        ("queued", [("wait", 0, 2)]),
        ("queued", [("work", 2, 3)]),
    ]


def test_kinds_that_are_not_known_change_nothing() -> None:
    """Records of a newer daemon do not break the timeline."""
    log = run_log().add(1, "moon.risen", phase=3)
    assert [row.name for row in log.timeline(now=1).rows] == ["handler"]


def test_progress_is_the_last_that_was_reported() -> None:
    """How far it is, at which pace, and how long the rest takes at that pace."""
    log = Log().add(0, "run.created").add(1, "progress.reported", done=1, total=8)
    told = log.add(2, "progress.reported", done=3, total=8, message="pages").timeline(now=2)
    assert told.progress == Progress(3, 8, "pages", rate=2.0, left_ms=2500)


def test_no_tick_before_success() -> None:
    """Between the end of a backoff and the next outcome, the step runs: nothing says it is done."""
    log = run_log().failed(1, "pay", 1000, retry=3).add(1, "attempt.suspended")
    log.add(3, "wait.ended", step="pay")
    assert (rows(log.timeline(3))["pay"].status, rows(log.timeline(3))["pay"].remark) == (
        "running",
        "try 2",
    )
    assert rows(log.add(3, "attempt.resumed").timeline(3.2))["pay"].status == "running"
    assert rows(log.failed(3.5, "pay", 500).timeline(4))["pay"].status == "failed"


def test_step_that_was_forgotten_has_no_tick_and_counts_from_then() -> None:
    """After `runs retry --from` its earlier work is drawn, and neither its outcome, its tries nor
    its time count."""
    log = run_log().failed(1, "a", 1000, retry=2).done(3, "a", 1000)
    log.add(4, "run.failed", attempt=1, error=TIMEOUT).add(10, "run.retried", forgotten=["a"])
    row = rows(log.timeline(11))["a"]
    assert (row.status, row.note, row.duration_ms) == ("queued", "runs again", 0)
    row = rows(log.started(12, 2).done(14, "a", 2000).end(14))["a"]
    assert (row.status, row.note, row.duration_ms) == ("completed", "", 2000)
    assert [s[0] for s in spans(row)] == ["failed", "backoff", "work", "work"]


def test_active_backoff_and_waiting_are_the_whole_time() -> None:
    """Backoff is not work, whether the handler stays in its worker meanwhile or not."""
    log = run_log(1).failed(2, "a", 1000, retry=5).add(2, "attempt.suspended")
    log.add(5, "wait.ended", step="a").add(5, "attempt.resumed").failed(6, "a", 1000, retry=7)
    told = log.done(8, "a", 1000).add(8, "wait.started", step="nap", wait="sleep").timeline(10)
    assert told.totals == Totals(active_ms=3000, backoff_ms=4000, waiting_ms=3000, total_ms=10_000)
    parts = told.totals.active_ms + told.totals.backoff_ms + told.totals.waiting_ms
    assert parts == told.totals.total_ms


def test_workers_on_other_hosts_are_named() -> None:
    """Each once, the last ones; workers of this machine are not."""
    log = run_log().add(1, "attempt.suspended")
    assert log.timeline(2).places == ""
    for second, worker in enumerate(("gpu-1/w2", "w3", "gpu-2/w4", "gpu-1/w2")):
        log.add(2 + second, "attempt.resumed", attempt=1, code="abc", worker=worker)
    assert log.timeline(9).places == "on gpu-1/w2, gpu-2/w4"


def test_change_of_the_code_is_marked_where_it_happened() -> None:
    """The run went on with other code: when, from which, and to which."""
    log = run_log().done(1, "a", 1000).add(2, "attempt.suspended")
    log.add(5, "attempt.resumed", attempt=1, code="abc")
    assert log.timeline(6).changes == []
    told = log.add(7, "attempt.resumed", attempt=1, code="def").timeline(8)
    assert told.changes == [CodeChange(T0_US + 7_000_000, "abc", "def")]
    row = rows(told)["code changed"]
    assert (row.status, row.note, spans(row)) == ("", "abc to def", [("change", 7, 7)])
    assert told.code == "def"


def test_children_have_what_the_caller_knows_of_them() -> None:
    """Job, status and reason; and their timelines, if those were asked for."""
    records = [{"seq": 1, "at": at(1), "kind": "run.created", "run": "run_y"}]
    other = {"id": "run_y", "job": "pay", "status": "waiting", "why": "sleeping"}
    log = run_log(children={"run_y": other | {"created_at": at(1), "timeline": records}})
    log.add(1, "wait.started", step="call", wait="child", child="run_y", job="pay")
    child = rows(log.timeline(3))["call"].child
    assert child is not None and child.timeline is not None
    assert (child.job, child.status, child.why) == ("pay", "waiting", "sleeping")
    assert spans(child.timeline.rows[0]) == [("wait", 1, 3)]


def test_steps_of_a_group_that_failed_together_back_off_together() -> None:
    """Each of them is tried again by the next attempt; what was cut off is too."""
    log = run_log().failed(1, "a", 1000).failed(1, "b", 1000).add(1, "step.started", step="c")
    more = {"step": "a", "more_steps": ["b"], "retry_at": at(3)}
    log.add(2, "attempt.failed", attempt=1, error=TIMEOUT, **more)
    told = rows(log.timeline(2.5))
    assert {name: told[name].status for name in "abc"} == dict.fromkeys("abc", "retrying")
    told = rows(log.started(3, 2).timeline(3.5))
    assert [told[name].status for name in "ab"] == ["running", "running"]
    assert told["c"].tries[0].message == "its attempt failed"


# --- The axis ------------------------------------------------------------------------------


def axis_of(told: Timeline, width: int = 40) -> Axis:
    """The axis for a whole timeline."""
    return lay_out([s for row in told.rows for s in row.spans], told.start_us, told.end_us, width)


def drawn(told: Timeline, width: int = 40) -> list[str]:
    """All rows as codes."""
    axis = axis_of(told, width)
    return [strip(row.spans, axis) for row in told.rows]


def test_bars_are_to_scale() -> None:
    """Half of the time takes half of the cells."""
    told = run_log().done(5, "a", 5000).done(10, "b", 5000).end(10)
    assert drawn(told) == ["#" * 20 + " " * 20, " " * 20 + "#" * 20]


def test_long_idle_gap_is_compressed_and_marked() -> None:
    """A wait of hours takes a few cells, and the axis says how long it was."""
    log = run_log().done(10, "a", 10_000).add(10, "wait.started", step="nap", wait="sleep")
    log.add(7210, "wait.ended", step="nap").add(7210, "attempt.resumed")
    told = log.done(7220, "b", 10_000).end(7220)
    assert drawn(told) == [
        "################                        ",
        "                ---~~---                ",
        "                        ################",
    ]
    assert ticks(axis_of(told)) == "0s               ~ 2h ~ +10s            "


def test_short_waits_are_to_scale() -> None:
    """A pause is not compressed if the work is still visible beside it."""
    told = run_log().done(2, "a", 2000).done(6, "b", 1000).end(6)
    assert "~" not in ticks(axis_of(told))


def test_what_executes_is_never_invisible() -> None:
    """A step without a duration has a cell."""
    log = run_log().done(0, "a", 0).done(100, "b", 100_000)
    told = log.add(100, "run.completed").done(100, "c", 0).timeline()
    assert [row.count("#") for row in drawn(told)] == [1, 40, 1]


def test_many_gaps_leave_room_for_the_work() -> None:
    """Only as many gaps are compressed as there is room for; the width is kept."""
    log = run_log()
    for day in range(30):
        log.done(day * 86_400 + 1, f"day{day}", 1000)
    told = log.end(2_592_000)
    axis = axis_of(told)
    assert len(ticks(axis)) == 40
    assert all(len(row) == 40 for row in drawn(told))
    assert axis.pieces[-1].end_cell <= 40.001


def test_run_without_work_has_an_axis() -> None:
    """A run that only waits is drawn to scale."""
    told = Log().add(0, "run.created").timeline(now=3600)
    assert drawn(told) == ["-" * 40]


def test_axis_ends_with_the_whole_time() -> None:
    """The last label is the end, at the end."""
    assert ticks(axis_of(run_log().done(5, "a", 5000).end(7.3))).endswith(" 7.3s")


def test_queue_without_a_wait_has_no_row() -> None:
    """A run that was dispatched at once shows no time in the queue; one that waits does."""
    assert "queued" not in rows(run_log(0).timeline(1))
    assert "queued" in rows(run_log(0.001).timeline(1))
    assert "queued" in rows(Log().add(0, "run.created").timeline(0))


def test_durations_of_the_axis_are_short() -> None:
    """Parts that are zero are left out."""
    texts = [short(s * 1_000_000) for s in (0, 5, 90, 7200, 7260, 172_800)]
    assert texts == ["0ms", "5s", "1m30s", "2h", "2h01m", "2d"]


def test_kinds_have_codes() -> None:
    """Each kind of span has a code of its own."""
    from stackshift_cli.timeline.axis import CODES

    assert len({CODES[kind] for kind in Kind}) == len(Kind)


# --- Events, locks, and other calls that are no steps ---


def waits(log: Log, seconds: float, step: str, *events: tuple[str, str | None], **more: Any) -> Log:
    """A wait for one of `events` begins."""
    pairs = [list(pair) for pair in events]
    return log.add(seconds, "wait.started", step=step, wait="event", events=pairs, **more)


def test_wait_for_an_event_says_which() -> None:
    """The note names the events that may arrive, and then the one that did."""
    log = run_log()
    waits(log, 1, "approve", ("avatar.approved", "img_123"))
    told = rows(log.timeline(5))
    assert spans(told["approve"]) == [("wait", 1, 5)]
    assert told["approve"].status == "waiting"
    assert told["approve"].note == "event avatar.approved [img_123]"
    event = {"event": "evt_1", "name": "avatar.approved", "correlation_key": "img_123"}
    log.add(9, "wait.ended", step="approve", status="", **event, result=None)
    waits(log, 9, "decision", ("yes", "k"), ("no", None))
    row = rows(log.timeline(10))["decision"]
    assert row.note == "event yes [k], event no"
    log.add(11, "wait.ended", step="decision", status="", event="evt_2", name="no")
    told = rows(log.end(12))
    assert spans(told["approve"]) == [("wait", 1, 9)]
    assert [(row.status, row.note) for row in (told["approve"], told["decision"])] == [
        ("completed", "event avatar.approved [img_123]"),
        ("completed", "event no"),
    ]


def test_wait_that_timed_out_ends_as_its_code_says() -> None:
    """`on_timeout` decides whether it failed, completed or was cancelled."""
    ends = {"fail": "failed", "continue": "completed", "cancel": "cancelled"}
    for on_timeout, status in ends.items():
        log = run_log()
        waits(log, 1, "paid", ("paid", None), on_timeout=on_timeout)
        log.add(3, "wait.ended", step="paid", status="timed_out")
        row = rows(log.timeline(4))["paid"]
        assert (row.status, row.note) == (status, "timed out")


def test_lock_is_waited_for_and_held() -> None:
    """One row: the wait, then the hold until the lock is released; neither is active time."""
    log = run_log()
    log.add(1, "wait.started", step="[lock index]", wait="lock", lock="index")
    assert rows(log.timeline(2))["lock index"].status == "waiting"
    log.add(3, "wait.ended", step="[lock index]", status="")
    log.add(3, "lock.acquired", step="[lock index]", key="index")
    log.done(5, "a", 2000)
    assert spans(rows(log.timeline(6))["lock index"]) == [("wait", 1, 3), ("hold", 3, 6)]
    told = log.add(7, "lock.released", key="index", reason="left").end(7)
    row = rows(told)["lock index"]
    assert spans(row) == [("wait", 1, 3), ("hold", 3, 7)]
    assert (row.status, row.note) == ("completed", "")


def test_lock_without_a_wait_hides_nothing_that_the_handler_does() -> None:
    """What the handler does while it holds the lock still has its row."""
    log = run_log().add(0, "lock.acquired", step="[lock k]", key="k").add(4, "run.completed")
    told = log.add(4, "lock.released", key="k", reason="run").timeline()
    assert spans(rows(told)["lock k"]) == [("hold", 0, 4)]
    assert spans(rows(told)["handler"]) == [("work", 0, 4)]
    assert told.totals.active_ms == 4000
    assert rows(told)["lock k"].status == "completed"


def test_lock_whose_ttl_passed_says_so() -> None:
    """The lock was lost then, and later work was not under it."""
    log = run_log().add(0, "lock.acquired", step="[lock k]", key="k")
    row = rows(log.add(3, "lock.released", key="k", reason="expired").timeline(9))["lock k"]
    assert (spans(row), row.status, row.note) == ([("hold", 0, 3)], "failed", "expired")


def test_sending_is_a_mark_and_a_write_of_state_is_none() -> None:
    """State is read and written all the time; an event wakes other runs and is worth a row."""
    log = run_log()
    log.add(1, "state.set", step="[state.set k]", key="k", value=1, version=1)
    paid = {"event": "evt_1", "name": "paid", "correlation_key": "o:1"}
    log.add(2, "event.received", step="[event.send paid]", **paid, resumed=["run_1", "run_2"])
    told = rows(log.done(3, "a", 100).end(3))
    assert spans(told["event.send paid"]) == [("work", 2, 2)]
    assert told["event.send paid"].note == "event paid [o:1], resumed 2"
    assert not any("state" in name for name in told)


def test_refused_call_is_a_failed_mark_with_its_reason() -> None:
    """It has a row whether or not the handler went on without it."""
    log = run_log()
    error = {"code": "conflict", "message": "k has version 3", "hint": ""}
    told = log.add(1, "call.refused", step="[state.set k]#2", error=error).end(2)
    row = rows(told)["state.set k#2"]
    tries = [(t.type, t.message, t.retry_ms) for t in row.tries]
    assert tries == [("conflict", "k has version 3", None)]
    assert (row.status, spans(row)) == ("failed", [("failed", 1, 1)])


def test_refused_call_that_ends_the_attempt_is_tried_again_on_its_row() -> None:
    """Each refusal is a failed try; once the call succeeds, its row is like any other."""
    error = {"code": "conflict", "message": "k has version 3", "hint": ""}
    log = run_log()
    log.add(1, "call.refused", step="[state.set k]", error=error)
    log.add(1, "attempt.failed", attempt=1, step="[state.set k]", error=TIMEOUT, retry_at=at(3))
    log.started(3, 2).add(3, "state.set", step="[state.set k]", key="k", value=1)
    row = rows(log.end(3))["state.set k"]
    assert [(t.number, t.type, t.retry_ms) for t in row.tries] == [(1, "conflict", 2000)]
    assert [kind for kind, *_ in spans(row)] == ["failed", "backoff", "work"]
    assert row.status == "completed"


def completed(name: str, kind: str, start: float, end: float, **more: str) -> dict[str, str]:
    """A step of the run object."""
    times = {"started_at": at(start), "finished_at": at(end)}
    return {"name": name, "kind": kind, "status": "completed", **times, **more}


def test_steps_without_records_have_the_detail_that_the_daemon_tells() -> None:
    """Of calls in brackets only locks have a row."""
    steps = [
        completed("approve", "event", 1, 3, detail="event avatar.approved [img_123]"),
        completed("[lock k]", "lock", 3, 4, detail="lock k"),
        completed("[event.send paid]", "event", 4, 4),
        completed("[state.set k]", "value", 4, 4),
    ]
    told = rows(run_log(steps=steps).timeline(5))
    assert [(row.name, row.note) for row in told.values() if row.name != "handler"] == [
        ("approve", "event avatar.approved [img_123]"),
        ("lock k", ""),
    ]
    assert spans(told["approve"]) == [("wait", 1, 3)]
