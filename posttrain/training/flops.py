"""The arithmetic that an update needs, for the model FLOPs utilisation (arXiv 2204.02311, appendix B)."""

from collections.abc import Sequence
from typing import Any

import torch

from posttrain.rollout.weight_sync import whole_shape
from posttrain.training.model import backbone_of, base_model_of
from posttrain.training.packing import MicroBatch

# Dense bfloat16 FLOP/s by part of the device's name, from NVIDIA's data sheets; the first that fits.
PEAK_FLOPS = {"H100 PCIe": 756e12, "NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}


def peak_flops(device: torch.device) -> float | None:
    """What the GPU can do at most, FLOP/s; None where it is not in the table."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def utilisation(causal_lm: Any, batches: Sequence[MicroBatch], seconds: float) -> dict[str, float]:
    """``speed/mfu`` of one update of ``batches`` in ``seconds``; nothing where the device's peak is not known."""
    peak = peak_flops(causal_lm.device)
    if peak is None or not batches:
        return {}
    return {"speed/mfu": sum(update_flops(causal_lm, batch) for batch in batches) / (seconds * peak)}


def update_flops(causal_lm: Any, batch: MicroBatch) -> int:
    """Forward and backward of one micro-batch through a dense decoder: matrices and causal attention, the head for
    trained tokens alone. A frozen weight has no gradient; what is computed twice counts once."""
    backbone, config = backbone_of(causal_lm), causal_lm.config
    embedding, head = backbone.get_input_embeddings().weight, base_model_of(causal_lm).get_output_embeddings().weight
    matrices = [each for each in backbone.parameters() if len(whole_shape(each)) > 1 and each is not embedding]
    passes = {True: 6, False: 4}  # two for each weight and token: forward, gradient of the input, of the weight
    flops = sum(passes[weight.requires_grad] * whole_shape(weight).numel() for weight in matrices) * sum(batch.lengths)
    flops += passes[head.requires_grad] * whole_shape(head).numel() * len(batch.targets)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = config.num_attention_heads * head_size
    return flops + 6 * config.num_hidden_layers * width * sum(length * length for length in batch.lengths)
