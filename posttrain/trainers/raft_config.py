"""Settings of RAFT, RAFT++ and Reinforce-Rej."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.trainers.policy_config import PolicyTrainerConfig


class RAFTConfig(PolicyTrainerConfig):
    """Defaults are RAFT's (arXiv 2304.06767). A step is one iteration: collect, rank, fine-tune.

    RAFT++ (arXiv 2504.11343) is ``selection: all_best, importance_sampling: token, minibatches_per_step: 4``, and
    Reinforce-Rej ``selection: mixed_groups`` with the same ratio. Where paper and released code differ, each form is
    an option; the recipes' README says which is whose.
    """

    selection: Literal["best", "all_best", "threshold", "global_top", "mixed_groups"] = Field(
        default="best",
        description="best of each group, all of its best, all accepted, best of the batch, or both signs of a group",
    )
    accept_threshold: float | None = Field(
        default=None, description="keep only rewards above it; 0 for a 0/1 reward: an all-wrong group gives nothing"
    )
    keep_fraction: float | None = Field(default=None, gt=0, le=1, description="of global_top; null: 1/K")
    max_kept_per_prompt: int | None = Field(default=None, ge=1)
    tie_break: Literal["random", "first"] = Field(default="random", description="among equals, under selection best")
    deduplicate: bool = Field(default=False, description="equal completions of a group count once")
    drop_all_correct: bool = Field(default=False, description="leave out groups in which every rollout is accepted")
    kl_rank_coef: float = Field(default=0.0, ge=0, description="of the log-ratio in the rank key (2304.06767, eq. 5)")
    measure_kl: bool = Field(
        default=False,
        description="log raft/kl_to_initial also where kl_rank_coef is 0",
    )
    restart: Literal["current", "initial"] = Field(
        default="current", description="the policy that a step fine-tunes; initial: as STaR"
    )

    importance_sampling: Literal["none", "token"] = Field(default="none", description="token: RAFT++")
    clip_low: float = Field(default=0.2, ge=0, description="acts on negative rollouts only")
    clip_high: float | None = Field(default=0.2, ge=0, description="null: ratio without clip; 0.28: clip-higher")
    clip_form: Literal["ppo", "printed"] = "ppo"
    dual_clip: float | None = Field(default=None, gt=1, description="3 in the released code")
    loss_normalizer: Literal["selected_tokens", "rollouts", "all_tokens"] = "selected_tokens"
    wrong_reward: Literal[-1, 0] = Field(default=-1, description="of mixed_groups")
    baseline: Literal["none", "mean", "mean_std", "leave_one_out"] = Field(
        default="none", description="of mixed_groups"
    )
    kl_coef: float = Field(default=0.0, ge=0, description="k3 to the initial policy, in the loss; 0.001 when released")
    entropy_coef: float = Field(default=0.0, description="0.001 when released")
    candidates: str | None = Field(
        default=None, description="JSONL of prompts, completions and rewards to rank instead of sampling (offline)"
    )

    @model_validator(mode="after")
    def _options_fit_each_other(self) -> "RAFTConfig":
        if self.selection in ("threshold", "mixed_groups") and self.accept_threshold is None:
            raise ValueError(
                f"selection {self.selection} needs accept_threshold: what is accepted? (0 for a 0/1 reward)"
            )
        if self.drop_all_correct and self.accept_threshold is None:
            raise ValueError("drop_all_correct needs accept_threshold: what is correct? (0 for a 0/1 reward)")
        ratios = self.importance_sampling != "none" or self.log_ratios_are_needed or self.correction is not None
        if self.candidates is not None and (ratios or self.oversample or self.budget_schedule):
            raise ValueError(
                "candidates of another generator have no log-probs of this policy, and nothing is sampled: with "
                "candidates, importance_sampling is none, kl_rank_coef 0, measure_kl false, and there is no "
                "importance_correction, oversample or budget_schedule"
            )
        if self.restart == "initial" and (self.importance_sampling != "none" or self.correction is not None):
            raise ValueError(
                "restart initial trains a policy that did not sample: there is no ratio to take; "
                "importance_sampling is none, and with oversample importance_correction too"
            )
        return self

    @property
    def log_ratios_are_needed(self) -> bool:
        """Whether every rollout is run through the initial policy."""
        return bool(self.kl_rank_coef) or self.measure_kl
