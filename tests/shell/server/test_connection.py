"""A connection's requests and answers: in parts, in turns, and bounded in bytes."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from stackshift_jobs.errors import Usage
from stackshiftd.shell.server import connection as server
from stackshiftd.shell.server.connection import FULL_AT, MAX_WORKS, Connection
from stackshiftd.shell.server.turns import Turns
from stackshiftd.shell.work import Later, Parked, Work, as_work

MEGABYTE = "x" * (1 << 20)


class Pipe:
    """The transport of a client that reads when the test says so."""

    def __init__(self) -> None:
        self.protocol: Connection
        self.high = 0
        self.unread: list[bytes] = []
        self.is_paused = False
        self.closed = False

    def get_extra_info(self, _name: str) -> Any:
        """There is no socket."""
        return None

    def set_write_buffer_limits(self, high: int, low: int) -> None:
        """Note the bound."""
        assert low < high
        self.high = high

    def get_write_buffer_size(self) -> int:
        """What the client has not read."""
        return sum(map(len, self.unread))

    def write(self, data: bytes) -> None:
        """Keep it until the client reads."""
        self.unread.append(data)
        if self.get_write_buffer_size() > self.high:
            self.protocol.pause_writing()

    def read(self) -> list[dict[str, Any]]:
        """The client reads all there is."""
        data, self.unread = b"".join(self.unread), []
        self.protocol.resume_writing()
        return [json.loads(line) for line in data.splitlines()]

    def pause_reading(self) -> None:
        """Note it; pausing twice is an error of asyncio's."""
        assert not self.is_paused
        self.is_paused = True

    def resume_reading(self) -> None:
        """Note it."""
        assert self.is_paused
        self.is_paused = False

    def is_closing(self) -> bool:
        """Was it closed?"""
        return self.closed

    def close(self) -> None:
        """Close it."""
        self.closed = True


class Methods:
    """`run.get` reads a megabyte in a part; `run.list` takes parts; `state.set` is done at once;
    `run.start_many` takes parts; `run.wait` is answered when the test says so."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.made_bytes = 0
        self.waits: list[Callable[[Any], None]] = []
        self.parked: list[Callable[[], None]] = []
        self.is_durable = True
        self.closed_ = 0

    def call(self, _connection: Any, method: str, params: Raw, answer: Any) -> Work | None:
        """Serve a method."""
        self.log.append(method)
        if method == "run.get":
            return self.reading(lambda: MEGABYTE)
        if method == "run.list":
            return self.reading(self.pages)
        if method == "run.start_many":
            return self.starts(answer)
        if method == "run.wait":
            self.waits.append(answer)
        elif method == "state.set":
            answer(json.loads(bytes(params)))
        else:
            raise Usage(f"unknown method {method!r}")
        return None

    def pages(self) -> Work:
        """Three parts."""
        for part in range(3):
            self.log.append(f"part {part}")
            yield None
        return "page"

    def starts(self, answer: Any) -> Work:
        """Two parts, of which the last one answers."""
        for part in range(2):
            self.log.append(f"start {part}")
            yield None
        answer("started")

    def reading(self, read: Callable[[], Any]) -> Work:
        """Read; the answer is durable when the test says so."""
        result = yield from as_work(read())
        self.made_bytes += len(result)
        yield Parked(lambda resume: self.settle(resume), len(result))
        return result

    def settle(self, resume: Callable[[], None]) -> None:
        """Go on at once, or when the test says so."""
        if self.is_durable:
            resume()
        else:
            self.parked.append(resume)

    def opened(self, _connection: Any) -> bool:
        """There is room for all."""
        return True

    def closed(self, _connection: Any) -> None:
        """Count it."""
        self.closed_ += 1


class Story:
    """A client, its connection, and what serves it."""

    def __init__(self, turns: Turns | None = None) -> None:
        self.methods = Methods()
        self.pipe = Pipe()
        self.connection = Connection(self.methods, turns or Turns(), 1 << 16)
        self.pipe.protocol = self.connection
        self.connection.connection_made(self.pipe)  # type: ignore[arg-type]

    async def asks(self, *methods: str, first: int = 0, params: str = "{}") -> Story:
        """Send requests, with the ids `first` …, in one piece."""
        lines = [
            f'{{"jsonrpc":"2.0","id":{n},"method":"{method}","params":{params}}}\n'
            for n, method in enumerate(methods, first)
        ]
        self.connection.data_received("".join(lines).encode())
        await self.settle()
        return self

    async def settle(self) -> None:
        """Let everything happen that can."""
        for _ in range(400):
            await asyncio.sleep(0)

    def bytes(self) -> int:
        """Bytes of answers that are held for the client."""
        return self.pipe.get_write_buffer_size()


@pytest.fixture(autouse=True)
def own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is the daemon's own user."""
    monkeypatch.setattr(server, "peer_uid", lambda _socket: None)
    monkeypatch.setattr(server, "is_own_user", lambda _uid: True)


