"""A reward that other processes or machines compute: servers started with ``posttrain serve``."""

import os
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.errors import UserError
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.remote.http_client import Address
from posttrain.rewards.reward import RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.remote.client import RewardClient


class ClientSettings(Config):
    """What a client of the scoring API is told."""

    urls: list[Address] = Field(min_length=1, description="servers of the same reward; requests are spread over them")
    model: str | None = Field(default=None, description="the reward's name on the servers; null: their first")
    deadline_s: float = Field(default=300.0, gt=0, description="of a batch; what has no score then is unavailable")
    request_timeout_s: float = Field(default=60.0, gt=0)
    items_per_request: int = Field(default=64, ge=1)
    connections: int = Field(default=16, ge=1, description="requests at once")


class RemoteReward(ClientSettings, ConfiguredReward):
    """``urls: [http://host:8000]``; the API key, if one is needed, comes from the environment.

    While no server can be reached it waits, up to the deadline; then what has no score is the error ``unavailable``.
    See ``AsyncRewardClient``.
    """

    type: Literal["remote"] = "remote"
    api_key_variable: str = Field(default="POSTTRAIN_API_KEY", description="environment variable that holds the key")

    @property
    def name(self) -> str:
        return self.model or self.type

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return self._client.score(inputs)

    def close(self) -> None:
        client = self.__dict__.pop("_client", None)
        if client is not None:
            client.close()

    @cached_property
    def _client(self) -> "RewardClient":
        try:
            from posttrain.rewards.remote.client import RewardClient
        except ModuleNotFoundError as error:
            raise UserError(f"reward remote needs {error.name}: pip install 'posttrain[serve]'") from None
        settings = self.model_dump(include=set(ClientSettings.model_fields))
        return RewardClient(**settings, api_key=os.environ.get(self.api_key_variable))
