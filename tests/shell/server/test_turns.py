"""Connections are served by the time that they have used; nobody waits for those who ask much."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from stackshiftd.shell.server.turns import SPELL_SECONDS, Turns


class Clock:
    """A clock that moves only by what turns take."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class Client:
    """A connection with a number of parts to do, each of which takes `seconds`."""

    def __init__(self, name: str, clock: Clock, log: list[str], seconds: float, parts: int) -> None:
        self.name, self.clock, self.log, self.seconds = name, clock, log, seconds
        self.parts = parts
        self.is_due = False
        self.used = 0.0
        self.on_turn: Callable[[], None] = lambda: None

    def take_turn(self) -> bool:
        """Do a part."""
        self.log.append(self.name)
        self.parts -= 1
        self.clock.seconds += self.seconds
        self.on_turn()
        return self.parts > 0


def test_turns_go_by_time_and_not_by_number() -> None:
    """A client whose parts take ten times as long gets a tenth of the turns."""

    async def story() -> list[str]:
        clock, log = Clock(), list[str]()
        turns = Turns(clock)
        heavy = Client("heavy", clock, log, 0.010, 50)
        light = Client("light", clock, log, 0.001, 500)
        turns.want(heavy)
        turns.want(light)
        while heavy.parts and light.parts:
            await asyncio.sleep(0)
        return log

    log = asyncio.run(story())
    assert 8 <= log.count("light") / log.count("heavy") <= 12
    assert len(log) > 300


def test_client_that_asks_once_waits_for_one_part_alone() -> None:
    """Whoever had nothing to do is next, however much others have to do, and how many they are. It
    has saved up nothing either: with more to do, it takes turns with them."""

    async def story() -> list[str]:
        clock, log = Clock(), list[str]()
        turns = Turns(clock)
        hogs = [Client(f"hog{n}", clock, log, 0.002, 1000) for n in range(4)]
        for hog in hogs:
            turns.want(hog)
        for _ in range(20):
            await asyncio.sleep(0)
        for _ in range(10):
            log.clear()
            asked = Client("asks", clock, log, 0.002, 3)
            hogs[0].on_turn = partial(turns.want, asked)
            while asked.parts:
                await asyncio.sleep(0)
                if "asks" in log:
                    hogs[0].on_turn = lambda: None
            came = log.index("hog0")
            assert log[came + 1] == "asks"
            assert len(set(log)) == 5, "the others have their turns between those of the new one"
        return log

    asyncio.run(story())


def test_others_on_the_loop_have_their_turn_after_a_spell() -> None:
    """Workers and timers wait for no more than a spell and a part of it."""

    async def story() -> float:
        clock, log = Clock(), list[str]()
        turns = Turns(clock)
        for n in range(8):
            turns.want(Client(f"c{n}", clock, log, 0.001, 100))
        longest = 0.0
        while len(log) < 800:
            before = clock.seconds
            await asyncio.sleep(0)
            longest = max(longest, clock.seconds - before)
        return longest

    assert asyncio.run(story()) <= SPELL_SECONDS + 0.001 + 1e-9


def test_member_that_is_due_a_turn_is_given_one() -> None:
    """Wanting it twice gives no second one; a member that wants it in its own turn gets another."""

    async def story() -> list[str]:
        clock, log = Clock(), list[str]()
        turns = Turns(clock)
        client = Client("c", clock, log, 0.001, 1)
        turns.want(client)
        turns.want(client)
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        assert log == ["c"]
        client.parts = 1
        turns.want(client)
        await asyncio.sleep(0.0)
        await asyncio.sleep(0.0)
        return log

    assert asyncio.run(story()) == ["c", "c"]
