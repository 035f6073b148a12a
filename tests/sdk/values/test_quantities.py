"""Numbers of things, in words."""

from __future__ import annotations

from stackshift_jobs.values.quantities import quantity


def test_one_is_singular_and_the_others_are_plural() -> None:
    """Nothing too is plural."""
    assert [quantity(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
