"""`preview`: the few bytes that a page shows until a picture is there.

Its queue can be on another host (see README.md): the step reads a picture that is sent there with
the code, and returns what it makes as a value, since a file would stay there.

    stackshift start preview -F imageId=img_123 --wait
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import stackshift_jobs as stackshift
from PIL import Image
from stackshift_jobs import JobContext

from jobs.media import inspect


@dataclass
class PreviewPayload:
    """What a start must bring: a picture, and how wide its preview is to be."""

    imageId: str
    width: int = 16


@stackshift.job("preview", queue="render", timeout="1m")
def preview(ctx: JobContext[PreviewPayload]) -> dict[str, Any]:
    """Make a tiny preview of a picture, to be written into a page."""
    return ctx.step.run("render", render, ctx.payload.imageId, ctx.payload.width)


def render(image: str, width: int) -> dict[str, Any]:
    """The preview as a `data:` URL of a PNG, and its size in pixels."""
    picture = inspect(image)
    height = max(1, round(width * picture["height"] / picture["width"]))
    with Image.open(picture["file"]) as original:
        small = original.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, format="PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return {"width": width, "height": height, "url": url}
