"""Settings that every method with TRL's training loop shares."""

from pydantic import Field

from posttrain.config import Config


class TRLMethodConfig(Config):
    """Passed on to TRL's trainer; the rate is constant after the warm-up."""

    steps: int = Field(default=300, ge=1)
    batch_size: int = Field(default=64, ge=1, description="rows in one optimizer step, over all ranks")
    tokens_per_micro_batch: int = Field(
        default=8192, ge=16, description="tokens of one forward pass, per rank; a longer row travels alone"
    )
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    max_length: int | None = Field(default=None, ge=2, description="tokens of a row; null: the model's context")
    max_grad_norm: float = Field(default=1.0, gt=0)
    eval_every: int = Field(default=0, ge=0, description="steps between evaluations; 0: first and last only")
    save_every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: none")
    keep_checkpoints: int = Field(default=2, ge=1)
