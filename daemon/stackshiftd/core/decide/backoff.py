"""Whether to try again, and when: exponential backoff with a jitter that is the same at every
replay."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from stackshiftd.core.commands import Verdict
from stackshiftd.core.records import RetryTerms


def next_try_us(
    terms: RetryTerms, used: int, verdict: Verdict, seed: str, now_us: int
) -> int | None:
    """When to try again after `used` tries that count, of which the last one has just failed; None
    if it is not to be tried again."""
    if not verdict.retryable or not admits(terms, verdict.kinds):
        return None
    if verdict.counts and used >= terms.max_attempts:
        return None
    asked_us = max(now_us + (verdict.after_ms or 0) * 1000, verdict.at_us or 0)
    has_asked = verdict.after_ms is not None or verdict.at_us is not None
    # A snooze to a time that has passed would go on for ever, as fast as it can.
    if has_asked and (verdict.counts or asked_us > now_us):
        return asked_us
    return now_us + delay_ms(terms, used, seed) * 1000


def admits(terms: RetryTerms, kinds: Sequence[Sequence[str]]) -> bool:
    """May an error be tried again by these terms, as far as the classes of its parts (`kinds`; see
    `commands.Verdict`) go?"""
    if not terms.on and not terms.not_on:
        return True
    return all(
        not _is_any(classes, terms.not_on) and (not terms.on or _is_any(classes, terms.on))
        for classes in kinds
    )


def _is_any(classes: Sequence[str], names: Sequence[str]) -> bool:
    return any(name in names or name.rpartition(".")[2] in names for name in classes)


def delay_ms(terms: RetryTerms, failed: int, seed: str) -> int:
    """Milliseconds to wait after `failed` failed tries.

    `backoff * factor ** (failed - 1)`, at most `max_backoff`, then moved by up to ±`jitter` of
    itself. The jitter comes from a hash of `seed` (run, step and try), not from chance, so that a
    replay and a simulation see the same delays.
    """
    # Bounded before the power is taken: 2.0 ** 5000 would overflow.
    exponent = min(failed - 1, 64)
    exact = min(terms.backoff_ms * terms.factor**exponent, float(terms.max_backoff_ms))
    # Not a checksum: those of `resize[0]` and `resize[1]` are close together, so the items of a
    # map that failed together would be tried again together.
    text = f"{seed}:{failed}".encode("utf-8", "surrogatepass")
    number = int.from_bytes(blake2b(text, digest_size=4).digest(), "big")
    chance = number / 0xFFFFFFFF * 2 - 1
    return max(0, round(exact * (1 + terms.jitter * chance)))
