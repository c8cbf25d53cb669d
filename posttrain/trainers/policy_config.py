"""Settings that every method which samples from its policy shares: the batch vocabulary and the optimizer."""

from itertools import pairwise
from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.errors import JobError
from posttrain.types import ImportanceMode, Sampling


class Budget(Config):
    """A completion budget that holds from a step on."""

    step: int = Field(ge=0)
    max_completion_tokens: int = Field(ge=1)


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
    budget_schedule: list[Budget] = Field(
        default=[],
        description="completion budgets while training, each from its step on; before the first, and in evaluation, "
        "sampling.max_completion_tokens, which none exceeds",
    )
    oversample: float = Field(
        default=0.0,
        ge=0,
        description="share of prompts_per_step begun beside them: a step ends when prompts_per_step groups are whole, "
        "and the others go on in the next one",
    )
    importance_correction: Literal["none"] | ImportanceMode | None = Field(
        default=None,
        description="for rollouts of another policy than the trainer's; null: token_truncate where some may be of an "
        "older one (max_staleness, oversample), or none",
    )
    importance_cap: float = Field(default=3.0, gt=0)
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

    @model_validator(mode="after")
    def _budgets_rise_in_step(self) -> Self:
        steps = [budget.step for budget in self.budget_schedule]
        if any(later <= earlier for earlier, later in pairwise(steps)):
            raise ValueError(f"each step of budget_schedule must be after the one before it, not {steps}")
        most = self.sampling.max_completion_tokens
        for budget in self.budget_schedule:
            if budget.max_completion_tokens > most:
                raise ValueError(
                    f"budget_schedule has {budget.max_completion_tokens} tokens from step {budget.step} on, more than "
                    f"sampling.max_completion_tokens ({most}), which is what the model's context must hold"
                )
        return self

    def sampling_at(self, step: int) -> Sampling:
        """How ``step`` samples."""
        budgets = [each.max_completion_tokens for each in self.budget_schedule if each.step <= step]
        return self.sampling.model_copy(update={"max_completion_tokens": budgets[-1]}) if budgets else self.sampling

    def prompt_budget(self, context: int) -> int:
        """Most tokens that a prompt may have: what the context leaves beside a whole completion.

        Raises:
            JobError: it leaves nothing.
        """
        completion = self.sampling.max_completion_tokens
        budget = context - completion
        if budget < 1:
            raise JobError(
                f"trainer.sampling.max_completion_tokens ({completion}) leaves no room for a prompt: the model's "
                f"context is {context} tokens"
            )
        return min(budget, self.max_prompt_tokens or budget)

    @property
    def may_be_stale(self) -> bool:
        """Whether a batch may have tokens of older policies."""
        return self.oversample > 0

    @property
    def correction(self) -> ImportanceMode | None:
        """The importance correction that is applied."""
        if self.importance_correction is None:
            return "token_truncate" if self.may_be_stale else None
        return None if self.importance_correction == "none" else self.importance_correction

    @property
    def one_update(self) -> bool:
        """Whether every sample is trained once: the ratio to the policy at the start of the step is 1."""
        return self.updates_per_step * self.minibatches_per_step == 1
