"""Settings that every method which samples from its policy shares: the batch vocabulary and the optimizer."""

from typing import Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.types import Sampling


class PolicyTrainerConfig(Config):
    """``prompts_per_step`` x ``rollouts_per_prompt`` = rollouts per step, over all ranks together;
    ``updates_per_step`` x ``minibatches_per_step`` = optimizer updates per step."""

    steps: int = Field(default=100, ge=1, description="collect-and-update steps")
    max_trained_tokens: int | None = Field(
        default=None, ge=1, description="end after the step that reaches it; null: train all steps"
    )
    prompts_per_step: int = Field(default=64, ge=1, description="prompts sampled in a step, over all ranks")
    rollouts_per_prompt: int = Field(default=8, ge=1, description="rollouts of one prompt: the group size")
    tokens_per_micro_batch: int = Field(
        default=8192, ge=16, description="tokens packed into one forward pass, per rank"
    )
    updates_per_step: int = Field(default=1, ge=1, description="how often a collected batch is gone through")
    minibatches_per_step: int = Field(default=1, ge=1, description="optimizer updates in which that is done each time")
    sampling: Sampling = Field(default_factory=Sampling)
    max_prompt_tokens: int | None = Field(default=None, ge=1, description="null: what the model's context leaves")

    learning_rate: float = Field(default=1e-6, gt=0)
    min_learning_rate: float = Field(default=0.0, ge=0, description="where linear and cosine schedules end")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)

    save_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep_checkpoints: int = Field(default=2, ge=1)
    eval_every: int = Field(default=0, ge=0, description="steps between evaluations; 0: only at start and end")
    eval_rollouts: int = Field(default=8, ge=1, description="rollouts per held-out prompt: mean@k")
    log_rollouts_every: int = Field(default=1, ge=0, description="steps between logged rollouts; 0: never")

    max_error_fraction: float = Field(default=0.1, ge=0, le=1, description="of rewards, over the last 20 steps")
    max_empty_steps: int = Field(default=50, ge=1, description="steps in a row without gradient that stop the run")
    max_skipped_updates: int = Field(default=3, ge=1, description="non-finite updates in a row that stop the run")

    @property
    def one_update(self) -> bool:
        """Whether every sample is trained once, by the policy that sampled it: the ratio to it is 1."""
        return self.updates_per_step * self.minibatches_per_step == 1
