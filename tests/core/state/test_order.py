"""The order in which runs were created, which lists go by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stackshiftd.core.state.order import FEW, Order


def listed(order: Order, known: dict[str, int], before: int | None = None) -> list[str]:
    """The runs in memory that were created before `before`, newest first."""
    found: list[str] = []
    while part := order.before(before, 3):
        found += [run for _, run in part if run in known]
        before = part[-1][0]
    return found


@given(st.lists(st.tuples(st.sampled_from("enter leave back".split()), st.integers(0, 400))))
def test_order_is_that_of_creation_whoever_left_and_came_back(
    changes: list[tuple[str, int]],
) -> None:
    """At any time and from any place in it; and it is never much longer than what is in memory."""
    order, known, gone = Order(), dict[str, int](), dict[str, int]()
    for seq, (change, number) in enumerate(changes, 1):
        if change == "enter":
            known[f"run_{seq}"] = seq
            order.add(seq, f"run_{seq}")
        elif change == "leave" and known:
            run = list(known)[number % len(known)]
            gone[run] = known.pop(run)
        elif change == "back" and gone:
            run = list(gone)[number % len(gone)]
            known[run] = gone.pop(run)
            order.add(known[run], run)
        order.settle(known)
        newest_first = sorted(known, key=lambda run: -known[run])
        assert listed(order, known) == newest_first
        before = number + 1
        assert listed(order, known, before) == [r for r in newest_first if known[r] < before]


def test_runs_that_have_left_are_forgotten() -> None:
    """A thousand runs that came and went leave next to nothing behind."""
    order, known = Order(), dict[str, int]()
    for seq in range(1, 1001):
        order.add(seq, f"run_{seq}")
        order.settle(known)
    assert len(order._ids) == len(order._seqs) <= FEW
