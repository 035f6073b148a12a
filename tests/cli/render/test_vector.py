"""The SVG and the HTML of a timeline: well-formed, escaped, self-contained, and to scale."""

from __future__ import annotations

import html.parser
import itertools
import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from cli.render.pictured import at, failed_run, parent_run, tall_run
from stackshift_cli.daemon.run_detail import Shown
from stackshift_cli.render.html import html as html_of
from stackshift_cli.render.svg import CELL, svg
from stackshift_cli.render.vector import CELLS
from stackshift_cli.timeline.axis import bars, labels, lay_out
from stackshift_cli.timeline.branches import tree
from stackshift_cli.timeline.build import build

RUNS: dict[str, tuple[Callable[[], Shown], float]] = {
    "failed": (failed_run, 25),
    "tall": (tall_run, 41),
    "parent": (parent_run, 9),
}
NAMESPACE = "{http://www.w3.org/2000/svg}"
HOSTILE = "</style><script>alert(1)</script>\x1b[2J\u202e\ud800 ]]> &amp; \"'"


class Page(html.parser.HTMLParser):
    """Reads a page: its elements, whether they nest, and its text by what it stands in."""

    VOID = frozenset(("meta",))

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements `tag`."""
        return [attributes for name, attributes in self.tags if name == tag]


def page(name: str) -> Page:
    """The page of one of `RUNS`."""
    run, seconds = RUNS[name]
    read = Page(html_of(run(), at(seconds)))
    assert read.open == []
    return read


def drawing(name: str) -> ElementTree.Element:
    """The SVG of one of `RUNS`."""
    run, seconds = RUNS[name]
    return ElementTree.fromstring(svg(run(), at(seconds)))


def rectangles(root: ElementTree.Element) -> list[tuple[str, float, float]]:
    """The bars of a drawing: kind, x and width."""
    left_out = ("paper", "gap")
    return [
        (rect.get("class", ""), float(rect.get("x", "")), float(rect.get("width", "")))
        for rect in root.iter(f"{NAMESPACE}rect")
        if rect.get("class") not in left_out
    ]


@pytest.mark.parametrize("name", ["failed", "parent"])
def test_bars_of_the_drawing_are_where_the_axis_has_them(name: str) -> None:
    """Each span is a bar, to scale and unrounded, on the axis of the terminal's picture."""
    run, seconds = RUNS[name]
    line = build(run().run, at(seconds))
    rows = tree(line)
    spans = [span for row in rows for span in row.row.spans]
    axis = lay_out(spans, line.start_us, line.end_us, CELLS)
    expected = [bar for row in rows for bar in bars(row.row.spans, axis)]
    drawn = rectangles(drawing(name))
    assert [kind for kind, _, _ in drawn] == [bar.span.kind.value for bar in expected]
    left = drawn[0][1] - expected[0].start_cell * CELL
    for (_, x, width), bar in zip(drawn, expected, strict=True):
        assert abs(x - left - bar.start_cell * CELL) < 0.01
        assert abs(width - max((bar.end_cell - bar.start_cell) * CELL, 1.5)) < 0.01


def test_bars_of_the_page_are_where_those_of_the_drawing_are() -> None:
    """In percent of the width, so that the page may be as wide as its window."""
    drawn = rectangles(drawing("failed"))
    left = drawn[0][1]
    found = [each for each in page("failed").named("rect") if each["class"] != "gap"]
    assert [each["class"] for each in found] == [kind for kind, _, _ in drawn]
    for each, (_, x, _) in zip(found, drawn, strict=True):
        assert abs(float(str(each["x"]).rstrip("%")) - (x - left) * 100 / (CELLS * CELL)) < 0.01


@pytest.mark.parametrize("name", list(RUNS))
def test_each_bar_says_what_it_is(name: str) -> None:
    """Over a bar: the step, what the time was spent on, how long, and from when to when in UTC."""
    titles = [each.text or "" for each in drawing(name).iter(f"{NAMESPACE}title")][1:]
    said = re.compile(r".+: [a-z ]+ [\dhms.d]+, \d\d:\d\d:\d\d\.\d{3} to \d\d:\d\d:\d\d\.\d{3} UTC")
    told = [title for title in titles if said.fullmatch(title)]
    assert len(told) == len(rectangles(drawing(name)))


