"""A recorded traceback in the few lines that people read first.

    jobs/pictures.py:48 in put
      response = session.put(url, data=body)
    requests/adapters.py:519 in send
    caused by TimeoutError: timed out
      jobs/pictures.py:31 in session
        return connect(host)

The error itself stands above these lines, in the words of whoever shows it. First come the last
frames of the project's code, each with its source line, and where in a library the error arose;
then the last lines that a program has printed which failed; then what a group consists of; then the
causes, the nearest one first. Pure: text in, text out, with nothing escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

FRAMES: Final = 3
"""How many frames of the project's code are shown of the error itself."""
_FRAMES_OF_OTHERS: Final = 1
"""The same for each cause and each part of a group."""
_CAUSES: Final = 3
_PRINTED: Final = 3
"""How many lines of what a program has printed, which stand behind `> ` in the traceback."""
_PARTS: Final = 5
_FRAME: Final = re.compile(r' *File "(?P<file>[^"]*)", line (?P<line>\d+)(?:, in (?P<name>.*))?')
_HEAD: Final = "Traceback (most recent call last):"
_LINKS: Final = {
    "The above exception was the direct cause of the following exception:": "caused by",
    "During handling of the above exception, another exception occurred:": "while handling",
}
_MARGIN: Final = re.compile(r"(?P<indent>(?:  )*)(?P<mark>[|+])(?P<rest>.*)")
_PART: Final = re.compile(r"(?:\+|-\+)?-{10,} (?:\d+|\.\.\.) -{10,}")
_LIBRARY: Final = re.compile(
    r"^<frozen |/(?:site|dist)-packages(?=/)|/lib(?:64)?/python\d[\d.]*(?=/)"
    r"|(?=/stackshift_jobs/)|(?=/stackshiftd/)"
)
_OURS: Final = re.compile(r"/(?:stackshift_jobs|stackshiftd)/")
_UNDERLINE: Final = re.compile(r"[\s~^]*")


@dataclass(frozen=True)
class Frame:
    """A line of code that a traceback names."""

    file: str
    line: int
    function: str
    source: str = ""

    @property
    def is_library(self) -> bool:
        """Does it belong to Python or an installed package?"""
        return _LIBRARY.search(self.file) is not None

    def place(self, root: str) -> str:
        """`jobs/media.py:48 in put`; the file below `root`, or as its package is imported."""
        inside = f" in {self.function}" if self.function else ""
        return f"{_short_file(self.file, root)}:{self.line}{inside}"


