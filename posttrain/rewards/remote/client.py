"""Clients of the scoring API: ``AsyncRewardClient``, and ``RewardClient`` for code that does not await."""

import asyncio
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import httpx

from posttrain.errors import RewardFailure
from posttrain.rewards.remote.http_client import LoopThread, bearer, jitter, retry_after
from posttrain.rewards.remote.remote import ClientSettings
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.score_item import ScoreItem

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0
CONNECT_LIMIT_S = 5.0
# A server answers at its own deadline, which is before the client's: items that it has scored are not lost.
SERVERS_SHARE, ANSWER_GRACE_S = 0.9, 5.0
# What a server answers about single items; a request with several is cut in half until they are found.
ITEM_STATUSES = (413, 422)
# Scoring has no side effects: after these, and after a lost connection, the same request may be sent again.
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)


@dataclass(slots=True, eq=False)
class _Server:
    url: str
    running: int = 0
    failures: int = 0
    away_until: float = 0.0
    problem: str = "no answer in time"

    def failed(self, problem: str, wait_s: float | None = None) -> None:
        """Leave it alone for ``wait_s``, or for longer after each failure; with jitter, so that clients spread."""
        backoff_s = min(FIRST_WAIT_S * 2.0**self.failures, LONGEST_WAIT_S)
        self.problem = problem
        self.failures = min(self.failures + 1, 16)
        self.away_until = time.monotonic() + (backoff_s if wait_s is None else wait_s) * jitter.uniform(1.0, 1.5)

    def answered(self) -> None:
        self.failures, self.away_until = 0, 0.0