@pytest.mark.parametrize("name", list(RUNS))
def test_nothing_is_loaded_and_nothing_runs(name: str) -> None:
    """No reference to anything outside the file, no script, in light and in dark."""
    run, seconds = RUNS[name]
    for text in (svg(run(), at(seconds)), html_of(run(), at(seconds))):
        outside = re.sub(r"http://(?:www.w3.org/2000/svg|127)", "", text)
        assert not re.search(r"\b(?:href|src)\s*=|url\(|@import|https?:", outside)
        assert "<script" not in text
        assert "prefers-color-scheme: dark" in text
    policy = page(name).named("meta")[-1]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def hostile_run() -> Shown:
    """A run in which every name, text and value is hostile."""
    shown = failed_run()
    run = shown.run
    run |= {"job": HOSTILE, "labels": {HOSTILE: HOSTILE}, "payload": {HOSTILE: [HOSTILE]}}
    run["error"] = {"type": HOSTILE, "message": HOSTILE, "traceback": HOSTILE}
    for entry in run["timeline"]:
        if entry.get("step"):
            entry["step"] = HOSTILE + entry["step"]
        if entry.get("error"):
            entry["error"] = run["error"]
    name = HOSTILE + "download"
    run["steps"] = [{"name": name, "kind": "run", "status": "completed", "result": HOSTILE}]
    shown.logs = [{"at": "2026-05-06T09:00:21.500000Z", "step": name, "message": HOSTILE}]
    return shown


def test_what_others_wrote_is_text() -> None:
    """Names, payloads, errors, results and logs cannot become elements (guarantee: safe text)."""
    drawn = svg(hostile_run(), at(25))
    ElementTree.fromstring(drawn)
    text = html_of(hostile_run(), at(25))
    read = Page(text)
    assert read.open == []
    assert read.named("script") == []
    for each in (drawn, text):
        assert not set(each) & set("\x1b\u202e\ud800")
        each.encode("utf-8")
    shown = "".join(data for _, data in read.texts)
    assert "<script>alert(1)</script>\\x1b[2J\\u202e\\ud800" in shown


def test_steps_open_to_what_is_recorded_of_them() -> None:
    """Result, error with the whole traceback, and output; without any script."""
    shown = failed_run()
    shown.run["steps"].insert(
        0, {"name": "download", "kind": "run", "status": "completed", "result": {"bytes": 12}}
    )
    outside = {**shown.tails["upload"][0], "step": None, "message": "of the handler"}
    shown.logs = [*shown.tails["upload"], outside]
    read = Page(html_of(shown, at(25)))
    blocks = [data for tag, data in read.texts if tag == "pre"]
    assert any('"bytes": 12' in block for block in blocks)
    assert any("requests/adapters.py" in block and "conn = self" in block for block in blocks)
    assert any("PUT \\x1b[2J 12 kB" in block for block in blocks)
    assert any("of the handler" in block for block in blocks)
    # The payload, two steps and the output; waits and the handler have nothing more to say.
    assert len(read.named("details")) == 4


def test_child_is_inside_with_its_own_steps() -> None:
    """The rows of a child, which open too, on the axis of its parent."""
    read = page("parent")
    assert [each for each in read.named("div") if each.get("class") == "child"]
    names = [str(each.get("title")) for each in read.named("span") if each.get("class") == "name"]
    assert names == ["list", "resize all", "queued", "fetch", "handler"]
    assert any('{\n  "<b>": "&"\n}' in data for tag, data in read.texts if tag == "pre")


def test_items_of_a_large_map_are_inside_its_row() -> None:
    """A map of forty is one row that opens to forty."""
    names = [str(each.get("title")) for each in page("tall").named("span") if "title" in each]
    assert names.count("resize-picture") == 1
    assert sum(name.startswith("resize-picture[") for name in names) == 40


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("density", [1.0, 0.7, 0.35, 0.15])
def test_labels_of_an_axis_never_touch(name: str, density: float) -> None:
    """A blank is between them, and the last ends with the axis, also where cells are narrower than
    characters; wherever there is room for any, there is one."""
    run, seconds = RUNS[name]
    line = build(run().run, at(seconds))
    spans = [span for row in tree(line) for span in row.row.spans]
    axis = lay_out(spans, line.start_us, line.end_us, CELLS)
    placed = sorted((at, at + len(text) / density) for at, text in labels(axis, density))
    assert placed
    assert placed[-1][1] <= CELLS
    assert all(b + 0.99 / density <= a for (_, b), (a, _) in itertools.pairwise(placed))


@pytest.mark.parametrize("name", RUNS)
def test_page_shows_the_labels_that_its_width_has_room_for(name: str) -> None:
    """There is a set for each width, and exactly one of them is shown; what opens has a mark."""
    run, seconds = RUNS[name]
    text = html_of(run(), at(seconds))
    read = page(name)
    sets = [each["class"] for each in read.named("div") if "labels-" in (each.get("class") or "")]
    assert sets == [f"labels-{number}" for number in range(len(sets))]
    for width in (100, 300, 400, 600, 700, 2000):
        shown = {sets[-1]: True}
        for least, most, rules in re.findall(
            r"@container \(min-width: ([\d.]+)px\)(?: and \(max-width: ([\d.]+)px\))? {(.*)}", text
        ):
            if float(least) <= width <= float(most or "inf"):
                found = re.findall(r"(labels-\d) { display: (\w+); }", rules)
                shown |= {label: display == "block" for label, display in found}
        assert sum(shown.values()) == 1
    opened = [each.get("class") or "" for each in read.named("summary")]
    assert opened[0] == "plain dim"
