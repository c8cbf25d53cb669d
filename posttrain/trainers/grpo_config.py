"""Settings of GRPO and its published variants."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.trainers.policy_config import PolicyTrainerConfig


class GRPOConfig(PolicyTrainerConfig):
    """Defaults are TRL 1.16's: loss ``dapo``, no KL term, advantages scaled by the group's standard deviation.

    Sources of the options: grpo 2402.03300, dapo 2503.14476, dr_grpo 2503.20783, bnpo as TRL names it,
    dual clip 1912.09729, chi2 2403.03185.
    """

    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo"] = "dapo"
    clip_low: float = Field(default=0.2, ge=0)
    clip_high: float = Field(default=0.2, ge=0)
    dual_clip: float | None = Field(default=None, gt=1)
    advantage_scale: Literal["group", "batch", "none"] = "group"
    kl_coef: float = Field(default=0.0, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    chi2_coef: float = Field(default=0.0, ge=0, description="chi-squared divergence, beside the KL or instead of it")
    chi2_scope: Literal["token", "sequence"] = Field(
        default="sequence", description="ratio of the completion, as in the paper; of each token: less variance, biased"
    )
    chi2_max_log_ratio: float = Field(default=5.0, gt=0, description="ratios beyond exp(this) count as exp(this)")
    reference_model: str | None = Field(default=None, description="null: the policy as it is when training starts")
    entropy_coef: float = 0.0
    dynamic_sampling: bool = Field(default=False, description="replace groups without spread by new prompts (DAPO)")
    max_resampling_rounds: int = Field(default=4, ge=1)
    max_staleness: int = Field(
        default=0, ge=0, description="steps that sampling runs ahead: the next batch is drawn while this one is trained"
    )
    mask_truncated: bool = Field(default=False, description="truncated completions contribute no gradient")

    @property
    def may_be_stale(self) -> bool:
        return super().may_be_stale or self.max_staleness > 0

    @model_validator(mode="after")
    def _needs_a_group(self) -> "GRPOConfig":
        if self.rollouts_per_prompt < 2:
            raise ValueError("rollouts_per_prompt must be at least 2: GRPO compares the rollouts of a group")
        return self
