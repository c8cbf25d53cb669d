"""Memory of model states, from parameter counts alone.

AdamW in bfloat16 under DeepSpeed holds 16 bytes for a trained parameter: 2 of weight, 2 of gradient, 12 of fp32 master
copy and moments (ZeRO, arXiv 1910.02054, section 3.1); in float32, or without a master copy, it is four numbers of the
weight's own width. A frozen parameter is its weight alone.
"""

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Launch:
    """How the processes of this launch share a model. ``zero_stage`` is None without DeepSpeed."""

    ranks: int = 1
    ranks_per_node: int = 1
    zero_stage: int | None = None
    offload_optimizer: bool = False
    offload_parameters: bool = False

    @classmethod
    def of_environment(cls) -> "Launch":
        """What ``accelerate launch`` or ``torchrun`` told this process."""
        environment = os.environ
        ranks = int(environment.get("WORLD_SIZE", "1"))
        per_node = int(environment.get("LOCAL_WORLD_SIZE", str(ranks)))
        if environment.get("ACCELERATE_USE_DEEPSPEED", "false").lower() != "true":
            return cls(ranks, per_node)
        return cls(
            ranks,
            per_node,
            zero_stage=int(environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")),
            offload_optimizer=environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "none") != "none",
            offload_parameters=environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "none") != "none",
        )


def state_bytes(parameters: int, trained: int, dtype: str, launch: Launch) -> tuple[float, float, float]:
    """Bytes on one rank of weights, gradients and AdamW's state, for a model of which ``trained`` parameters learn."""
    width = bytes_of(dtype)
    master = launch.zero_stage is not None and width == 2
    weights, gradients, optimizer = parameters * width, trained * width, trained * (12 if master else 2 * width)
    stage = launch.zero_stage or 0
    return (
        weights / (launch.ranks if stage >= 3 else 1),
        gradients / (launch.ranks if stage >= 2 else 1),
        optimizer / (launch.ranks if stage >= 1 else 1),
    )


def trained_bytes(parameters: int, trained: int, dtype: str, launch: Launch) -> float:
    """The sum of ``state_bytes``."""
    return sum(state_bytes(parameters, trained, dtype, launch))


def frozen_bytes(parameters: int, dtype: str) -> float:
    """Bytes on one rank of a model that does not learn; not split."""
    return parameters * bytes_of(dtype)


def bytes_of(dtype: str) -> int:
    """Width of a number of ``dtype``."""
    return {"float32": 4, "bfloat16": 2}[dtype]


def lora_parameters(model: Any, rank: int) -> int:
    """Parameters of a LoRA adapter on every linear layer of a transformers ``model`` but its language-model head:
    ``rank * (in + out)`` each."""
    from torch import nn

    head = model.get_output_embeddings()
    linears = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
    return sum(rank * (linear.in_features + linear.out_features) for linear in linears)


def deepspeed_estimate(parameters: int, largest_layer: int, launch: Launch) -> tuple[float, float]:
    """DeepSpeed's own estimate for model states: bytes of CPU memory a node, bytes of GPU memory a rank.

    Raises:
        ImportError: DeepSpeed is not installed.
    """
    nodes = max(1, launch.ranks // launch.ranks_per_node)
    if launch.zero_stage == 3:
        from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

        cpu, gpu, _ = estimate_zero3_model_states_mem_needs(
            parameters,
            largest_layer,
            num_gpus_per_node=launch.ranks_per_node,
            num_nodes=nodes,
            cpu_offload=launch.offload_optimizer,
            cpu_offload_params=launch.offload_parameters,
        )
    else:
        from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

        cpu, gpu = estimate_zero2_model_states_mem_needs(
            parameters,
            num_gpus_per_node=launch.ranks_per_node,
            num_nodes=nodes,
            cpu_offload=launch.offload_optimizer,
        )
    return cpu, gpu
