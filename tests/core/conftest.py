"""For all tests of the core: runs settle early in the index, so that short stories go that far."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stackshiftd.core.state import run_index

FRESH = 2


@pytest.fixture(autouse=True, scope="module")
def settle_early() -> Iterator[None]:
    """Only the last two runs that were created or changed are fresh."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_index, "FRESH", FRESH)
        yield