class AsyncRewardClient:
    """Scores over one or several servers that serve the same reward.

    A request goes to the server with the fewest of this client's requests; one that fails is left alone for a while.
    While none can be reached the client waits, up to the deadline; what is not scored by then is the error
    ``unavailable``. Errors of single items are kept as the server tells them. The settings are the keys of
    ``ClientSettings``; ``api_key`` is sent as bearer key.
    """

    def __init__(self, urls: Sequence[str], *, api_key: str | None = None, **settings: Any) -> None:
        self.settings = ClientSettings(urls=list(urls), **settings)
        self.digest: str | None = None
        self._servers = [_Server(url) for url in self.settings.urls]
        connections = self.settings.connections
        self._slots = asyncio.Semaphore(connections)
        headers = {"content-type": "application/json", **bearer(api_key)}
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30.0)
        self._http = httpx.AsyncClient(headers=headers, limits=limits, trust_env=False)

    async def score(self, inputs: Sequence[RewardInput], *, token_scores: bool = False) -> list[RewardOutput]:
        """One output for each input, in order.

        Raises:
            RewardFailure: a server refuses the requests as such (wrong key, no reward of that name), or servers hold
                different rewards.
        """
        deadline = time.monotonic() + self.settings.deadline_s
        encoded = [_encoded(item) for item in inputs]
        sent = [data for data in encoded if isinstance(data, bytes)]
        size = self.settings.items_per_request
        tasks = [
            asyncio.create_task(self._score(sent[start : start + size], token_scores, deadline))
            for start in range(0, len(sent), size)
        ]
        try:
            scored = chain.from_iterable(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
        return [next(scored) if isinstance(data, bytes) else data for data in encoded]

    async def close(self) -> None:
        await self._http.aclose()

    async def _score(self, items: list[bytes], token_scores: bool, deadline: float) -> list[RewardOutput]:
        """The outputs of one request, sent until a server answers it."""
        while (server := await self._free_server(deadline)) is not None:
            response = await self._post(server, items, token_scores, deadline)
            if response is None:
                continue
            if response.status_code == 200:
                return self._outputs(server, response, len(items))
            if len(items) == 1:
                return [RewardOutput(None, error="invalid_input", message=_message(response))]
            half = len(items) // 2
            parts = (self._score(part, token_scores, deadline) for part in (items[:half], items[half:]))
            first, second = await asyncio.gather(*parts)
            return first + second
        problems = "; ".join(f"{server.url}: {server.problem}" for server in self._servers)
        return [RewardOutput(None, error="unavailable", message=problems)] * len(items)

    async def _free_server(self, deadline: float) -> _Server | None:
        """The least busy server that is not away, as soon as there is one; None where that is after ``deadline``."""
        while (now := time.monotonic()) < deadline:
            server = min(self._servers, key=lambda one: (max(one.away_until, now), one.running, jitter.random()))
            if server.away_until <= now:
                return server
            await asyncio.sleep(min(server.away_until, deadline) - now)
        return None

    async def _post(
        self, server: _Server, items: list[bytes], token_scores: bool, deadline: float
    ) -> httpx.Response | None:
        """The answer, if it is about the items; None where the request should be sent again.

        Raises:
            RewardFailure: any answer that would be the same next time.
        """
        async with self._slots:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            timeout_s = min(self.settings.request_timeout_s, SERVERS_SHARE * left_s)
            settings = json.dumps({"model": self.settings.model, "timeout_s": timeout_s, "token_scores": token_scores})
            content = b'{"items":[' + b",".join(items) + b"]," + settings.encode()[1:]
            timeout = httpx.Timeout(min(timeout_s + ANSWER_GRACE_S, left_s), connect=min(CONNECT_LIMIT_S, left_s))
            server.running += 1
            try:
                response = await self._http.post(f"{server.url}/v1/score", content=content, timeout=timeout)
            except httpx.TransportError as error:
                server.failed(type(error).__name__)
                return None
            finally:
                server.running -= 1
        if response.status_code in RETRIED_STATUSES:
            server.failed(_message(response), retry_after(response.headers.get("retry-after")) or None)
            return None
        server.answered()
        if response.status_code not in (200, *ITEM_STATUSES):
            raise RewardFailure(f"{server.url} refuses to score: {response.status_code}: {_message(response)}")
        return response

    def _outputs(self, server: _Server, response: httpx.Response, count: int) -> list[RewardOutput]:
        try:
            reply = response.json()
            outputs = list(map(_output, reply["results"]))
            digest = str(reply["digest"])
        except (ValueError, KeyError, TypeError) as error:
            raise RewardFailure(f"{server.url} does not answer in the form of /v1/score") from error
        if len(outputs) != count:
            raise RewardFailure(f"{server.url} answered {len(outputs)} results for {count} items")
        if self.digest not in (None, digest):
            raise RewardFailure(
                f"{server.url} holds another reward than before: digest {digest}, not {self.digest}. Servers of one "
                "client must serve the same reward, and keep it."
            )
        self.digest = digest
        return outputs


class RewardClient:
    """``AsyncRewardClient`` for code that does not await; ``score`` may be called from several threads at once."""

    def __init__(self, urls: Sequence[str], **settings: Any) -> None:
        self._client = AsyncRewardClient(urls, **settings)
        self._loop = LoopThread("reward-client")

    def score(self, inputs: Sequence[RewardInput], *, token_scores: bool = False) -> list[RewardOutput]:
        """As ``AsyncRewardClient.score``."""
        return self._loop.run(self._client.score(inputs, token_scores=token_scores))

    def close(self) -> None:
        self._loop.run(self._client.close())
        self._loop.close()


def _encoded(item: RewardInput) -> bytes | RewardOutput:
    """The item as JSON, or why it cannot be sent."""
    try:
        return json.dumps(_fields(item), allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        return RewardOutput(None, error="invalid_input", message=f"cannot be sent as JSON: {error}")


def _fields(item: RewardInput) -> dict[str, Any]:
    """A ``ScoreItem`` without its empty fields. Metadata of the name of a field cannot be sent."""
    example = item.example
    own = {name: getattr(example, name) for name in ScoreItem.model_fields if hasattr(example, name)}
    own |= {"completion_ids": item.completion_ids, "finish_reason": item.finish_reason}
    further = {name: value for name, value in example.metadata.items() if name not in ScoreItem.model_fields}
    return further | {name: value for name, value in own.items() if value} | {"completion": item.completion}


def _output(result: dict[str, Any]) -> RewardOutput:
    parts = {name: math.nan if value is None else value for name, value in result["parts"].items()}
    token_scores = [math.nan if value is None else value for value in result.get("token_scores") or []]
    return RewardOutput(result["score"], parts, result["error"], result.get("message") or "", token_scores)


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason_phrase