@dataclass
class Raised:
    """One exception of a traceback. `text` is empty if the traceback has its frames only. `link`
    says how it led to the one printed after it; `depth` counts the groups that it is a part of."""

    depth: int = 0
    frames: list[Frame] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    link: str = ""
    printed: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Type, message and notes, in one line."""
        return " ".join(self.words)


def exceptions(traceback: str) -> list[Raised]:
    """The exceptions of `traceback`, in the order in which Python prints them: each cause before
    what it led to, a group before its parts. The beginning may have been cut off."""
    found: list[Raised] = []
    for depth, line, is_part in _lines(traceback):
        if line in _LINKS:
            if found:
                _last_at(found, depth).link = _LINKS[line]
            continue
        begins = is_part or line == _HEAD or line.startswith("Exception Group " + _HEAD)
        frame = _FRAME.match(line)
        goes_on = found and _is_empty(found[-1]) and found[-1].depth == depth
        # A cause that was never raised (`raise … from KeyError(key)`) is its text alone.
        is_text = bool(line) and not line.startswith(" ") and (not found or bool(found[-1].link))
        if (begins or (frame and not found) or is_text) and not goes_on:
            found.append(Raised(depth))
        if begins or not found:
            continue
        current = found[-1]
        if frame:
            place = (frame["file"], int(frame["line"]), frame["name"] or "")
            current.frames.append(Frame(*place))
        elif line.startswith("> "):
            current.printed.append(line)
        elif line.startswith("    ") and current.frames and not current.words:
            _add_source(current.frames, line.strip())
        elif line.strip() and not line.startswith("  ") and not _UNDERLINE.fullmatch(line):
            current.words.append(line.strip())
    if found and not found[0].frames and not found[0].link:
        found = found[1:]  # The end of something that was cut off.
    return [each for each in found if not _is_empty(each)]


def _lines(traceback: str) -> Iterator[tuple[int, str, bool]]:
    """The lines without the margins that groups have: how deep in groups each one is, its text, and
    whether a new part of a group begins there."""
    for line in traceback.splitlines():
        margin = _MARGIN.fullmatch(line)
        if margin is None:
            yield 0, line, False
            continue
        # The margin of a group stands further in than the text of what is not part of one.
        depth = max(0, len(margin["indent"]) // 2 - 1)
        rest = margin["rest"]
        if margin["mark"] == "|":
            yield depth, rest.removeprefix(" "), False
        elif _PART.fullmatch(rest):
            # `+-+--- 1 ---` stands in the group's own margin, `+--- 2 ---` in that of its parts.
            yield depth + (1 if rest.startswith("-+") else 0), "", True
        elif not rest.startswith("-"):
            yield depth, rest.strip(), False


def _is_empty(raised: Raised) -> bool:
    return not raised.frames and not raised.words


def _last_at(found: list[Raised], depth: int) -> Raised:
    """The exception printed last at `depth`: parts of it may follow it."""
    return next((each for each in reversed(found) if each.depth <= depth), found[-1])


def _add_source(frames: list[Frame], source: str) -> None:
    last = frames[-1]
    if not last.source and not _UNDERLINE.fullmatch(source):
        frames[-1] = Frame(last.file, last.line, last.function, source)


def where(traceback: str) -> str:
    """The innermost place in the project's code that the error came through, as `media.py:48`;
    empty if the traceback names none."""
    frames = [frame for each in _error_first(exceptions(traceback)) for frame in each.frames]
    chosen = _chosen(frames, 1)
    return f"{chosen[0].file.rpartition('/')[2]}:{chosen[0].line}" if chosen else ""


def summary(traceback: str, root: str = "", brief: bool = False) -> list[str]:
    """The lines to show below the error; see the head of this file. Files below the directory
    `root` are named from there. `brief`: only where the project's code failed."""
    chain, parts = _chain_and_parts(exceptions(traceback))
    if not chain:
        return []
    if brief:
        frames = chain[0].frames or next((part.frames for part in parts), [])
        return list(_frames(frames, 1, root))
    lines = _details(chain[0], FRAMES, root)
    for part in parts[:_PARTS]:
        lines.append(f"part {part.text}")
        lines += _indented(_details(part, _FRAMES_OF_OTHERS, root))
    if len(parts) > _PARTS:
        lines.append(f"and {len(parts) - _PARTS} more parts")
    for cause in chain[1 : 1 + _CAUSES]:
        lines.append(f"{cause.link} {cause.text}")
        lines += _indented(_details(cause, _FRAMES_OF_OTHERS, root))
    return lines


def _details(raised: Raised, count: int, root: str) -> list[str]:
    """Its last frames, and the end of what its program has printed."""
    return [*_frames(raised.frames, count, root), *raised.printed[-_PRINTED:]]


def _chain_and_parts(found: list[Raised]) -> tuple[list[Raised], list[Raised]]:
    """The error and its causes, nearest first; and the parts of the error, if it is a group."""
    chain = [each for each in found if each.depth == 0][::-1]
    if not chain:
        return [], []
    after = found[found.index(chain[0]) + 1 :]
    return chain, [each for each in after if each.words and not each.link]


def _error_first(found: list[Raised]) -> list[Raised]:
    """The error alone; with its parts if it has no frames of its own."""
    chain, parts = _chain_and_parts(found)
    return chain[:1] if chain and chain[0].frames else parts[:1]


def _frames(frames: list[Frame], count: int, root: str) -> Iterator[str]:
    for frame in _chosen(frames, count):
        yield frame.place(root)
        if frame.source and not frame.is_library:
            yield f"  {frame.source}"
    if frames and frames[-1].is_library and not all(frame.is_library for frame in frames):
        yield frames[-1].place(root)


def _chosen(frames: list[Frame], count: int) -> list[Frame]:
    """The last `count` frames of the project's code; if there are none, the last one of all. Those
    of StackShift, which called a function without code in Python, say nothing to anybody."""
    own = [frame for frame in frames if not frame.is_library]
    last = frames[-1:] if frames and not _OURS.search(frames[-1].file) else []
    return list(dict.fromkeys(own))[-count:] or last


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _short_file(file: str, root: str) -> str:
    for beginning in (f"{root.rstrip('/')}/" if root else "", *_packages(file)):
        if beginning and file.startswith(beginning):
            return file[len(beginning) :]
    return file


def _packages(file: str) -> Iterator[str]:
    """The beginning of `file` up to the folder that its package is imported from."""
    *_, last = [None, *_LIBRARY.finditer(file)]
    if last is not None and last[0].startswith("/"):
        yield file[: last.end() + 1]
