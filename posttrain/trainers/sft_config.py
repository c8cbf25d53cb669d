"""Settings of supervised fine-tuning, as a method of its own and as a job's ``warm_start``."""

from posttrain.trainers.trl_config import TRLMethodConfig


class SFTConfig(TRLMethodConfig):
    """The loss is on completion tokens only; rows are packed without padding."""