def told(story: Callable[[], Any]) -> None:
    """Run a story."""
    asyncio.run(story())


def test_no_answer_is_made_that_has_no_room() -> None:
    """A client that asks for 50 megabytes and reads nothing is held one or two; it gets the rest
    as it reads. (guarantee: bounded answers)"""

    async def story() -> None:
        made = Story()
        await made.asks(*["run.get"] * 50)
        assert made.bytes() <= FULL_AT + (1 << 20) + 1024
        assert made.methods.made_bytes <= 2 << 20
        assert made.pipe.is_paused
        answers = list[dict[str, Any]]()
        while len(answers) < 50:
            answers += made.pipe.read()
            await made.settle()
            assert made.bytes() <= FULL_AT + (1 << 20) + 1024
        assert [answer["id"] for answer in answers] == list(range(50))
        assert not made.pipe.is_paused

    told(story)


def test_answers_that_wait_for_the_disk_count_as_unread() -> None:
    """Answers that are made and not durable yet are bounded like those that are sent."""

    async def story() -> None:
        made = Story()
        made.methods.is_durable = False
        await made.asks(*["run.get"] * 50)
        assert made.methods.made_bytes <= 2 << 20
        assert not made.bytes()
        made.methods.is_durable = True
        for resume in made.methods.parked:
            resume()
        await made.settle()
        answers = made.pipe.read()
        while len(answers) < 50:
            await made.settle()
            answers += made.pipe.read()
        assert len(answers) == 50

    told(story)


def test_answers_to_waits_are_read_when_there_is_room() -> None:
    """A thousand waits for one large result end at once: none of them holds it meanwhile."""

    async def story() -> None:
        made = Story()
        await made.asks(*["run.wait"] * 1000)
        reads = 0

        def read() -> str:
            nonlocal reads
            reads += 1
            return MEGABYTE

        for answer in made.methods.waits:
            answer(Later(read))
        await made.settle()
        assert reads <= 2
        answers = 0
        for n in range(1, 6):
            answers += len(made.pipe.read())
            await made.settle()
            assert reads <= answers + 2 <= 2 * n + 2

    told(story)


def test_reads_go_on_beside_each_other_and_beside_writes() -> None:
    """A long read keeps no later request of its client waiting, and there is a bound to how many
    are under way."""

    async def story() -> None:
        made = Story()
        await made.asks("run.list", "state.set", *["run.list"] * (MAX_WORKS + 2))
        answers = made.pipe.read()
        assert answers[0]["id"] == 1
        assert {answer["id"] for answer in answers} == set(range(MAX_WORKS + 4))
        log = made.methods.log
        under_way = most = 0
        for entry in log:
            under_way += (entry == "run.list") - (entry == "part 2")
            most = max(most, under_way)
        assert 1 < most <= MAX_WORKS

    told(story)


def test_change_in_parts_is_done_before_the_next_request() -> None:
    """Requests of one client take effect in the order in which they were sent."""

    async def story() -> None:
        made = Story()
        await made.asks("run.start_many", "state.set", "run.start_many")
        log = [entry for entry in made.methods.log if entry != "run.start_many"]
        assert log == ["start 0", "start 1", "state.set", "start 0", "start 1"]
        assert [answer["id"] for answer in made.pipe.read()] == [0, 1, 2]

    told(story)


