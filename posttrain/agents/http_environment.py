"""Environments behind an HTTP server, with the routes of AgentGym (arXiv 2406.04151) in its two dialects."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, model_validator

from posttrain.agents.environment import WITHOUT_ACTION, StepResult, parse_action
from posttrain.config import Config
from posttrain.rewards.remote.http_client import Address, jitter, retry_after

# To begin an episode twice does no harm: after these, and after a lost connection, it is asked for again. A step that
# was lost may have been taken; it is an error here, and whoever asked for it replays the episode.
RETRIED_STATUSES = (408, 429, 500, 502, 503, 504)
ATTEMPTS, FIRST_WAIT_S = 4, 0.25


@dataclass(frozen=True, slots=True)
class Dialect:
    """How the requests name an environment and a task, and what the replies to create, reset and step say."""

    environment: str
    task: str
    created: Callable[[Any], int]
    first: Callable[[Any], str]
    result: Callable[[Any], StepResult]


def _score(reply: dict[str, Any]) -> float:
    """Where a server tells the score so far, of 100, its reward is the difference to the step before."""
    return float(reply["score"]) / 100 if "score" in reply else float(reply["reward"])


DIALECTS = {
    "textcraft": Dialect(
        environment="id",
        task="data_idx",
        created=lambda reply: reply["id"],
        first=lambda reply: "\n".join(reply[key] for key in ("task_description", "observation") if key in reply),
        result=lambda reply: StepResult(reply["observation"], _score(reply), bool(reply["done"])),
    ),
    "webshop": Dialect(
        environment="env_idx",
        task="session_id",
        created=int,
        first=lambda reply: reply[0],
        result=lambda reply: StepResult(reply["state"], float(reply["reward"]), bool(reply["done"])),
    ),
}


class HTTPEnvironmentConfig(Config):
    """Task ``http/N`` is the server's N-th. ``train`` and ``held_out`` say which there are: from the first number up
    to, and without, the second."""

    type: Literal["http"] = "http"
    url: Address
    dialect: Literal["textcraft", "webshop"] = Field(description="ScienceWorld's server speaks as TextCraft's does")
    create: dict[str, Any] | None = Field(default=None, description="body of POST /create; null: none")
    train: tuple[NonNegativeInt, NonNegativeInt]
    held_out: tuple[NonNegativeInt, NonNegativeInt]
    max_steps: int = Field(default=20, ge=1)
    request_timeout_s: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _no_task_is_in_both(self) -> "HTTPEnvironmentConfig":
        if max(self.train[0], self.held_out[0]) < min(self.train[1], self.held_out[1]):
            raise ValueError(f"train {self.train} and held_out {self.held_out} overlap: no task may be in both")
        return self

    def task_ids(self, split: str) -> list[str]:
        """``http/N`` for each N of the range."""
        return [f"http/{number}" for number in range(*(self.held_out if split == "eval" else self.train))]

    def build(self) -> "HTTPEnvironment":
        return HTTPEnvironment(self)


class HTTPEnvironment:
    """An ``Environment``; ``seed`` has no part in its episodes. The server is sent the action, not the whole turn.

    Every method raises ``ConnectionError`` where the server has no answer, or an error in place of an observation.
    """

    def __init__(self, config: HTTPEnvironmentConfig) -> None:
        import httpx

        self.config = config
        self.dialect = DIALECTS[config.dialect]
        self.http = httpx.Client(base_url=config.url, timeout=config.request_timeout_s, trust_env=False)
        self.number: int | None = None

    def reset(self, task_id: str, seed: int) -> str:
        """The same environment of the server is used for all episodes of this object."""
        if task_id not in (*self.config.task_ids("train"), *self.config.task_ids("eval")):
            raise KeyError(task_id)
        number = int(task_id.removeprefix("http/"))
        if self.number is None:
            self.number = self._ask("create", self.config.create, self.dialect.created, ATTEMPTS)
        self.steps, self.reward = 0, 0.0
        return self._ask("reset", self._body(self.dialect.task, number), self.dialect.first, ATTEMPTS)

    def step(self, turn: str) -> StepResult:
        """One action; the server is not asked about a turn without one."""
        self.steps += 1
        action = parse_action(turn)
        if action is None:
            result = StepResult(WITHOUT_ACTION, self.reward, valid=False)
        else:
            result = self._ask("step", self._body("action", action), self.dialect.result, attempts=1)
        self.reward = result.reward
        return replace(result, done=result.done or self.steps >= self.config.max_steps)

    def close(self) -> None:
        """The server may not know how to close one, or be gone."""
        import httpx

        try:
            if self.number is not None:
                self.http.post("/close", json={self.dialect.environment: self.number})
        except httpx.HTTPError:
            pass
        self.http.close()

    def _body(self, key: str, value: int | str) -> dict[str, Any]:
        return {self.dialect.environment: self.number, key: value}

    def _ask(self, route: str, body: dict[str, Any] | None, read: Callable[[Any], Any], attempts: int) -> Any:
        """What ``read`` finds in the reply."""
        response = self._post(route, body, attempts)
        try:
            reply = response.json()
            if response.is_success and not (isinstance(reply, dict) and "error" in reply):
                return read(reply)
            problem = f"answers {response.status_code}: {reply}"
        except (ValueError, KeyError, TypeError, IndexError):
            problem = f"answers {response.status_code} in another form than that of {self.config.dialect}"
        raise ConnectionError(f"{self.config.url}/{route} {problem[:500]}")

    def _post(self, route: str, body: dict[str, Any] | None, attempts: int) -> Any:
        import httpx

        wait_s = FIRST_WAIT_S * 2 ** (ATTEMPTS - attempts) * jitter.uniform(1.0, 1.5)
        try:
            response = self.http.post(f"/{route}", json=body)
            if attempts == 1 or response.status_code not in RETRIED_STATUSES:
                return response
            wait_s = max(wait_s, retry_after(response.headers.get("retry-after")))
        except httpx.TransportError as error:
            if attempts == 1:
                raise ConnectionError(f"{self.config.url}/{route} does not answer: {error!r}") from error
        time.sleep(wait_s)
        return self._post(route, body, attempts - 1)
