"""Listening: uvicorn with the timeouts that it lacks, and an orderly end."""

import asyncio
import ipaddress
import signal
from asyncio import TimerHandle
from collections.abc import Mapping, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from posttrain.errors import UserError
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.service.app import create_app
from posttrain.rewards.service.batching import ServedReward
from posttrain.rewards.service.config import ServerConfig
from posttrain.rewards.service.metrics import Metrics

LARGEST_HEAD = 1 << 16
DRAIN_GRACE_S = 5


class LimitedProtocol(HttpToolsProtocol):
    """HTTP/1.1 where the head of a request must come within ``head_timeout_s`` and ``LARGEST_HEAD`` bytes.

    uvicorn closes a connection that is idle after an answer, but waits for ever for a first request, and for the rest
    of a head.
    """

    head_timeout_s = 20.0
    _head_timer: TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_timer is not None and self._head_bytes > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("The request's head is too large.")

    def on_headers_complete(self) -> None:
        self._head_arrived()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_arrived()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_timer = self.loop.call_later(self.head_timeout_s, self.timeout_keep_alive_handler)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def check_exposure(config: ServerConfig, keys: Sequence[str]) -> None:
    """Raises: UserError, where others could reach a server without keys."""
    try:
        is_local = config.host == "localhost" or ipaddress.ip_address(config.host).is_loopback
    except ValueError:
        is_local = False
    if not is_local and not keys:
        raise UserError(
            f"--host {config.host} lets other machines in, and there is no API key: give --api-key-file FILE, or set "
            "POSTTRAIN_API_KEYS"
        )


async def serve(rewards: Mapping[str, BaseRewardConfig], config: ServerConfig, keys: Sequence[str]) -> None:
    """Serve ``rewards`` by name until SIGTERM or SIGINT; then answer what has been accepted, and return.

    Raises:
        UserError: a reward cannot be made, or the address is in use or open to others without a key.
    """
    check_exposure(config, keys)
    metrics = Metrics()
    served = {name: ServedReward(name, reward, config, metrics) for name, reward in rewards.items()}
    try:
        await asyncio.gather(*(reward.start() for reward in served.values()))
        await _listen(create_app(served, config, keys, metrics), config)
    finally:
        await asyncio.gather(*(reward.close() for reward in served.values()))


async def _listen(app: Any, config: ServerConfig) -> None:
    settings = uvicorn.Config(
        app,
        host=config.host,
        port=config.port,
        http=type("Protocol", (LimitedProtocol,), {"head_timeout_s": config.body_timeout_s}),
        ws="none",
        lifespan="off",
        access_log=False,
        server_header=False,
        timeout_keep_alive=config.idle_timeout_s,
        timeout_graceful_shutdown=int(config.timeout_s) + DRAIN_GRACE_S,
    )
    # uvicorn raises the signals that it has acted on once more when it is done.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, frame: None)
    try:
        await uvicorn.Server(settings).serve()
    except SystemExit:
        raise UserError(f"cannot listen on {config.host}:{config.port}; is the port in use?") from None
