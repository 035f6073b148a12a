"""When to try again: exponential backoff with a jitter that is the same at every replay."""

from __future__ import annotations

from hashlib import blake2b

from stackshiftd.core.records import RetryTerms


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
