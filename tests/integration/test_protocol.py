"""Whatever a client sends, the daemon answers by the protocol, stores nothing wrong, serves on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from helpers import scenery
from helpers.deadline import SECONDS, wait_until
from helpers.project import Project
from helpers.wire import Wire, request
from stackshift_jobs.errors import Busy, Conflict, PayloadRefused, StackshiftError

JOBS = """
@stackshift.job("echo")
def echo(ctx):
    return ctx.payload


from dataclasses import dataclass


@dataclass
class Picture:
    image: str
    size: int = 64


@stackshift.job("typed", payload=Picture)
def typed(ctx):
    return [ctx.payload.image, ctx.payload.size]


@stackshift.job("naps")
def naps(ctx):
    ctx.step.sleep("nap", "1h")
"""
CONNECTIONS = 12
CONFIG = scenery.CONFIG + f"[limits]\nconnections = {CONNECTIONS}\n"
MEMORY_MARGIN = 64 << 20


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One daemon for all of these: none of them may do it any harm."""
    made = Project(tmp_path_factory.mktemp("protocol") / "p", {"story": JOBS}, CONFIG)
    made.start()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def unharmed(project: Project) -> Iterator[None]:
    """After each test the same daemon and worker serve, and nothing was logged as our failure."""
    daemon, workers, logged = project.daemon, project.workers(), len(project.log())
    yield
    assert daemon is not None and daemon.poll() is None
    assert project.workers() == workers
    assert project.finish(project.begin("echo", {"n": 1}))["result"] == {"n": 1}
    assert "Traceback" not in project.log()[logged:]


@pytest.fixture
def wire(project: Project) -> Iterator[Wire]:
    """A raw connection."""
    with Wire(project) as made:
        yield made


def runs(project: Project) -> int:
    """How many runs there are."""
    return len(project.call("run.list", limit=1000)["runs"])


DEEP = b"[" * 100_000
NOT_JSON = [
    b"{",
    b"",
    b"null null",
    b"{'a': 1}",
    b'{"jsonrpc":"2.0","id":1,"method":',
    b"\xff\xfe",
    b'{"jsonrpc":"2.0","id":1,"method":"\xff","params":{}}',
    DEEP,
    b'{"id":' + DEEP,
    request("run.start", b'{"job":"echo","payload":' + DEEP + b"}"),
    request("run.start", b'{"job":"echo","payload":NaN}'),
    request("run.start", b'{"job":"echo","payload":{"a":Infinity}}'),
    request("run.start", b'{"job":"echo","payload":{"a":-Infinity}}'),
    request("run.start", b'{"job":"echo","payload":"\\ud800"}'),
    request("run.start", b'{"job":"echo","payload":{"a":"\\udfff x"}}'),
]


@pytest.mark.parametrize("line", NOT_JSON, ids=lambda line: repr(line[:60]))
def test_line_that_is_not_json_is_told_so(project: Project, wire: Wire, line: bytes) -> None:
    """-32700, with a null id; the connection goes on."""
    before = runs(project)
    answer = wire.ask(line)
    assert (answer["id"], answer["error"]["code"]) == (None, -32700)
    assert answer["error"]["data"]["code"] == "usage"
    assert "result" in wire.ask(request("daemon.status"))
    assert runs(project) == before


NOT_REQUESTS = [
    (b"[]", None),
    (b"1", None),
    (b'[{"jsonrpc":"2.0","id":1,"method":"daemon.status"}]', None),
    (b'{"jsonrpc":"2.0","id":7}', 7),
    (b'{"jsonrpc":"1.0","id":7,"method":"daemon.status"}', 7),
    (b'{"jsonrpc":2.0,"id":7,"method":"daemon.status"}', 7),
    (b'{"jsonrpc":"2.0","id":"x","method":5}', "x"),
    (b'{"jsonrpc":"2.0","id":7,"method":"daemon.status","extra":1}', 7),
    (b'{"jsonrpc":"2.0","id":[],"method":"daemon.status"}', None),
    (b'{"jsonrpc":"2.0","id":{"a":1},"method":"daemon.status"}', None),
]


