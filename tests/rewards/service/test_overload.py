"""Four times as many requests as the server can score: none is lost or answered wrongly, and its memory stays."""

import asyncio
import json
import os
import time
from collections import Counter
from typing import Any

import pytest

SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "15"))
CLIENTS = 160
OVERLOAD = 4.0


class Offered:
    """Requests of one item each, at ``rate`` a second whatever the server answers (0: as fast as it answers)."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.statuses: Counter[Any] = Counter()
        self.wrong: list[Any] = []
        self.memory_mb: list[float] = []

    def run(self, clients: int, rate: float, seconds: float) -> float:
        """The answers a second that have a score."""
        self.statuses.clear()
        started = time.monotonic()
        asyncio.run(self._run(clients, rate, started + seconds))
        return self.statuses[200] / (time.monotonic() - started)

    async def _run(self, clients: int, rate: float, until: float) -> None:
        await asyncio.gather(*(self._client(number, clients, rate, until) for number in range(clients)))

    async def _client(self, number: int, clients: int, rate: float, until: float) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        turn = time.monotonic() + (number / rate if rate else 0.0)
        while max(turn, time.monotonic()) < until:
            await asyncio.sleep(max(turn - time.monotonic(), 0.0))
            turn += clients / rate if rate else 0.0
            length = 10 + (self.statuses.total() * 7 + number) % 30
            writer.write(request(length))
            status, headers, body = await answer(reader)
            self.statuses[status] += 1
            if status == 200 and json.loads(body)["results"][0]["score"] != length:
                self.wrong.append((length, body))
            if status == 429 and int(headers["retry-after"]) < 1:
                self.wrong.append(headers)
            if number == 0:
                self.memory_mb.append(self._resident_mb())
        writer.close()

    def _resident_mb(self) -> float:
        with open(f"/proc/{self.server.process.pid}/status") as status:
            return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def request(length: int) -> bytes:
    body = b'{"items":[{"completion":"%s"}]}' % (b"a" * length)
    return b"POST /v1/score HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % len(body) + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """A library for HTTP is slower than the server under test."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().splitlines()
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


@pytest.mark.slow
def test_four_times_the_capacity(start_server: Any) -> None:
    reward = {"commanded": {"type": "served_rewards:Commanded", "seconds_per_batch": 0.1}}
    limits = ("server.batch_tokens=64", "server.max_queued_items=24", "server.max_items=24")
    offered = Offered(start_server(reward, *limits))
    capacity = offered.run(32, 0.0, 4.0)
    goodput = offered.run(CLIENTS, OVERLOAD * capacity, SECONDS)
    asked = offered.statuses.total() / SECONDS
    memory = offered.memory_mb[len(offered.memory_mb) // 4 :]
    print(f"capacity {capacity:.0f}/s, asked {asked:.0f}/s, scored {goodput:.0f}/s, {dict(offered.statuses)}, "
          f"memory {memory[0]:.1f} to {memory[-1]:.1f} MB")  # fmt: skip
    assert offered.wrong == []
    assert set(offered.statuses) == {200, 429}
    assert asked > 0.9 * OVERLOAD * capacity
    assert goodput > 0.8 * capacity
    assert max(memory) - memory[0] < 8.0
