"""What the SVG and the HTML of a timeline share: colours, bars to scale, and the words on them.

Documents are built as elements, never as text: what others wrote cannot become markup. Nothing in
them is loaded from elsewhere and nothing in them runs. Bars and labels are where the axis of the
terminal's picture has them, but not rounded to cells.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from xml.etree.ElementTree import Element, SubElement

from stackshift_cli.output.safe_text import safe
from stackshift_cli.render.console import UNICODE, short_id
from stackshift_cli.timeline.axis import Bar
from stackshift_cli.timeline.intervals import Kind
from stackshift_cli.timeline.model import Child, Row, Timeline
from stackshift_jobs.values.durations import format_ms

CELLS: Final = 100
"""The width of the axis, in the cells of which labels take some."""
MARKS: Final = {**UNICODE.statuses, "": "│"}
WORDS: Final = {
    Kind.HOLD: "lock held",
    Kind.WAIT: "wait",
    Kind.BACKOFF: "backoff",
    Kind.FAILED: "failed try",
    Kind.WORK: "work",
    Kind.CHANGE: "code changed",
}
COLORS: Final = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1f2328; --dim: #59636e; --line: #d1d9e0;
  --stripe: #f6f8fa; --work: #2da44e; --running: #1b7fd4; --failed: #d1242f; --backoff: #c297f0;
  --wait: #a8c7ec; --hold: #1b7fd4; --change: #bf8700; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --dim: #9198a1;
  --line: #3d444d; --stripe: #151b23; --work: #3fb950; --running: #58a6ff; --failed: #f85149;
  --backoff: #8957e5; --wait: #2f4d75; --hold: #58a6ff; --change: #d29922; } }
.work { fill: var(--work); } .running { fill: var(--running); } .failed { fill: var(--failed); }
.backoff { fill: var(--backoff); } .wait { fill: var(--wait); } .hold { fill: var(--hold); }
.change { fill: var(--change); } .gap { fill: var(--stripe); }
.is-completed { color: var(--work); } .is-failed { color: var(--failed); }
.is-cancelled { color: var(--change); } .is-running { color: var(--running); }
.is-waiting { color: var(--hold); } .is-retrying { color: var(--backoff); }
"""


def child_of(parent: Element, tag: str, text: str = "", **attributes: str) -> Element:
    """A new element in `parent`, with `text`; `class_` stands for `class`."""
    given = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    made = SubElement(parent, tag, given)
    if text:
        made.text = text
    return made


def css_class(bar: Bar, row: Row) -> str:
    """The class of a bar: its kind, or that the row is still at work."""
    is_live = bar.span.kind is Kind.WORK and row.status == "running"
    return "running" if is_live else bar.span.kind.value


def title(bar: Bar, row: Row) -> str:
    """What is shown over a bar: `upload: work 1.2s, 12:41:20.123 to 12:41:21.323 UTC`."""
    took = format_ms((bar.span.end_us - bar.span.start_us) // 1000)
    when = f"{clock(bar.span.start_us)} to {clock(bar.span.end_us)} UTC"
    return f"{safe(row.name)}: {WORDS[bar.span.kind]} {took}, {when}"


def clock(us: int) -> str:
    """The time of day in UTC, to the millisecond: `12:41:20.123`."""
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%H:%M:%S.%f")[:-3]


def note(row: Row) -> str:
    """What is said after the bar."""
    parts = [child_words(row.child) if row.child is not None else "", safe(row.remark)]
    return " ".join(filter(None, parts))


def child_words(child: Child) -> str:
    """`resizeAvatar completed run_…ee9chr`."""
    named = " ".join(filter(None, (child.job, child.status, short_id(child.id, UNICODE))))
    return safe(f"{named}: {child.why}" if child.why else named)


def took(row: Row) -> str:
    """How long the row took; nothing for one without a duration."""
    return format_ms(row.duration_ms) if row.spans and row.status else ""


def spent(line: Timeline) -> str:
    """`completed in 9.0s (active 6.0s · backoff 2.0s · waiting 1.0s)`."""
    totals = line.totals
    total = format_ms(totals.total_ms)
    took = f"{line.status} in {total}" if line.finished else f"{line.status}, {total} so far"
    parts = {"active": totals.active_ms, "backoff": totals.backoff_ms, "waiting": totals.waiting_ms}
    named = [f"{n} {format_ms(ms)}" for n, ms in parts.items() if ms or n != "backoff"]
    return f"{took} ({' · '.join(named)})"


def codes(line: Timeline) -> str:
    """`3f9c2a1`, or `023452b → 56e2988` if the code changed on the way."""
    first = [change.before for change in line.changes[:1]] or [line.code]
    return " → ".join(code[:7] for code in (*first, *(change.after for change in line.changes)))