@pytest.mark.parametrize(("line", "number"), NOT_REQUESTS)
def test_json_that_is_no_request_is_told_so(wire: Wire, line: bytes, number: object) -> None:
    """-32600, with the id where there is one."""
    answer = wire.ask(line)
    assert (answer["id"], answer["error"]["code"]) == (number, -32600)
    assert answer["error"]["data"]["code"] == "usage"
    assert "result" in wire.ask(request("daemon.status"))


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (request("run.explode"), -32601),
        (request(""), -32601),
        (request("run.start", b'{"job":"echo","colour":"red"}'), -32602),
        (request("run.start", b'{"payload":{}}'), -32602),
        (request("run.start", b'{"job":5}'), -32602),
        (request("run.start", b"[]"), -32602),
        (request("run.start", b"null"), -32602),
        (request("daemon.status", b'{"a":1}'), -32602),
        (request("run.start", b'{"job":"echo","delay_ms":1.5}'), -32602),
        (request("run.start", b'{"job":"echo","labels":{"a":1}}'), -32602),
        (request("feed.open", b'{"since_seq":"x"}'), -32602),
    ],
)
def test_unknown_methods_and_fields_are_refused(wire: Wire, line: bytes, code: int) -> None:
    """What is misspelt never goes by without effect."""
    answer = wire.ask(line)
    assert (answer["id"], answer["error"]["code"]) == (1, code)
    assert answer["error"]["data"]["code"] == "usage"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        (b'{"job":"echo","payload":{"a":1,"a":2}}', "payload_refused"),
        (b'{"job":"echo","payload":{"b":[{"a":1,"a":2}]}}', "payload_refused"),
        (b'{"job":"echo","payload":%s%s}' % (b"[" * 65, b"]" * 65), "payload_refused"),
        (b'{"job":"echo","payload":"%s"}' % (b"x" * (1 << 20)), "payload_refused"),
        (b'{"job":"echo","payload":1e999}', "payload_refused"),
        (b'{"job":"echo","payload":{"a":-1e999}}', "payload_refused"),
        (b'{"job":"echo","idempotency_key":"k","payload":{"a":1,"a":2}}', "payload_refused"),
        (b'{"job":"echo","delay_ms":-1}', "usage"),
        (b'{"job":"echo","delay_ms":999999999999999}', "usage"),
        (b'{"job":"echo","scheduled_at":"tomorrow"}', "usage"),
        (b'{"job":"echo","scheduled_at":"2999-01-01T00:00:00Z"}', "usage"),
        (b'{"job":"echo","delay_ms":1,"scheduled_at":"2020-01-01T00:00:00Z"}', "usage"),
        (b'{"job":"echo","queue":"a\\u0007b"}', "usage"),
        (b'{"job":"echo","queue":""}', "usage"),
        (b'{"job":"echo","idempotency_key":""}', "usage"),
        (b'{"job":"echo","idempotency_key":"%s"}' % (b"k" * 513), "usage"),
        (b'{"job":"echo","max_attempts":0}', "usage"),
        (b'{"job":"echo","priority":99999999999}', "usage"),
        (b'{"job":"nobody"}', "not_found"),
        (b'{"job":"echo","idempotency_ttl_ms":1000}', "usage"),
        (b'{"job":"typed","payload":{"image":"a","colour":1}}', "payload_refused"),
    ],
    ids=lambda given: repr(given[:60]),
)
def test_start_that_cannot_be_is_refused_and_leaves_nothing(
    project: Project, wire: Wire, params: bytes, code: str
) -> None:
    """A payload that is not strict JSON, a duration that is none: told by code, not stored."""
    before = runs(project)
    answer = wire.ask(request("run.start", params))
    assert answer["error"]["data"]["code"] == code
    many = request("run.start_many", b'{"runs":[%s]}' % params)
    [told] = wire.ask(many)["result"]["results"]
    assert told["error"]["code"] == code
    assert runs(project) == before


