"""Settings of supervised fine-tuning, as a method of its own and as a job's ``warm_start``."""

from pydantic import Field

from posttrain.trainers.trl_config import TRLMethodConfig
from posttrain.types import Sampling


class SFTConfig(TRLMethodConfig):
    """The loss is on completion tokens only; rows are packed without padding."""

    only_demonstrated: bool = Field(default=False, description="leave out examples without a demonstration")
    eval_rollouts: int = Field(default=0, ge=0, description="rollouts per held-out prompt: mean@k; 0: no evaluation")
    sampling: Sampling = Field(default_factory=Sampling, description="of the evaluation")
