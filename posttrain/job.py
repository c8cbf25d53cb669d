"""A job: one YAML file, one typed config, assembled from the config classes that live beside their components.

Example::

    method: oreal
    model: {tiny: {layers: 2}}
    data: {type: arithmetic}
    trainer: {steps: 20, learning_rate: 1e-4, sampling: {max_completion_tokens: 16}}
    run: {folder: runs/first, seed: 1}

Importing this module imports no torch: ``posttrain.build`` turns a job into a trainer.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import Field, model_validator

from posttrain.config import Config, load_object
from posttrain.config_file import ConfigFile, dump_yaml, read_config_file
from posttrain.rewards.config import RewardConfig
from posttrain.rollout.config import EngineConfig, TransformersEngineConfig
from posttrain.tasks.attempts import AttemptsTask
from posttrain.tasks.config import TaskConfig
from posttrain.tasks.environment import EnvironmentTask
from posttrain.trainers.agent_r_config import AgentRConfig
from posttrain.trainers.bleuberi_config import BLEUBERIConfig
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.trainers.prefix_rft_config import PrefixRFTConfig
from posttrain.trainers.raft_config import RAFTConfig
from posttrain.trainers.reward_model_config import RewardModelConfig
from posttrain.trainers.sft_config import SFTConfig
from posttrain.trainers.spear_config import SPEARConfig
from posttrain.trainers.urpo_config import URPOConfig
from posttrain.training.model_config import ModelConfig
from posttrain.training.run_config import RunConfig

TrainerConfigT = TypeVar("TrainerConfigT", bound=Config)

# method -> the class of `trainer:`, and the trainer itself, which is imported only when it is built
METHODS: dict[str, tuple[type[Config], str]] = {
    "agent_r": (AgentRConfig, "posttrain.trainers.agent_r:AgentRTrainer"),
    "bleuberi": (BLEUBERIConfig, "posttrain.trainers.bleuberi:BLEUBERITrainer"),
    "oreal": (OREALConfig, "posttrain.trainers.oreal:OREALTrainer"),
    "prefix_rft": (PrefixRFTConfig, "posttrain.trainers.prefix_rft:PrefixRFTTrainer"),
    "raft": (RAFTConfig, "posttrain.trainers.raft:RAFTTrainer"),
    "grpo": (GRPOConfig, "posttrain.trainers.grpo:GRPOTrainer"),
    "spear": (SPEARConfig, "posttrain.trainers.spear:SPEARTrainer"),
    "urpo": (URPOConfig, "posttrain.trainers.urpo:URPOTrainer"),
    "sft": (SFTConfig, "posttrain.trainers.sft:SFTTrainer"),
    "reward_model": (RewardModelConfig, "posttrain.trainers.reward_model:RewardModelTrainer"),
}
SAMPLE_NOTHING = ("sft", "reward_model")  # they learn from their data alone: no engine, no reward, no warm start
METHOD_REWARDS = {"bleuberi": {"type": "bleu"}}  # of a job that names none, instead of the task's own


class Job(Config, Generic[TrainerConfigT]):
    """Everything that a run depends on. ``Job[OREALConfig]`` is the job whose ``trainer`` section is OREAL's."""

    method: str = Field(description="a method, or package.module:Name of a trainer class with config_class")
    model: ModelConfig
    data: TaskConfig
    engine: EngineConfig = Field(default_factory=TransformersEngineConfig)
    reward: RewardConfig | None = Field(default=None, description="null: the method's, or the task's own")
    trainer: TrainerConfigT
    warm_start: SFTConfig | None = Field(default=None, description="fine-tune on the demonstrations first")
    warm_start_data: TaskConfig | None = Field(default=None, description="of the warm start; null: data")
    run: RunConfig = Field(default_factory=RunConfig)

    @model_validator(mode="before")
    @classmethod
    def _trainer_may_be_left_out(cls, data: Any) -> Any:
        return {"trainer": {}, **data} if isinstance(data, dict) else data

    @model_validator(mode="before")
    @classmethod
    def _method_may_bring_its_reward(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("reward") is None and data.get("method") in METHOD_REWARDS:
            return {**data, "reward": METHOD_REWARDS[data["method"]]}
        return data

    @model_validator(mode="after")
    def _sections_fit(self) -> "Job[TrainerConfigT]":
        if self.method in SAMPLE_NOTHING and self.warm_start is not None:
            raise ValueError(f"warm_start is for methods that sample from their policy; with {self.method}, drop it")
        if self.method in SAMPLE_NOTHING and self.reward is not None and not getattr(self.trainer, "eval_rollouts", 0):
            raise ValueError(f"reward is not used by method {self.method}, which learns from its data alone; drop it")
        if self.warm_start_data is not None and self.warm_start is None:
            raise ValueError("warm_start_data is there, but there is no warm_start section")
        if self.run.warm_start_folder is not None and self.warm_start is None:
            raise ValueError("run.warm_start_folder keeps a warm-started model, but there is no warm_start section")
        if self.model.attention != "packed_sdpa" and self.model.dtype == "float32":
            raise ValueError(f"model.attention {self.model.attention} needs model.dtype bfloat16")
        max_rank = getattr(self.engine, "max_lora_rank", None)
        if max_rank is not None and (self.model.lora is None or self.model.lora.rank > max_rank):
            rank = "no model.lora" if self.model.lora is None else f"model.lora.rank {self.model.lora.rank}"
            raise ValueError(f"engine.max_lora_rank {max_rank} does not fit {rank}: raise it, or leave it out")
        return self

    @model_validator(mode="after")
    def _completions_fit_the_tiny_model(self) -> "Job[TrainerConfigT]":
        sampling = getattr(self.trainer, "sampling", None)
        if isinstance(self.trainer, SFTConfig) and not self.trainer.eval_rollouts:
            return self
        if self.model.tiny is not None and sampling is not None:
            budget, context = sampling.max_completion_tokens, self.model.tiny.max_length
            if budget >= context:
                raise ValueError(
                    f"trainer.sampling.max_completion_tokens ({budget}) leaves no room for a prompt: "
                    f"model.tiny.max_length is {context}"
                )
        return self

    @model_validator(mode="after")
    def _turns_fit_the_episode(self) -> "Job[TrainerConfigT]":
        played = isinstance(self.data, EnvironmentTask | AttemptsTask)
        if played and isinstance(self.trainer, PolicyTrainerConfig):
            turn, episode = self.data.max_turn_tokens, self.trainer.sampling.max_completion_tokens
            if turn > episode:
                raise ValueError(
                    f"data.max_turn_tokens ({turn}) is more than trainer.sampling.max_completion_tokens ({episode}), "
                    "which is for all turns of an episode and the observations between them"
                )
        return self

    def to_yaml(self) -> str:
        """The job with every default spelled out; loading it gives an equal job."""
        return dump_yaml(self.model_dump(mode="json"))


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> Job[Any]:
    """Read a job file and apply dotted overrides such as ``trainer.learning_rate=1e-6``.

    Paths in the job are relative to the working directory.

    Raises:
        JobError: what is wrong, with file, line and key; a line for each mistake.
    """
    file = read_config_file(path, overrides)
    job_class: Any = Job[trainer_config_class(file)]  # type: ignore[misc]
    job: Job[Any] = file.validate(job_class)
    return job


def trainer_config_class(file: ConfigFile) -> type[Config]:
    """The class of the ``trainer`` section under the file's ``method``.

    Raises:
        JobError: there is no such method.
    """
    method = file.data.get("method")
    if isinstance(method, str) and method in METHODS:
        return METHODS[method][0]
    if isinstance(method, str) and ":" in method:
        try:
            config_class = load_object(method).config_class
        except (ValueError, AttributeError) as error:
            raise file.error(("method",), f"should name a trainer class with a config_class: {error}") from error
        if isinstance(config_class, type) and issubclass(config_class, Config):
            return config_class
        raise file.error(("method",), f"config_class of {method} should be a subclass of posttrain.config.Config")
    raise file.unknown_choice(("method",), method, list(METHODS))


def trainer_class(method: str) -> Any:
    """The trainer of a built-in method, or the user's own class. Imports torch."""
    return load_object(METHODS[method][1] if method in METHODS else method)
