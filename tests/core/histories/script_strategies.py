"""Scripts that are drawn: handlers of one or two branches that do a bit of everything."""

from __future__ import annotations

import random

from core.histories.scripts import SPANS_MS, Op


def drawn(chance: random.Random, depth: int = 2) -> list[list[Op]]:
    """A handler of one or two branches."""
    many = 1 if depth < 2 or chance.random() < 0.6 else 2
    return [_ops(chance, depth, 5) for _ in range(many)]


def _ops(chance: random.Random, depth: int, most: int, fails: bool = True) -> list[Op]:
    """Not `fails`: what is caught does not depend on the attempt, or a later attempt would take
    another way through a block that was left."""
    return [_op(chance, depth, fails) for _ in range(chance.randint(1, most))]


def _op(chance: random.Random, depth: int, fails: bool) -> Op:  # noqa: C901  # a case a verb
    at = chance.randrange(2)
    ttl_ms = chance.choice((None, None, *SPANS_MS))
    verbs = ["increment"] * 5 + ["set", "set", "get", "delete", "send", "send", "wait", "sleep"]
    verbs += ["step", "step", *(["fail"] if fails else [])]
    if depth:
        verbs += ["lock"] * 5 + ["try", "try", "call"]
    else:
        verbs += ["extend"]
    match chance.choice(verbs):
        case "increment":
            return ("increment", at, chance.randint(-2, 9), ttl_ms)
        case "set":
            value = chance.choice((0, 5, "text"))
            return ("set", at, value, ttl_ms, chance.choice(("", "absent", "version")))
        case "send":
            once = chance.choice((None, "e1", "e2"))
            event = chance.randrange(3)
            return ("send", event, chance.randrange(2), chance.choice(SPANS_MS), once)
        case "wait":
            ats = tuple(sorted(chance.sample(range(3), chance.choice((1, 1, 2)))))
            timeout_ms = chance.choice((None, 0, 1000, 10_000))
            return ("wait", ats, timeout_ms, chance.choice(("fail", "continue", "cancel")))
        case "sleep":
            return ("sleep", chance.choice(SPANS_MS))
        case "step":
            acts: list[Op] = [("increment", at, 1), ("send", chance.randrange(3), 1)]
            acts = acts[: chance.randrange(3)]
            return ("step", acts, chance.choice((0, 0, 1, 2)), chance.random() < 0.5)
        case "fail":
            return ("fail", chance.choice((1, 2, 2, 3, 99)), chance.random() < 0.8)
        case "lock":
            at = chance.choice((0, 0, 0, 1))
            wait_ms = chance.choice((None, None, None, 0, 1000, 10_000))
            ttl_ms = chance.choice((0, 0, 0, 1000, 10_000))
            ops = _ops(chance, depth - 1, 3, fails)
            if chance.random() < 0.4:
                ops.append(("sleep", 1000))
            if chance.random() < 0.3:
                ops.insert(0, ("extend", at, chance.choice(SPANS_MS[1:])))
            return ("lock", at, ttl_ms, wait_ms, ops)
        case "try":
            return ("try", _ops(chance, depth - 1, 3, False))
        case "call":
            return ("call", drawn(chance, 1))
        case verb:
            return (verb, at, chance.choice(SPANS_MS[1:])) if verb == "extend" else (verb, at)
