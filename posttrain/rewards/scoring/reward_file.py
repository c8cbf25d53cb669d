"""A reward of its own file, as in ``reward_models/``: a ``reward:`` section like a job's."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from posttrain.config import Config
from posttrain.config_file import read_config_file
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.on_error import BaseRewardConfig


class RewardFile(Config):
    """The whole of a reward file."""

    reward: RewardConfig


def load_reward_config(path: str | Path, overrides: Sequence[str] = ()) -> RewardConfig:
    """The reward config of a file, with dotted overrides that start inside it: ``variant=sacrebleu``.

    Raises:
        JobError: what is wrong, with file, line and key.
    """
    file = read_config_file(path, [f"reward.{override.removeprefix('reward.')}" for override in overrides])
    return file.validate(RewardFile).reward


def reward_digest(config: BaseRewardConfig) -> str:
    """SHA-256 of the resolved config: equal for rewards that were configured alike."""
    return hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
