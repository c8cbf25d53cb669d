"""Settings of SPEAR."""

from pydantic import Field

from posttrain.trainers.grpo_config import GRPOConfig


class SPEARConfig(GRPOConfig):
    """GRPO's keys, and those of self-imitation (arXiv 2509.22601). ``imitation_weight``, ``valid_action_weight`` and
    ``cov_clip_fraction`` each turn one part off at 0, and with all three at 0 it is GRPO. The defaults are ours."""

    imitation_weight: float = Field(default=1.0, ge=0, description="of the replayed term, at the end of its ramp")
    imitation_start: int = Field(default=0, ge=0, description="step from which it rises from 0, by a cosine")
    imitation_ramp_steps: int | None = Field(default=None, ge=1, description="that it rises for; null: all that follow")
    buffer_size: int = Field(default=2048, ge=1, description="rollouts kept, of all tasks together")
    kept_per_task: int = Field(default=2, ge=1, description="the best ones, of equals the newest")
    replays_per_step: int = Field(default=32, ge=1, description="rollouts drawn from those kept, over all ranks")
    recent_rewards: int = Field(default=16, ge=1, description="of a task, whose median is the baseline of its replays")
    valid_action_weight: float = Field(default=0.1, ge=0, description="reward of valid actions; falls to 0 by a cosine")
    valid_action_cap: int = Field(default=4, ge=1, description="valid actions that earn all of it")
    valid_action_steps: int | None = Field(default=None, ge=1, description="that it falls for; null: all steps")
    cov_clip_fraction: float = Field(
        default=0.002, ge=0, le=1, description="of a step's tokens: those of the highest covariance have no advantage"
    )
