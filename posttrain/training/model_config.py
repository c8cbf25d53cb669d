"""Which model is trained, and how it is held."""

from typing import Literal, Self

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.data.tiny_model import TinyModelConfig


class LoRAConfig(Config):
    """A low-rank adapter (arXiv 2106.09685) in place of full fine-tuning; passed on to peft."""

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=64.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class ModelSource(Config):
    """A folder or hub id, or a tiny model made from a config: exactly one of ``path`` and ``tiny``."""

    path: str | None = None
    tiny: TinyModelConfig | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.tiny is None):
            raise ValueError("give exactly one of path (a folder or hub id) and tiny (a model made from a config)")
        return self


class ModelConfig(ModelSource):
    """Where a model comes from, and how it is trained."""

    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="of the weights; to train bfloat16 ones well takes DeepSpeed, which keeps float32 copies",
    )
    attention: Literal["packed_sdpa", "flash_attention_2", "flash_attention_3"] = Field(
        default="packed_sdpa", description="packed_sdpa needs no extra package; flash attention is for GPUs"
    )
    gradient_checkpointing: bool = False
    sequence_parallel: int = Field(default=1, ge=1, description="ranks that share the tokens of each micro-batch")
    logits_chunk_size: int = Field(default=256, ge=1, description="tokens whose logits exist at one time")
    lora: LoRAConfig | None = None

    @model_validator(mode="after")
    def _attention_that_exchanges(self) -> Self:
        if self.sequence_parallel > 1 and self.attention != "packed_sdpa":
            raise ValueError("sequence_parallel needs attention=packed_sdpa, which runs PyTorch's flash kernel on GPUs")
        return self
