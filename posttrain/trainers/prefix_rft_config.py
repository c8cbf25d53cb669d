"""Settings of Prefix-RFT."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.trainers.grpo_config import GRPOConfig


class RatioSchedule(Config):
    """A bound of the prefix ratio over the steps."""

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    initial: float = Field(ge=0, le=1)
    final: float = Field(default=0.0, ge=0, le=1)
    steps: int | None = Field(default=None, ge=1, description="until final is reached; null: trainer.steps")


class PrefixRFTConfig(GRPOConfig):
    """Defaults are those of the paper (arXiv 2507.01679) where it, its notes or its code give them; the recipe's README
    names the source of each.

    ``prefix_ratio_high`` = ``prefix_ratio_low`` is a fixed ratio; both constant and apart, a uniform window.
    """

    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dr_grpo"
    advantage_scale: Literal["group", "batch", "none"] = "none"
    dual_clip: float | None = Field(default=3.0, gt=1)

    prefix_rollouts_per_prompt: int = Field(default=1, ge=0, description="of the group, those that start in a prefix")
    prefix_ratio_high: RatioSchedule = RatioSchedule(initial=0.95)
    prefix_ratio_low: RatioSchedule = RatioSchedule(schedule="cosine", initial=0.95, final=0.05)
    prefix_ratio_beta: tuple[float, float] = Field(default=(1.0, 1.0), description="where in between; 1, 1: uniform")
    min_prefix_tokens: int = Field(default=1, ge=0)
    min_continuation_tokens: int = Field(default=1, ge=1)
    demonstration_fraction: float = Field(
        default=1.0, ge=0, le=1, description="of the prompts whose demonstration is used"
    )

    prefix_entropy_top_fraction: float = Field(default=0.2, ge=0, le=1, description="of the prefix tokens, trained")
    prefix_entropy_selection: Literal["top", "bottom", "random", "all", "none"] = "top"
    expert_ratio: Literal["old_policy", "one", "probability", "luffy"] = "old_policy"
    expert_clip: bool = Field(default=True, description="of expert_ratio old_policy: as sampled tokens")
    expert_negative: Literal["keep", "zero"] = Field(default="keep", description="zero: no prefix is pushed down")
    expert_weight: float | None = Field(
        default=None, description="of trained prefix tokens; null: the rollout's advantage; 1 with ratio one: SFT"
    )
    advantage: Literal["joint", "prefix_baseline"] = "joint"

    @model_validator(mode="after")
    def _leaves_the_policy_a_rollout(self) -> "PrefixRFTConfig":
        if self.prefix_rollouts_per_prompt >= self.rollouts_per_prompt:
            raise ValueError(
                "prefix_rollouts_per_prompt must be less than rollouts_per_prompt: the prefix is compared "
                "with what the policy does alone"
            )
        return self
