"""Restate: its server, one process of handlers, and HTTP with connections that are kept.

restate_driver.py SERVER
"""

from __future__ import annotations

import asyncio
import http.client
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from driver import Peer, one_by_one, serve, until

SERVICE = """
import time

import restate

bench = restate.Service("bench")

async def give(number):
    return number

@bench.handler()
async def nothing(ctx: restate.Context, number: int) -> int:
    return number

@bench.handler()
async def five(ctx: restate.Context, number: int) -> int:
    for each in range(5):
        await ctx.run_typed(f"s{each}", give, number=each)
    return number

@bench.handler()
async def timed(ctx: restate.Context, number: int) -> list:
    took = []
    for each in range(5):
        began = time.perf_counter()
        await ctx.run_typed(f"s{each}", give, number=each)
        took.append(time.perf_counter() - began)
    return took

app = restate.app([bench])
"""


class Restate(Peer):
    """A server with its data in a folder of its own."""

    durability = "its log, as the server sets it up"

    def __init__(self, server):
        sdk = importlib.metadata.version("restate_sdk")
        says = subprocess.run([server, "--version"], capture_output=True, text=True, check=True)
        self.version = f"{says.stdout.split()[-1]}, SDK {sdk}"
        self._folder = Path(tempfile.mkdtemp(prefix="restate-"))
        (self._folder / "service.py").write_text(SERVICE)
        self._ingress, admin, node, handlers = (_free_port() for _ in range(4))
        here = "127.0.0.1"
        environment = os.environ | {
            "RESTATE_BASE_DIR": str(self._folder / "data"),
            "RESTATE_BIND_IP": here,
            "RESTATE_LISTEN_MODE": "tcp",
            "RESTATE_INGRESS__BIND_ADDRESS": f"{here}:{self._ingress}",
            "RESTATE_ADMIN__BIND_ADDRESS": f"{here}:{admin}",
            "RESTATE_BIND_ADDRESS": f"{here}:{node}",
            "DO_NOT_TRACK": "1",
            "RESTATE_DISABLE_TELEMETRY": "true",
        }
        with (self._folder / "log").open("wb") as log:
            self._server = subprocess.Popen(
                [server, "--node-name", "one"], env=environment, stdout=log, stderr=log
            )
            self._handlers = subprocess.Popen(
                [sys.executable, "-m", "hypercorn", "-b", f"{here}:{handlers}", "service:app"],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,  # It has processes of its own, which outlive a kill.
            )
        until(lambda: _answers(admin, "GET", "/health") and _accepts(handlers), 0.05)
        deployment = {"uri": f"http://{here}:{handlers}", "force": True}
        until(lambda: _answers(admin, "POST", "/deployments", deployment), 0.1)
        self._connections = threading.local()
        until(lambda: _answers(self._ingress, "POST", "/bench/nothing", 1), 0.05)

    def _call(self, handler, number):
        connection = getattr(self._connections, "one", None)
        if connection is None:
            connection = http.client.HTTPConnection("127.0.0.1", self._ingress)
            connection.connect()
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.one = connection
        connection.request(
            "POST", f"/bench/{handler}", json.dumps(number), {"content-type": "application/json"}
        )
        with connection.getresponse() as response:
            assert response.status == 200, response.status
            return json.load(response)

    def steps(self, runs, in_flight):
        return asyncio.run(_many(self._ingress, "five", runs, in_flight))

    def jobs(self, runs, in_flight):
        return asyncio.run(_many(self._ingress, "nothing", runs, in_flight))

    def step(self, runs):
        took = []
        for number in range(runs):
            took += self._call("timed", number)
        return took

    def result(self, runs):
        return one_by_one(lambda number: self._call("nothing", number), runs)

    def pids(self):
        return [self._server.pid, self._handlers.pid]

    def close(self):
        os.killpg(self._handlers.pid, signal.SIGKILL)
        self._server.kill()
        for process in (self._handlers, self._server):
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


async def _many(port, handler, runs, in_flight):
    """As little of a client as possible: the server is measured."""
    left = iter(range(runs))

    async def lane():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in left:
            body = b"%d" % number
            writer.write(
                b"POST /bench/%s HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                b"content-length: %d\r\n\r\n%s" % (handler.encode(), len(body), body)
            )
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head[9:12] == b"200", head
            _, _, length = head.partition(b"content-length:")
            if length:
                await reader.readexactly(int(length.split(b"\r\n")[0]))
            else:
                while size := int(await reader.readline(), 16):
                    await reader.readexactly(size + 2)
                await reader.readexactly(2)
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(in_flight)))
    return time.perf_counter() - began


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _answers(port, method, path, body=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"content-type": "application/json"})
        return connection.getresponse().status < 300
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    serve(lambda: Restate(sys.argv[1]))
