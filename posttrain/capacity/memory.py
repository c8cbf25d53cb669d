"""Bytes of activations, counted for any architecture in a forward pass without storage."""

from typing import Any

SAMPLE_TOKENS, SAMPLES = 8, 8  # short: without storage, attention keeps a matrix that fused kernels do not


def activation_bytes(model: Any, checkpointing: bool) -> float:
    """Bytes a packed token at the peak of the backward pass below the head, in the dtype of ``model``.

    What autograd saves, three hidden states (the output, its trained rows, a gradient) and, with checkpointing, one
    layer recomputed: (saved without - saved with) / layers. ``model``, a causal language model on the meta device, is
    left with packed attention.
    """
    from posttrain.training.model import backbone_of
    from posttrain.training.packed_attention import enable_packed_attention

    enable_packed_attention(model)
    model.train()
    hidden = 3.0 * model.config.hidden_size * model.dtype.itemsize
    whole = saved_bytes(backbone_of(model)) / (SAMPLES * SAMPLE_TOKENS)
    if not checkpointing:
        return whole + hidden
    model.gradient_checkpointing_enable({"use_reentrant": False})
    kept = saved_bytes(backbone_of(model)) / (SAMPLES * SAMPLE_TOKENS)
    return kept + hidden + (whole - kept) / model.config.num_hidden_layers


def saved_bytes(backbone: Any) -> int:
    """What autograd keeps of a forward pass over ``SAMPLES`` of ``SAMPLE_TOKENS``, beside the weights."""
    import torch
    from torch import Tensor

    from posttrain.training.packed_attention import packed_arguments

    weights = {id(parameter) for parameter in backbone.parameters()}
    kept: dict[int, Tensor] = {}  # holds them, so that no id comes twice

    def keep(tensor: Tensor) -> Tensor:
        whole = tensor if tensor._base is None else tensor._base
        kept[id(whole)] = whole
        return tensor

    tokens = torch.zeros(1, SAMPLES * SAMPLE_TOKENS, dtype=torch.long, device="meta")
    arguments = packed_arguments([SAMPLE_TOKENS] * SAMPLES, torch.device("cpu"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone(input_ids=tokens, position_ids=tokens, use_cache=False, **arguments)
    return sum(tensor.nbytes for key, tensor in kept.items() if key not in weights)
