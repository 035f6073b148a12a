"""`runs list|show|why|logs`: inspect runs, without changing them."""

from __future__ import annotations

import difflib
import select
import sys
import time
from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon import run_detail
from stackshift_cli.daemon.session import Session
from stackshift_cli.flows.preflight import check_runs
from stackshift_cli.flows.run_filters import run_filters
from stackshift_cli.flows.unknown_names import say_unknown
from stackshift_cli.flows.watch import detaching
from stackshift_cli.output import log_lines, messages
from stackshift_cli.output.run_name import run_name
from stackshift_cli.output.safe_text import safe, safe_lines
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv
from stackshift_jobs.errors import NotFound, Usage

_PAGE: Final = run_detail.PAGE
_CHILDREN: Final = 5
"""So many children deep `runs why` asks what is waited for."""
_POLL_SECONDS: Final = 0.3
_MOST_NAMES: Final = 10
"""So many steps of a run are named where another was asked for."""


def list_(session: Session, given: Given) -> int:
    """`runs list`: list runs, newest first."""
    return listed(session, given, {"dead": True} if given.flag("dead") else {})


def count(session: Session, given: Given) -> int:
    """`runs count`: how many runs match; with `--by`, how many of each, the most first."""
    params = run_filters(session, given)
    if (by := given.text("by")) is not None:
        params["by"] = by
    reply = session.call("run.count", params)
    counts = reply["counts"]
    if not reply["count"]:
        say_unknown(session, params)
    if session.json:
        by = params.get("by")
        each = [{by: name, "count": number} for name, number in (counts or {}).items()]
        messages.data(messages.compact(each if by else {"count": reply["count"]}))
    elif counts is None:
        messages.data(str(reply["count"]))
    else:
        for name, number in counts.items():
            messages.data(tsv.columns({"name": name, "count": number}, ("name", "count")))
    return 0


def listed(session: Session, given: Given, params: dict[str, Any]) -> int:
    """List the runs that match `params` and the options that `runs list` and `dead list` share."""
    limit = given.whole("limit", 1, 10_000_000) or 50
    params = params | run_filters(session, given)
    if (cursor := given.text("cursor")) is not None:
        params["cursor"] = cursor
    runs, cursor = _pages(session, params, limit)
    if not runs:
        say_unknown(session, params)
    if session.json:
        messages.data(messages.compact(runs))
    elif draws(session.options):
        from stackshift_cli.output.clock import Clock
        from stackshift_cli.render.lists import print_runs

        if runs:
            print_runs(session.options, runs, Clock.now())
        else:
            session.say(_none(params))
        if cursor:
            session.say(f"for more, add --cursor {cursor}")
    else:
        for run in runs:
            messages.data(tsv.columns({**run, "job": run_name(run)}, tsv.RUN_COLUMNS))
    return 0


DEAD_EMPTY: Final = "the dead letter is empty"
DEAD_NO_MATCH: Final = "no matching runs in the dead letter"


def _none(params: dict[str, Any]) -> str:
    """What an empty list means that was asked for with `params`."""
    is_filtered = bool(params.keys() - {"dead"})
    if params.get("dead"):
        return DEAD_NO_MATCH if is_filtered else DEAD_EMPTY
    return "no matching runs" if is_filtered else "no runs"


def _pages(
    session: Session, params: dict[str, Any], limit: int
) -> tuple[list[dict[str, Any]], str | None]:
    """At most `limit` runs, and the cursor of the next page."""
    runs: list[dict[str, Any]] = []
    cursor: str | None = params.get("cursor")
    while len(runs) < limit:
        page = session.call(
            "run.list",
            {
                **params,
                "limit": min(limit - len(runs), _PAGE),
                **({"cursor": cursor} if cursor else {}),
            },
        )
        runs += page["runs"]
        cursor = page["cursor"]
        if cursor is None:
            break
    return runs, cursor


def show(session: Session, given: Given) -> int:
    """`runs show RUN`: draw its timeline on a terminal, to a file, or where it is asked for; else
    print one line per entry in a pipe."""
    name, svg, html = given.word("run"), given.text("svg"), given.text("html")
    if svg is not None or html is not None:
        from stackshift_cli.render.export import export

        return export(session, name, svg, html, _now_us())
    if session.json:
        run, logs = _run_and_logs(session, given)
        messages.data(messages.compact({**run, "logs": logs} if given.flag("logs") else run))
    elif given.flag("picture") or session.options.color == "always" or draws(session.options):
        from stackshift_cli.render.printed import print_run

        shown = run_detail.fetch(session, name, given.flag("logs"), given.flag("tree"))
        print_run(session.options, shown, given.flag("compact"), given.flag("all"), _now_us())
        if shown.run["status"] == "failed" and draws(session.options):
            session.say(f"hint: stackshift runs retry {shown.run['id'][-6:]}")
    else:
        _print_entries(*_run_and_logs(session, given))
    return 0


