"""A judge behind an OpenAI-compatible ``/chat/completions`` (vLLM, SGLang, a hosted model): many questions at once,
retries, a deadline."""

import asyncio
import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.errors import JobError
from posttrain.rewards.judge.judgement import Conversation, Reply, question_seed
from posttrain.rewards.remote.http_client import Address, LoopThread, Pace, bearer, jitter, retry_after
from posttrain.types import Sampling

if TYPE_CHECKING:
    import httpx

CONNECT_S, MAX_BACKOFF_S = 10.0, 30.0
SHOWN = 200  # characters of a server's error that a message quotes


class EndpointConfig(Config):
    """``{type: endpoint, base_url: http://127.0.0.1:8000/v1, model: NAME}``."""

    type: Literal["endpoint"] = "endpoint"
    base_url: Address = Field(description="up to and with /v1")
    model: str = Field(description="the name that the server knows it by")
    api_key_variable: str | None = Field(default=None, description="environment variable that holds the key")
    concurrency: int = Field(default=32, ge=1, description="questions that are outstanding at the server")
    requests_per_minute: float | None = Field(default=None, gt=0, description="at most; later attempts count")
    attempts: int = Field(default=5, ge=1, description="after connection errors, status 408, 429 and 5xx")
    backoff_s: float = Field(default=0.5, gt=0, description="longest wait before the second attempt; then doubled")
    deadline_s: float = Field(default=120.0, gt=0, description="seconds for one question, all its attempts included")
    extra: dict[str, Any] = Field(default_factory=dict, description="more keys of the request; null takes a key out")

    def build(self) -> "ChatEndpoint":
        """Raises ``JobError`` where ``api_key_variable`` is not set."""
        return ChatEndpoint(self)


class ChatEndpoint:
    """A ``Judge``. Requests run in an event loop on a thread of its own, which starts with the first question."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.identity: Mapping[str, Any] | None = config.model_dump(include={"type", "base_url", "model", "extra"})
        self._key = os.environ.get(config.api_key_variable, "") if config.api_key_variable else ""
        if config.api_key_variable and not self._key:
            raise JobError(f"api_key_variable: the environment variable {config.api_key_variable} is not set")
        self._lock = threading.Lock()
        self._loop: LoopThread | None = None

    def replies(self, questions: Sequence[Conversation], sampling: Sampling, seed: int, top: int) -> list[Reply]:
        """One reply a question: ``unavailable`` after the last attempt or a refusal, ``timeout`` at the deadline,
        ``invalid_input`` for what the server cannot take, ``unparseable`` for a body that is no chat completion."""
        payloads = [self._payload(question, sampling, seed, top) for question in questions]

        async def all_replies() -> list[Reply]:
            return await asyncio.gather(*map(self._reply, payloads))

        return self._started().run(all_replies())

    def close(self) -> None:
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.run(self._client.aclose())
            loop.close()

    def _payload(self, question: Conversation, sampling: Sampling, seed: int, top: int) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "model": self.config.model,
            "messages": question,
            "max_tokens": sampling.max_completion_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": question_seed(seed, question) if sampling.temperature > 0 else None,
            "top_k": sampling.top_k or None,  # of vLLM and SGLang; OpenAI knows neither this nor the next
            "stop_token_ids": list(sampling.stop_token_ids) or None,
        }
        if top:
            payload |= {"logprobs": True, "top_logprobs": top}
        return {key: value for key, value in (payload | self.config.extra).items() if value is not None}

    async def _reply(self, payload: dict[str, Any]) -> Reply:
        async with self._slots:
            await self._pace.turn()
            try:
                async with asyncio.timeout(self.config.deadline_s):
                    return await self._attempts(payload)
            except TimeoutError:
                return Reply(error="timeout", message=f"no reply within {self.config.deadline_s:g} s")

    async def _attempts(self, payload: dict[str, Any]) -> Reply:
        import httpx

        ends = time.monotonic() + self.config.deadline_s
        failure = ""
        for attempt in range(self.config.attempts):
            wait = jitter.uniform(0, min(MAX_BACKOFF_S, self.config.backoff_s * 2**attempt))
            try:
                response = await self._client.post("chat/completions", json=payload)
            except httpx.RequestError as error:
                failure = f"{type(error).__name__}: {error}"
            else:
                if response.status_code == httpx.codes.OK:
                    return _read(response, with_logprobs="top_logprobs" in payload)
                text = response.text.replace(self._key, "***") if self._key else response.text
                failure = f"status {response.status_code}: {text[:SHOWN]}"
                if not (response.status_code in (408, 429) or response.status_code >= 500):
                    unfit = response.status_code in (400, 413, 422)
                    return Reply(error="invalid_input" if unfit else "unavailable", message=failure)
                wait += retry_after(response.headers.get("retry-after"))
            if attempt + 1 == self.config.attempts or time.monotonic() + wait > ends:
                break
            await asyncio.sleep(wait)
            await self._pace.turn()
        return Reply(error="unavailable", message=f"{failure} (attempt {attempt + 1} of {self.config.attempts})")

    def _started(self) -> LoopThread:
        import httpx

        with self._lock:
            if self._loop is None:
                self._client = httpx.AsyncClient(
                    base_url=self.config.base_url,
                    headers=bearer(self._key),
                    timeout=httpx.Timeout(None, connect=CONNECT_S),
                    limits=httpx.Limits(max_connections=self.config.concurrency),
                )
                self._slots = asyncio.Semaphore(self.config.concurrency)
                self._pace = Pace(self.config.requests_per_minute)
                self._loop = LoopThread("chat-endpoint")
            return self._loop


def _read(response: "httpx.Response", with_logprobs: bool) -> Reply:
    try:
        choice = response.json()["choices"][0]
        text = choice["message"]["content"]
        tokens = choice["logprobs"]["content"][0]["top_logprobs"] if with_logprobs else []
        first_tokens = tuple((str(token["token"]), float(token["logprob"])) for token in tokens)
    except (ValueError, LookupError, TypeError) as error:
        wanted = "chat completion with log-probs" if with_logprobs else "chat completion"
        return Reply(error="unparseable", message=f"the body is no {wanted}: {type(error).__name__}: {error}")
    if not isinstance(text, str):
        return Reply(error="unparseable", message=f"the judge wrote no text but {text!r}")
    return Reply(text, first_tokens)
