"""posttrain: six published post-training methods over one shared core.

Names are imported on first use, so ``import posttrain`` stays cheap: the trainers pull in torch and transformers
only when a trainer is asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_EXPORTS = {
    "Example": "posttrain.types",
    "Rollout": "posttrain.types",
    "RolloutGroup": "posttrain.types",
    "RolloutRequest": "posttrain.types",
    "Sampling": "posttrain.types",
    "TrainingSample": "posttrain.types",
    "Job": "posttrain.job",
    "load_job": "posttrain.job",
    "MathAnswerReward": "posttrain.rewards.math.math_answer",
    "AgentRConfig": "posttrain.trainers.agent_r_config",
    "AgentRTrainer": "posttrain.trainers.agent_r",
    "BLEUBERIConfig": "posttrain.trainers.bleuberi_config",
    "BLEUBERITrainer": "posttrain.trainers.bleuberi",
    "GRPOConfig": "posttrain.trainers.grpo_config",
    "GRPOTrainer": "posttrain.trainers.grpo",
    "OREALConfig": "posttrain.trainers.oreal_config",
    "OREALTrainer": "posttrain.trainers.oreal",
    "PrefixRFTConfig": "posttrain.trainers.prefix_rft_config",
    "PrefixRFTTrainer": "posttrain.trainers.prefix_rft",
    "RAFTConfig": "posttrain.trainers.raft_config",
    "RAFTTrainer": "posttrain.trainers.raft",
    "RewardModelConfig": "posttrain.trainers.reward_model_config",
    "RewardModelTrainer": "posttrain.trainers.reward_model",
    "SPEARConfig": "posttrain.trainers.spear_config",
    "SPEARTrainer": "posttrain.trainers.spear",
    "URPOConfig": "posttrain.trainers.urpo_config",
    "URPOTrainer": "posttrain.trainers.urpo",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'posttrain' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
