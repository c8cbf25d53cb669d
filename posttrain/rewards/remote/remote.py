"""A reward that other processes or machines compute: servers started with ``posttrain serve``."""

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.errors import UserError
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.remote.http_client import Address
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.remote.client import RewardClient


class RemoteConfig(BaseRewardConfig):
    """``urls: [http://host:8000]``; the API key, if one is needed, comes from the environment."""

    type: Literal["remote"] = "remote"
    urls: list[Address] = Field(min_length=1, description="servers of the same reward; requests are spread over them")
    model: str | None = Field(default=None, description="the reward's name on the servers; null: their first")
    api_key_variable: str = Field(default="POSTTRAIN_API_KEY", description="environment variable that holds the key")
    deadline_s: float = Field(default=300.0, gt=0, description="of a batch; what has no score then is unavailable")
    request_timeout_s: float = Field(default=60.0, gt=0)
    items_per_request: int = Field(default=64, ge=1)
    connections: int = Field(default=16, ge=1, description="requests at once")

    def make(self) -> Reward:
        return RemoteReward(self)


class RemoteReward:
    """Scores on the servers of ``config``. While none can be reached it waits, up to the deadline; then what has no
    score is the error ``unavailable``. See ``AsyncRewardClient``."""

    def __init__(self, config: RemoteConfig) -> None:
        self.config = config
        self.name = config.model or "remote"
        self._lock = threading.Lock()
        self._client: RewardClient | None = None

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return self._connected().score(inputs)

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> "RewardClient":
        try:
            from posttrain.rewards.remote.client import RewardClient
        except ModuleNotFoundError as error:
            raise UserError(f"reward remote needs {error.name}: pip install 'posttrain[serve]'") from None
        with self._lock:
            if self._client is None:
                settings = self.config.model_dump(exclude={"type", "on_error", "error_score", "api_key_variable"})
                self._client = RewardClient(**settings, api_key=os.environ.get(self.config.api_key_variable))
            return self._client