def _run_and_logs(session: Session, given: Given) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    run = session.detail(given.word("run"))
    return run, run_detail.log_lines(session, run["id"]) if given.flag("logs") else []


def _print_entries(run: dict[str, Any], logs: list[dict[str, Any]]) -> None:
    """Print records and log lines in the order in which they happened; then why the run is not
    progressing, or that its records are gone."""
    entries = [(record["at"], tsv.record(record)) for record in run["timeline"]]
    entries += [(line["at"], tsv.log_entry(run, line)) for line in logs]
    for _, text in sorted(entries, key=lambda entry: entry[0]):
        messages.data(text)
    if not entries and run["finished_at"] is not None:
        from stackshift_cli.timeline.build import FORGOTTEN
        from stackshift_jobs.values.durations import format_ms

        took = "" if run["duration_ms"] is None else f" in {format_ms(run['duration_ms'])}"
        text = f"{run['status']}{took}; {FORGOTTEN}"
        messages.data(tsv.end_line(run, "end", text, run["finished_at"]))
    if run.get("why") and run["finished_at"] is None:
        messages.data(tsv.end_line(run, "why", run["why"]))


def why(session: Session, given: Given) -> int:
    """`runs why RUN`: print in one sentence why it is not progressing, and if it is, how far."""
    reply = session.call("run.why", {"run": given.word("run")})
    if session.json:
        messages.data(messages.compact(reply))
    else:
        text = str(reply["why"] or f"it is {reply['status']}")
        if draws(session.options):
            from stackshift_cli.output.clock import Clock

            text = Clock.now().localized(text)
        messages.data(safe(text + _more(session, reply)))
    return 0


def _more(session: Session, reply: dict[str, Any]) -> str:
    """How far a running run is; or what the child that a run waits for waits for itself."""
    if reply["status"] == "running":
        from stackshift_cli.timeline.progress import progress_of, words

        progress = progress_of(session.detail(reply["run"])["timeline"])
        return f"; {words(progress)}" if progress is not None else ""
    text, seen = "", {reply["run"]}
    while (waits := reply["waiting_for"]) and waits["kind"] in ("child", "run"):
        if waits["run"] is None or waits["run"] in seen or len(seen) > _CHILDREN:
            break
        seen.add(waits["run"])
        try:
            reply = session.call("run.why", {"run": waits["run"]})
        except NotFound:  # removed since
            break
        text += f": {reply['why']}" if reply["why"] else ""
    return text


def logs(session: Session, given: Given) -> int:
    """`runs logs RUN [-f]`: print what the handler printed and logged."""
    run = session.call("run.get", {"run": given.word("run")})["id"]
    params: dict[str, Any] = {"run": run}
    if (step := given.text("step")) is not None:
        params["step"] = step
    after: Any = 0
    silent: set[str] = set()
    is_empty = True
    with detaching(session, run):
        while True:
            page = session.call("run.logs", {**params, "after": after, "limit": _PAGE})
            run_detail.say_missing(session, page, silent)
            for line in page["lines"]:
                is_empty = False
                _print_log_line(session, line)
            sys.stdout.flush()
            after = page["next"]
            if page["more"]:
                continue
            if page["finished"] or not given.flag("follow"):
                if is_empty and step is not None:
                    _say_unknown_step(session, run, step)
                return 0
            select.select([], [], [], _POLL_SECONDS)


def _say_unknown_step(session: Session, run: str, step: str) -> None:
    """Say so if `run` has not reached a step called `step`, which has no lines then. Whoever has
    misspelled it must not take that for a step that printed nothing."""
    names = [str(each["name"]) for each in session.detail(run)["steps"]]
    if step not in names:
        session.say(f"note: {run} has not reached a step {safe(repr(step))}")
        if near := difflib.get_close_matches(step, names, 1):
            session.say(f"hint: did you mean {safe(near[0])}?")
        elif names:
            session.say(f"hint: its steps: {safe(', '.join(names[:_MOST_NAMES]))}")


def _print_log_line(session: Session, line: dict[str, Any]) -> None:
    if session.json:
        messages.data(messages.compact(line))
    elif draws(session.options):
        from stackshift_cli.output.clock import Clock

        at = Clock.now().precise(line["at"])
        messages.data(f"{at} {log_lines.origin(line)}| {safe_lines(line['message'])}")
    else:
        messages.data(tsv.columns(line, tsv.LOG_COLUMNS))


def _now_us() -> int:
    return time.time_ns() // 1000


def replay(session: Session, given: Given) -> int:
    """`runs replay RUN...|--all --check`: say what would become of unfinished runs with the code as
    it is on disk; 5 if one would not go on as it is recorded. Raises `Usage` without `--check`: a
    replay that changes something is a `runs retry`."""
    runs = given.texts("runs")
    if not given.flag("check"):
        raise Usage("runs replay needs --check", hint="runs retry RUN goes on with a failed run")
    if bool(runs) == given.flag("all"):
        raise Usage("give the runs to replay, or --all")
    return check_runs(session, list(runs) or None, {})
