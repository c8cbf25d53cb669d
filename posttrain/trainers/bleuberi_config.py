"""Settings of BLEUBERI."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.data.selection import SelectionMode
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.types import Sampling


class BLEUBERIConfig(GRPOConfig):
    """Defaults are those of the release (arXiv 2505.11080, github.com/lilakk/BLEUBERI): its ``grpo.sh``, and where that
    is silent TRL 0.17.0's (loss ``bnpo``, KL coefficient 0.04, scaling by the group's standard deviation).

    32 prompts a step is 8 GPUs with 8 completions each and 4 accumulations, which makes 157 steps of 5,000 prompts.
    """

    steps: int = Field(default=157, ge=1)
    prompts_per_step: int = Field(default=32, ge=1)
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.9, max_completion_tokens=512))
    warmup_steps: int = Field(default=8, ge=0)
    max_grad_norm: float = Field(default=0.2, gt=0)
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "bnpo"
    kl_coef: float = Field(default=0.04, ge=0)

    min_reward_std: float = Field(
        default=0.0, ge=0, description="groups whose rewards spread no more than this have no advantages; 0: the paper"
    )
    references: list[int] | None = Field(
        default=None, min_length=1, description="which references of a training row are used, from 0; null: all"
    )
    selection: Literal[SelectionMode, "all"] = Field(
        default="all", description="of the training rows, by the reward of the starting policy's answers to them"
    )
    selection_size: int | None = Field(default=None, ge=1, description="rows that selection keeps; 5,000 in the paper")
    selection_rollouts: int = Field(default=1, ge=1, description="answers to a row, whose rewards are averaged")
    selection_temperature: float = Field(default=0.7, ge=0)
    selection_top_p: float = Field(default=0.9, gt=0, le=1)

    @model_validator(mode="after")
    def _selection_has_a_size(self) -> "BLEUBERIConfig":
        if (self.selection == "all") != (self.selection_size is None):
            raise ValueError("selection and selection_size belong together: how many rows of which kind?")
        return self