def test_payload_of_a_type_is_kept_as_it_was_given(project: Project) -> None:
    """A field that is not the type's is refused with its path; one that has a default and was left
    out is filled in for the handler alone, so that a later default makes no other payload."""
    with pytest.raises(PayloadRefused, match="its fields: image, size") as refused:
        project.begin("typed", {"image": "a", "colour": 1})
    assert refused.value.path == "$.colour"
    run = project.begin("typed", {"image": "a"}, idempotency_key="typed")
    ended = project.finish(run)
    assert (ended["payload"], ended["result"]) == ({"image": "a"}, ["a", 64])
    with pytest.raises(Conflict):
        project.begin("typed", {"image": "a", "size": 64}, idempotency_key="typed")


@pytest.mark.parametrize(
    "payload",
    [
        b"%s%s" % (b"[" * 64, b"]" * 64),
        b'{"n":123456789012345678901234567890}',
        b'" \\u0000 "',
        b'{"\\u00e9":"\xc3\xa9\xf0\x9f\x8e\x89"}',
        b"null",
        b"[1.5,true,-0]",
        b'{"":{"":[]}}',
        b' { "a" : 1 } ',
    ],
)
def test_payload_at_the_limits_of_json_comes_back_as_it_was(
    project: Project, wire: Wire, payload: bytes
) -> None:
    """Whatever JSON may hold arrives in the handler, and comes back as its result."""
    import json

    told = wire.ask(request("run.start", b'{"job":"echo","payload":%s}' % payload))
    seen = project.finish(told["result"]["id"])
    assert seen["status"] == "completed", seen["error"]
    assert seen["result"] == seen["payload"] == json.loads(payload)


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "run_", "run_zzzz", "x", "@first", "", "run_" + "0" * 26, "%", "_" * 30],
)
def test_id_that_is_none_is_refused(wire: Wire, name: str) -> None:
    """Never an internal error, never a path."""
    for method in ("run.get", "run.why", "run.cancel", "run.logs", "run.remove", "run.retry"):
        answer = wire.ask(request(method, b'{"run":"%s"}' % name.encode()))
        assert answer["error"]["data"]["code"] in ("usage", "not_found"), answer


def test_line_over_the_limit_ends_its_connection_alone(project: Project) -> None:
    """It is answered with an error and closed, with or without an end of the line; others go on."""
    with Wire(project) as other:
        for end in (b"\n", b""):
            with Wire(project) as wire:
                try:
                    wire.sock.sendall(b"x" * (2 << 20) + end)
                except (BrokenPipeError, ConnectionResetError):
                    continue  # It hung up before all was sent.
                answer = wire.receive()
                if answer is not None:
                    assert answer["error"]["code"] == -32600
                    assert wire.receive() is None
        assert "result" in other.ask(request("daemon.status"))


def test_half_a_line_does_nothing(project: Project) -> None:
    """A request whose end never came is not carried out."""
    before = runs(project)
    with Wire(project) as wire:
        wire.sock.sendall(request("run.start", b'{"job":"echo"}'))
    with Wire(project) as wire:
        assert "result" in wire.ask(request("daemon.status"))
    assert runs(project) == before


def test_request_in_pieces_is_one_request(wire: Wire) -> None:
    """A line may come a byte at a time."""
    line = request("daemon.status") + b"\n"
    for at in range(len(line)):
        wire.sock.sendall(line[at : at + 1])
    answer = wire.receive()
    assert answer is not None and "result" in answer


def test_notification_gets_no_answer(wire: Wire) -> None:
    """A request without an id is carried out in silence, errors included."""
    wire.send(b'{"jsonrpc":"2.0","method":"run.explode"}')
    wire.send(b'{"jsonrpc":"2.0","method":"daemon.status"}')
    assert wire.ask(request("daemon.status", id=b"42"))["id"] == 42


def test_requests_sent_ahead_are_all_answered(wire: Wire) -> None:
    """A thousand starts in one write: each has its answer, each its own run."""
    wire.send(*(request("run.start", b'{"job":"echo"}', b"%d" % n) for n in range(1000)))
    answers = [wire.receive() or {} for _ in range(1000)]
    assert {answer["id"] for answer in answers} == set(range(1000))
    assert len({answer["result"]["id"] for answer in answers}) == 1000


