"""The HTML and the SVG of a timeline as a browser lays them out: Chromium, headless."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cli.render.pictured import at
from cli.render.test_vector import RUNS
from stackshift_cli.render.html import html as html_of
from stackshift_cli.render.svg import svg

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""`.ci/run` installs it where it may."""
QUIET = """
    --headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --disable-quic
""".split()
MEASURES = """
const box = (e) => {
  const found = e.getBoundingClientRect();
  return [found.left, found.top, found.width, found.height];
};
const all = (what) => [...document.querySelectorAll(what)];
const closed = all("details").map((e) => box(e)[3]);
const summaries = all("details > summary");
summaries.forEach((e) => e.click());
const seen = {
  window: innerWidth,
  wide: document.documentElement.scrollWidth,
  paper: getComputedStyle(document.body).backgroundColor,
  ink: getComputedStyle(document.body).color,
  bars: all("svg rect:not(.gap):not(.paper):not(.stripe)").map(
    (e) => [e.getAttribute("class"), ...box(e)]
  ),
  tracks: all("svg.bars").map(box),
  closed,
  open: all("details").map((e) => box(e)[3]),
  requests: performance.getEntriesByType("resource").map((e) => e.name),
};
document.body.innerHTML = "<pre id=seen></pre>";
document.getElementById("seen").textContent = JSON.stringify(seen);
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here")


def seen(tmp_path: Path, page: str, *options: str, width: int = 1200) -> dict[str, Any]:
    """What `MEASURES` finds out about `page` in a window of `width` pixels."""
    # The page's own policy permits no script, this one neither.
    page = re.sub(r'<meta http-equiv="?Content-Security-Policy[^>]*>', "", page, count=1)
    file = tmp_path / "page.html"
    file.write_text(page + f"<script>{MEASURES}</script>", encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            *QUIET,
            *options,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--window-size={width},900",
            "--dump-dom",
            file.as_uri(),
        ],
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stdout[-2000:]
    measured: dict[str, Any] = json.loads(html.unescape(found[1]))
    return measured


def page(name: str) -> str:
    """The page of one of `RUNS`."""
    shown, seconds = RUNS[name]
    return html_of(shown(), at(seconds))


@pytest.mark.parametrize("width", [1600, 600])
@pytest.mark.parametrize("name", list(RUNS))
def test_page_fits_its_window(tmp_path: Path, name: str, width: int) -> None:
    """Nothing is scrolled sideways, no bar leaves its track, and nothing is requested."""
    found = seen(tmp_path, page(name), width=width)
    assert found["wide"] <= found["window"]
    assert found["requests"] == []
    tracks = found["tracks"]
    assert tracks
    left = min(track[0] for track in tracks)
    right = max(track[0] + track[2] for track in tracks)
    for _, x, _, across, high in found["bars"]:
        assert left - 1 <= x
        assert x + across <= right + 2
        assert high > 0


def test_bars_are_to_scale_on_the_screen(tmp_path: Path) -> None:
    """Twice the window, twice the bars; each where the drawing has it."""
    small, large = (seen(tmp_path, page("failed"), width=width) for width in (1000, 1400))
    stretch = large["tracks"][0][2] / small["tracks"][0][2]
    assert stretch > 1.2
    for (kind, x, _, across, _), (same, far, _, wide, _) in zip(
        small["bars"], large["bars"], strict=True
    ):
        assert kind == same
        offset = (x - small["tracks"][0][0]) * stretch
        assert abs(far - large["tracks"][0][0] - offset) < 2
        assert across < 3 or abs(wide - across * stretch) < 2


def test_steps_open_without_a_script_of_ours(tmp_path: Path) -> None:
    """A click on a row shows more than the row."""
    found = seen(tmp_path, page("failed"))
    assert len(found["closed"]) == 2  # The payload, and the step that failed.
    for closed, opened in zip(found["closed"], found["open"], strict=True):
        assert opened > closed


@pytest.mark.parametrize(
    ("scheme", "darker"), [("0", "paper"), ("1", "ink")], ids=["dark", "light"]
)
def test_page_follows_the_scheme_of_its_reader(tmp_path: Path, scheme: str, darker: str) -> None:
    """In dark, ink is lighter than paper, in light it is darker."""
    found = seen(tmp_path, page("failed"), f"--blink-settings=preferredColorScheme={scheme}")
    lights = {
        name: sum(int(part) for part in re.findall(r"\d+", found[name])[:3])
        for name in ("paper", "ink")
    }
    assert min(lights, key=lambda name: lights[name]) == darker
    assert abs(lights["paper"] - lights["ink"]) > 300


@pytest.mark.parametrize("name", list(RUNS))
def test_drawing_is_drawn(tmp_path: Path, name: str) -> None:
    """Each bar of the SVG has an area inside of the drawing."""
    shown, seconds = RUNS[name]
    found = seen(tmp_path, "<body>" + svg(shown(), at(seconds)))
    assert found["bars"]
    for _, x, y, across, high in found["bars"]:
        assert min(x, y) >= 0
        assert across > 0
        assert high > 0
