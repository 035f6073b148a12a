"""`resizeAvatar`: a step a size, each done once."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.testing import Stackshift

AVATAR = {"imageId": "img_123", "sizes": [64, 128]}


def test_every_size_is_made(stackshift: Stackshift, out: Path) -> None:
    """And a manifest that names the files."""
    run = stackshift.start("resizeAvatar", AVATAR)
    assert run.result["files"] == [
        "out/img_123/64.png",
        "out/img_123/128.png",
        "out/img_123/manifest.json",
    ]
    with Image.open(out / "img_123" / "128.png") as picture:
        assert picture.size == (128, 128)


def test_sizes_that_are_done_stay_done(
    stackshift: Stackshift, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each picture is resized once, also by a run that lost its worker."""
    from jobs import media

    resize, made = media.resize, []

    def counted(image: str, source: str, size: int) -> str:
        made.append(size)
        return resize(image, source, size)

    monkeypatch.setattr(media, "resize", counted)
    with stackshift.crashing("publish", "before_step"):
        run = stackshift.start("resizeAvatar", AVATAR)
    assert run.status == "completed"
    assert sorted(made) == AVATAR["sizes"]


def test_picture_that_does_not_exist_is_not_looked_for_again(stackshift: Stackshift) -> None:
    """And an id that is no text makes no run."""
    run = stackshift.start("resizeAvatar", {"imageId": "img_none"})
    assert (run.status, run.attempt) == ("failed", 1)
    with pytest.raises(PayloadRefused):
        stackshift.start("resizeAvatar", {"imageId": 7})
