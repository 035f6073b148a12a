"""`preview`: a picture as a few bytes of text."""

from __future__ import annotations

import base64
import io

from PIL import Image
from stackshift_jobs.testing import Stackshift


def test_preview_is_a_small_picture_in_a_url(stackshift: Stackshift) -> None:
    """With the proportions of the picture."""
    run = stackshift.start("preview", {"imageId": "img_123", "width": 8})
    head, _, data = run.result["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as picture:
        assert picture.size == (8, run.result["height"])


def test_picture_that_does_not_exist_is_not_looked_for_again(stackshift: Stackshift) -> None:
    """As for `resizeAvatar`."""
    run = stackshift.start("preview", {"imageId": "img_none"})
    assert (run.status, run.attempt) == ("failed", 1)
