"""Settings of OREAL (arXiv 2502.06781). Defaults follow the released code; ``recipes/oreal`` holds both variants."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.types import Sampling


class TokenRewardModelConfig(Config):
    """The token-level reward model w, trained on outcomes only (eq. 12)."""

    model: str | None = Field(default=None, description="null: the policy as it is when training starts")
    sharing: Literal["separate", "lora_on_reference"] = Field(default="separate", description="paper: separate")
    lora_rank: int = Field(default=64, ge=1, description="of lora_on_reference")
    score_position: Literal["before_token", "after_token"] = Field(
        default="before_token", description="released: the state that predicts the token; paper: the state after it"
    )
    balance_outcomes: bool = Field(
        default=True, description="right and wrong rollouts weigh the same in eq. 12, as they do where pairs are kept"
    )
    learning_rate: float = Field(default=2e-6, gt=0)
    min_learning_rate: float = Field(default=4e-7, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class OREALConfig(PolicyTrainerConfig):
    """Every constant that paper and released code dispute is a key here; see docs/methods/oreal.md."""

    steps: int = Field(default=90, ge=1, description="10 with a frozen policy, then 80")
    rollouts_per_prompt: int = Field(default=16, ge=1)
    sampling: Sampling = Field(default_factory=lambda: Sampling(top_p=0.9, max_completion_tokens=14000))
    learning_rate: float = Field(default=5e-7, gt=0)
    min_learning_rate: float = Field(default=1e-7, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: int = Field(default=10, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)

    reward_values: tuple[float, float] = Field(default=(1.0, -1.0), description="of a correct and a wrong rollout")
    correct_threshold: float = Field(default=0.5, description="a reward above it is a correct rollout")
    truncated_is_wrong: bool = True
    drop_uniform_groups: bool = Field(default=True, description="drop groups that are all right or all wrong")
    pair_selection: Literal["one_pair", "all"] = "one_pair"
    positive_shaping: Literal["rloo", "unit"] = Field(default="rloo", description="released: rloo; eq. 11: unit")
    negative_shaping: Literal["rloo", "one_minus_p", "grpo", "unit"] = Field(
        default="rloo", description="released: rloo; eq. 6: one_minus_p"
    )
    positive_objective: Literal["clone", "policy_gradient"] = Field(
        default="clone", description="clone: negative log-likelihood (L1); policy_gradient: the ablation's REINFORCE"
    )
    positive_loss_coef: float = Field(default=1.0, ge=0)
    negative_loss_coef: float = Field(default=0.5, ge=0, description="eta of eq. 11; its value is only in the code")
    loss_normalizer: Literal["class_tokens", "rollouts", "all_tokens"] = "class_tokens"
    kl_coef: float = Field(default=0.01, ge=0)
    kl_estimator: Literal["k2", "k3"] = "k3"
    kl_reference: Literal["initial", "old"] = Field(default="initial", description="old has no gradient on policy")

    token_weighting: Literal["threshold", "top_k", "none"] = "threshold"
    token_weight_source: Literal["prefix_mean", "token"] = "prefix_mean"
    positive_threshold: float = Field(default=0.5, ge=0, lt=1)
    negative_threshold: float = Field(default=0.5, ge=0, lt=1)
    top_k_ratio: float = Field(default=0.5, gt=0, le=1)
    policy_freeze_steps: int | None = Field(default=None, ge=0, description="null: 10 with a token model, else 0")
    token_reward_model: TokenRewardModelConfig = Field(default_factory=TokenRewardModelConfig)

    @property
    def frozen_steps(self) -> int:
        """Steps at the start in which only the token reward model learns."""
        if self.policy_freeze_steps is not None:
            return self.policy_freeze_steps
        return 0 if self.token_weighting == "none" else 10

    @model_validator(mode="after")
    def _needs_a_group(self) -> "OREALConfig":
        if self.rollouts_per_prompt < 2:
            raise ValueError(
                "rollouts_per_prompt must be at least 2: OREAL compares right and wrong rollouts of a group"
            )
        return self
