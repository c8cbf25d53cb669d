"""Settings of supervised fine-tuning, as a method of its own and as a job's ``warm_start``."""

from pydantic import Field

from posttrain.config import Config


class SFTConfig(Config):
    """Passed on to TRL's SFTTrainer; the loss is on completion tokens only."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=1, description="rows in one optimizer step, over all ranks")
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_length: int | None = Field(default=None, ge=2, description="tokens of a row; null: the model's context")
    save_every: int = Field(default=0, ge=0)