def test_connection_over_the_limit_is_told_busy(project: Project) -> None:
    """The ones there are served; when one has closed there is room again."""
    project.call("daemon.status")  # Those of the fixture are among them.
    held = [Wire(project) for _ in range(CONNECTIONS - project.connections)]
    try:
        with Wire(project) as wire:
            answer = wire.receive()
            assert answer is not None
            assert (answer["id"], answer["error"]["data"]["code"]) == (None, "busy")
            assert wire.receive() is None
        with pytest.raises(Busy), project.connect() as connection:
            connection.call("daemon.status", timeout=10)
        assert all("result" in wire.ask(request("daemon.status")) for wire in held)
        held.pop().sock.close()

        def room() -> bool:
            try:
                with project.connect() as connection:
                    return bool(connection.call("daemon.status", timeout=10))
            except StackshiftError:
                return False

        wait_until(room, "room for a connection")
    finally:
        for wire in held:
            wire.sock.close()


def test_follower_that_never_reads_costs_the_daemon_nothing(project: Project) -> None:
    """With a feed open that nobody reads, 40 MB of records go by: memory stays, all are served."""
    with Wire(project) as deaf:
        deaf.ask(request("feed.open"))
        before = project.memory()
        payload = {"text": "x" * 800_000}
        for _ in range(50):
            project.begin("echo", payload, delay_ms=3_600_000)
        wait_until(lambda: project.memory() < before + MEMORY_MARGIN, "memory to stay bounded")
        assert project.call("daemon.status")["mode"] == "serving"


MOST_QUESTIONS = 10_000
"""Between two daemons ten times as many may be on their way, all of which would be answered."""


def question(run: str, number: int) -> bytes:
    """A small one, of which every thousandth has a large answer."""
    method = "run.why" if number % 1000 else "run.get"
    return request(method, b'{"run":"%s"}' % run.encode(), b"%d" % number)


def test_client_that_does_not_read_its_replies_is_answered_as_it_reads(project: Project) -> None:
    """It asks until its socket takes no more; the daemon makes no answer that has no room, and in
    the end every question has its answer."""
    run = project.begin("echo", {"text": "x" * 500_000})
    project.finish(run)
    before = project.memory()
    with Wire(project) as deaf:
        deaf.sock.settimeout(0.5)
        asked, deadline = 0, time.monotonic() + SECONDS
        is_full = False
        while not is_full:
            try:
                deaf.sock.sendall(question(run, asked) + b"\n")
                asked += 1
            except TimeoutError:
                # On a loaded machine nothing may be taken for a while although there is room.
                is_full = asked > 1000 or time.monotonic() > deadline
            is_full = is_full or asked == MOST_QUESTIONS
        assert asked > 1000
        assert project.call("daemon.status")["mode"] == "serving"
        assert project.memory() < before + MEMORY_MARGIN
        deaf.sock.settimeout(60)
        answered = {(deaf.receive() or {})["id"] for _ in range(asked)}
    assert answered == set(range(asked))


def test_list_of_large_runs_reaches_a_client_that_reads(project: Project) -> None:
    """In pages of a megabyte or two, each with the cursor of the next."""
    started = [
        project.begin("echo", {"text": "y" * 1_000_000}, delay_ms=3_600_000, queue="large")
        for _ in range(12)
    ]
    listed: list[str] = []
    cursor: dict[str, str] = {}
    with project.connect() as connection:
        while True:
            page: Any = connection.call("run.list", {"queue": "large", **cursor}, timeout=30)
            assert len(page["runs"]) <= 2
            listed += [run["id"] for run in page["runs"]]
            if page["cursor"] is None:
                break
            cursor = {"cursor": page["cursor"]}
    assert listed == started[::-1]


def test_socket_is_the_users_alone(project: Project) -> None:
    """Socket 0600, in a directory 0700."""
    from stackshift_jobs.project.discovery import socket_path

    path = socket_path(project.data_dir)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_uid == os.getuid()
