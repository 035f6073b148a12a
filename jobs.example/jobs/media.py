"""`resizeAvatar`: one picture in, one PNG a size and a manifest out.

Try it:

    stackshift start resizeAvatar -p @payload.json --follow
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import stackshift_jobs as stackshift
from PIL import Image
from stackshift_jobs import JobContext, NonRetryable, Retry

from jobs._files import OUT, write_atomically, write_json

PICTURES = Path("pictures")


@dataclass
class ResizePayload:
    """What a start must bring. The daemon checks it before a run exists: `stackshift start
    resizeAvatar -F sizes=big` is refused with the place that is wrong."""

    imageId: str
    sizes: list[int] = field(default_factory=lambda: [64, 128, 256, 512])


@stackshift.job(
    "resizeAvatar", queue="media", retry=Retry(max_attempts=5, backoff="2s"), timeout="10m"
)
def resize_avatar(ctx: JobContext[ResizePayload]) -> dict[str, Any]:
    """Resize an avatar to every size asked for, and publish a manifest of the files."""
    image, sizes = ctx.payload.imageId, ctx.payload.sizes

    # A step's result is recorded once. Whatever happens from here on, `inspect` is not run again.
    picture = ctx.step.run("inspect", inspect, image)
    ctx.log.info("%s is %d x %d", picture["file"], picture["width"], picture["height"])

    # One step a size, in parallel: resize[0], resize[1], … After a crash only those that were not
    # done yet are run again.
    files = ctx.step.map("resize", partial(resize, image, picture["file"]), sizes)

    manifest = ctx.step.run("publish", publish, image, picture, files)
    return {"sizes": sizes, "files": [*files, manifest]}


# --- What the steps do: plain functions, easy to test without StackShift --------------------


def inspect(image: str) -> dict[str, Any]:
    """Where the picture lies and how large it is."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", image):
        # It becomes a path. Trying again would not make it better: fail at once.
        raise NonRetryable(f"{image!r} is not an image id")
    file = PICTURES / f"{image}.png"
    if not file.exists():
        raise NonRetryable(f"there is no picture {file}")
    with Image.open(file) as picture:
        return {"file": str(file), "width": picture.width, "height": picture.height}


def resize(image: str, source: str, size: int) -> str:
    """Write the picture at `size` by `size` pixels; the file's path."""
    target = OUT / image / f"{size}.png"
    with Image.open(source) as picture:
        small = picture.resize((size, size), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="PNG")
    write_atomically(target, content.getvalue())
    return str(target)


def publish(image: str, picture: dict[str, Any], files: list[str]) -> str:
    """Write the manifest, last: where it is, all that it names is there too."""
    target = OUT / image / "manifest.json"
    write_json(target, {"image": image, "source": picture, "files": files})
    return str(target)
