"""What stands before the routes: keys, the number of requests, the size and the pace of bodies."""

import asyncio
import hashlib
import hmac
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from posttrain.errors import UserError
from posttrain.rewards.service.config import ServerConfig
from posttrain.rewards.service.metrics import Metrics

KEYS_VARIABLE = "POSTTRAIN_API_KEYS"
OPEN_PATHS = frozenset({"/health", "/ready", "/docs", "/openapi.json"})


def error_reply(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The error form of OpenAI's and vLLM's servers."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": status}}, status, headers)


def read_keys(file: Path | None) -> list[str]:
    """The API keys: a line each in ``file``, else separated by commas in ``POSTTRAIN_API_KEYS``.

    Raises:
        UserError: the file cannot be read or holds no key, or a key is not printable ASCII.
    """
    if file is None:
        keys = [key.strip() for key in os.environ.get(KEYS_VARIABLE, "").split(",")]
    else:
        try:
            keys = [line.strip() for line in file.read_text().splitlines() if not line.startswith("#")]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--api-key-file {file} cannot be read: {type(error).__name__}") from None
        if not any(keys):
            raise UserError(f"--api-key-file {file} holds no key; write one a line")
    keys = [key for key in keys if key]
    if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
        raise UserError("an API key may hold printable ASCII characters without spaces only")
    return keys


class Refused(Exception):
    """A request that does not get to the routes."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        self.reply = error_reply(status, message, {"connection": "close", **headers})


class Guard:
    """ASGI middleware around ``app``; it also counts and times the requests of ``routes``."""

    def __init__(
        self, app: ASGIApp, config: ServerConfig, keys: Sequence[str], metrics: Metrics, routes: Sequence[str]
    ) -> None:
        self.app = app
        self.config = config
        self.metrics = metrics
        self.routes = frozenset(routes)
        # Digests have one length, so that a comparison tells nothing about a key's.
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._max_body = int(config.max_body_mb * (1 << 20))
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started = time.perf_counter()
        status = 500

        async def send_timed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            async with asyncio.timeout(self.config.body_timeout_s):  # a client that does not read its answer
                await send(message)

        route = scope["path"] if scope["path"] in self.routes else "other"
        self._running += 1
        try:
            await self._admit(scope, receive, send_timed)
        finally:
            self._running -= 1
            self.metrics.requests.labels(route, status).inc()
            self.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = dict(scope["headers"])
            if scope["path"] not in OPEN_PATHS:
                self._check_key(headers.get(b"authorization", b""))
                if self._running > self.config.max_requests:
                    raise Refused(429, "too many requests at once", **{"retry-after": "1"})
            body = await self._body(headers.get(b"content-length", b""), receive)
        except Refused as refusal:
            return await refusal.reply(scope, receive, send)
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return unread.pop() if unread else await receive()

        await self.app(scope, receive_again, send)

    def _check_key(self, authorization: bytes) -> None:
        scheme, _, key = authorization.partition(b" ")
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._keys]  # all of them, always
        if self._keys and not (any(matches) and scheme.lower() == b"bearer"):
            raise Refused(401, "a valid API key is needed: Authorization: Bearer KEY", **{"www-authenticate": "Bearer"})

    async def _body(self, content_length: bytes, receive: Receive) -> bytes:
        too_large = Refused(413, f"a request's body may have {self.config.max_body_mb:g} MB at most")
        if content_length.isdigit() and int(content_length[:20]) > self._max_body:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.config.body_timeout_s):
                while True:
                    message: dict[str, Any] = dict(await receive())
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the connection was closed within the body")
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > self._max_body:
                        raise too_large
                    if not message.get("more_body", False):
                        return b"".join(chunks)
        except TimeoutError:
            raise Refused(408, f"the body did not arrive within {self.config.body_timeout_s:g} s") from None
