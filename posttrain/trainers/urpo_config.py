"""Settings of URPO."""

import math
from typing import Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.objectives.agreement import Agreement, SelfReward
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.types import Sampling


class TaskShares(Config):
    """A number for each kind of data."""

    verifiable: float = Field(default=1.0, ge=0)
    preference: float = Field(default=1.0, ge=0)
    open: float = Field(default=1.0, ge=0)


class TaskMix(TaskShares):
    """Shares of a step's prompts: what has labels outweighs what the policy labels itself."""

    verifiable: float = Field(default=0.5, ge=0)
    preference: float = Field(default=0.25, ge=0)
    open: float = Field(default=0.25, ge=0)


class Alarm(Config):
    """A metric of the log and the range it must not stay out of."""

    metric: str
    above: float | None = Field(default=None, description="too high from here on; null: never")
    below: float | None = Field(default=None, description="too low from here on; null: never")
    steps: int = Field(default=10, ge=1, description="times in a row that it is reported so, which stop the run")

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Alarm":
        if self.above is None and self.below is None:
            raise ValueError("give above, below or both: without a limit the alarm never rings")
        return self


class URPOConfig(GRPOConfig):
    """The paper (arXiv 2507.17515) publishes no method details that this project could read: every default below is
    this project's choice, for the reason that its description gives."""

    prompts_per_step: int = Field(default=128, ge=1, description="prompts sampled in a step, over all ranks")
    sampling: Sampling = Field(default_factory=lambda: Sampling(max_completion_tokens=4096))
    task_mix: TaskMix = Field(default=TaskMix(), description="sums to 1")
    task_weight: TaskShares = Field(default=TaskShares(), description="factors on the advantages; see advantage/*")
    agreement: Agreement = Field(default="tau_gold", description="the one whose range ties in gold do not narrow")
    malformed_reward: float = Field(default=-0.5, description="below the worst ranking: garbage must not pay")
    open_reward: Literal["referee", "separate"] = Field(
        default="referee", description="separate: the job's reward judges open answers too, as in the paper's baseline"
    )
    self_reward: SelfReward = Field(default="score", description="rank: no inflation of scores, no distances")
    referee_samples: int = Field(
        default=1, ge=1, description="questions about each open group: cost; 4 for small models"
    )
    referee_max_candidates: int = Field(default=8, ge=2, description="in one question; more are dealt to several")
    referee_candidate_tokens: int = Field(default=1024, ge=1, description="an answer is shown cut off here")
    referee_template: str = Field(default="listwise", description="built-in name or YAML file of the question")
    referee_max_completion_tokens: int = Field(default=1024, ge=1, description="its budget; sampled as players are")
    self_judgement_temperature: float = Field(
        default=0.7, ge=0, description="when scores become rewards or held-out accuracy: less noise"
    )
    referee_min_accuracy: float = Field(
        default=0.6, ge=0, le=1, description="of pairs; below it open prompts give way to preferences. 0: no gate"
    )
    referee_close_accuracy: float = Field(default=0.55, ge=0, le=1, description="an open gate closes again below it")
    referee_close_steps: int = Field(default=10, ge=1, description="for so many steps in a row")
    min_group_std: float = Field(
        default=0.02, ge=0, description="open groups whose rewards spread less are dropped: scaled up, noise is strong"
    )
    verifiable_audit_fraction: float = Field(
        default=0.0, ge=0, le=1, description="of verifiable groups, also self-scored, to compare with correctness"
    )
    alarms: list[Alarm] = Field(
        default_factory=lambda: [Alarm(metric="referee/constant_fraction", above=0.9, steps=20)],
        description="stop the run; metrics are referee/*, player/*, advantage/* and eval/*",
    )

    @model_validator(mode="after")
    def _mix_is_a_whole(self) -> "URPOConfig":
        shares = self.task_mix
        if not math.isclose(total := shares.verifiable + shares.preference + shares.open, 1.0, abs_tol=1e-6):
            raise ValueError(f"task_mix must sum to 1; it sums to {total:g}")
        if self.gated and not shares.preference:
            raise ValueError(
                "task_mix has open but no preference: the referee learns from preferences, so its gate would never "
                "open; set referee_min_accuracy to 0 for self-reward alone"
            )
        if self.max_staleness:
            raise ValueError("max_staleness is not for URPO: what is sampled depends on the referee's last results")
        if self.oversample:
            raise ValueError("oversample is not for URPO: a group would be cut from the referee's answers about it")
        if self.dynamic_sampling:
            raise ValueError("dynamic_sampling would change the counts that task_mix sets; leave it out")
        return self

    @property
    def gated(self) -> bool:
        """Whether open prompts wait for a referee."""
        return self.open_reward == "referee" and self.task_mix.open > 0 and self.referee_min_accuracy > 0