def test_requests_of_a_client_that_has_hung_up_are_carried_out() -> None:
    """Those that change something, to the end; nothing is read for it, nothing waits for it, and
    what it had is forgotten once."""

    async def story() -> None:
        made = Story()
        asked = made.asks("run.start_many", "run.list", "run.wait", "state.set", "run.start_many")
        asked.send(None)  # The lines have arrived, and nothing is done yet.
        made.connection.connection_lost(None)
        assert made.methods.closed_ == 0
        await made.settle()
        assert made.methods.log.count("start 1") == 2
        assert "state.set" in made.methods.log
        assert not {"run.list", "run.wait", "part 0"} & set(made.methods.log)
        assert made.methods.closed_ == 1
        assert not made.bytes()

    told(story)


@pytest.mark.parametrize("end", ["", "\n", "\nmore\n"])
def test_line_that_is_too_long_undoes_nothing_before_it(end: str) -> None:
    """What came before it is carried out and answered; it is refused, and is the last."""

    async def story() -> None:
        made = Story()
        line = '{"jsonrpc":"2.0","id":1,"method":"run.start_many"}\n'
        made.connection.data_received((line * 2 + "x" * (1 << 17) + end).encode())
        made.connection.data_received(line.encode())
        await made.settle()
        assert made.methods.log.count("start 1") == 2
        *answers, refused = made.pipe.read()
        assert [answer["result"] for answer in answers] == ["started"] * 2
        assert refused["error"]["data"]["code"] == "payload_refused"
        assert made.pipe.closed

    told(story)


def test_read_of_a_client_that_hangs_up_is_dropped() -> None:
    """Between two of its parts."""

    async def story() -> None:
        made = Story()
        made.methods.is_durable = False
        await made.asks("run.get", "run.get")
        made.connection.connection_lost(None)
        await made.settle()
        for resume in made.methods.parked:
            resume()
        await made.settle()
        assert made.connection._unread == 0
        assert made.methods.closed_ == 1
        assert not made.connection._works

    told(story)


def test_client_that_asks_once_is_answered_before_those_that_ask_much() -> None:
    """Four clients ask for 500 lists each. A fifth, which comes last, is answered before any of
    them has ten of its answers. (guarantee: bounded answers)"""

    async def story() -> None:
        seconds = itertools.count()
        turns = Turns(lambda: next(seconds) / 1000)  # each part takes a millisecond
        hogs = [Story(turns) for _ in range(4)]
        fifth = Story(turns)
        for hog in hogs:
            lines = b'{"jsonrpc":"2.0","id":1,"method":"run.list"}\n' * 500
            hog.connection.data_received(lines)
        fifth.connection.data_received(b'{"jsonrpc":"2.0","id":1,"method":"run.list"}\n')
        while not fifth.bytes():
            await asyncio.sleep(0)
        answered = [len(hog.pipe.read()) for hog in hogs]
        assert max(answered) < 10
        for hog in hogs:
            while hog.connection._lines or hog.connection._works:
                await asyncio.sleep(0)

    told(story)


def test_small_requests_are_begun_several_in_a_turn() -> None:
    """A client that sends many has few turns of them, and whoever comes next waits for one."""

    async def story() -> None:
        seconds = itertools.count()
        turns = Turns(lambda: next(seconds) / 1000)
        hog, other = Story(turns), Story(turns)
        log = other.methods.log = hog.methods.log
        line = b'{"jsonrpc":"2.0","id":1,"method":"state.set","params":1}\n'
        hog.connection.data_received(line * 200)
        other.connection.data_received(b'{"jsonrpc":"2.0","id":1,"method":"run.wait"}\n')
        await hog.settle()
        assert log.index("run.wait") == server.BURST
        assert len(hog.pipe.read()) == 200

    told(story)


def test_large_requests_have_a_turn_each() -> None:
    """Their size says that they take long."""

    async def story() -> None:
        client = Story(Turns(lambda: 0.0))
        large = b'{"jsonrpc":"2.0","id":1,"method":"state.set","params":"%b"}\n' % (b"x" * 2000)
        client.connection.data_received(large * 3)
        assert client.connection.take_turn()
        assert len(client.methods.log) == 1

    told(story)
