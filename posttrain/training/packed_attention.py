"""Causal attention over sequences packed end to end, exact and without a T x T mask, where flash attention is not.

The sequences of a micro-batch lie one after the other. Neighbours of equal length form a *run* ``(count, length)``,
and a run is one call of PyTorch's fused attention on ``[count, heads, length, head_dim]``: no token is padded and no
pair of tokens from different sequences is ever computed. Flash attention takes the same call form (``cu_seq_lens_*``)
and ignores the runs.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from posttrain.training.sequence_parallel import SequenceRanks

PACKED_ATTENTION = "packed_sdpa"

Run = tuple[int, int]


def enable_packed_attention(model: PreTrainedModel) -> None:
    """Let ``model`` attend within the packed sequences that ``packed_arguments`` describes, and in no other way.

    No mask function is registered under the name, so transformers builds no mask, whatever else the model is given.

    Raises:
        ValueError: the architecture does not let its attention be replaced.
    """
    AttentionInterface.register(PACKED_ATTENTION, packed_attention)
    model.set_attn_implementation(PACKED_ATTENTION)
    if model.config._attn_implementation != PACKED_ATTENTION:
        raise ValueError(f"the attention of {type(model).__name__} cannot be replaced; use flash_attention_2")


def packed_arguments(lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """Keyword arguments for the model's forward pass that say where its packed sequences lie.

    ``cu_seq_lens_q``, ``cu_seq_lens_k`` (int32 [S + 1]) and ``max_length_q``, ``max_length_k`` are flash attention's;
    ``packed_runs`` is for ``packed_attention``, computed here once instead of in every layer.

    Args:
        lengths: tokens of each of the S sequences, in order.
    """
    boundaries = torch.tensor([0, *lengths]).cumsum(0).to(device=device, dtype=torch.int32)
    longest = max(lengths)
    return {
        "cu_seq_lens_q": boundaries,
        "cu_seq_lens_k": boundaries,
        "max_length_q": longest,
        "max_length_k": longest,
        "packed_runs": [(len(list(run)), length) for length, run in groupby(lengths)],
    }


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    packed_runs: Sequence[Run] | None = None,
    sequence_ranks: SequenceRanks | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function in transformers' form: each token attends to itself and what precedes it in its sequence.

    Args:
        query: [1, heads, T, head_dim].
        key, value: [1, key_value_heads, T, head_dim]; ``key_value_heads`` divides ``heads``.
        packed_runs: (count, length) of runs of sequences, T tokens together.
        sequence_ranks: the ranks that have T tokens each, where the runs cover those of all.

    Returns:
        [1, T, heads, head_dim], and no attention weights.

    Raises:
        ValueError: the runs are missing or do not cover the batch, or the model asks for what is not supported here.
    """
    if sequence_ranks is not None:
        query, key, value = map(sequence_ranks.all_tokens, (query, key, value))
    if packed_runs is None or query.shape[0] != 1 or sum(n * length for n, length in packed_runs) != key.shape[2]:
        raise ValueError(
            f"{PACKED_ATTENTION} takes one row of packed sequences, described by packed_arguments(lengths)"
        )
    if kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None:
        raise ValueError(f"{PACKED_ATTENTION} has neither soft-capping nor attention sinks; use flash_attention_2")
    rows = [tensor.transpose(1, 2)[0] for tensor in (query, key, value)]
    outputs: list[Tensor] = []
    start = 0
    for count, length in packed_runs:
        stop = start + count * length
        q, k, v = (row[start:stop].unflatten(0, (count, length)).transpose(1, 2) for row in rows)
        mask = _window_mask(length, sliding_window, query.device)
        attended = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
        outputs.append(attended.transpose(1, 2).flatten(0, 1))
        start = stop
    output = torch.cat(outputs)[None]
    return (output if sequence_ranks is None else sequence_ranks.all_heads(output)), None


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor | None:
    """Which keys a query sees, bool [length, length], where a sliding window cuts into the sequence; else None."""
    if window is None or length <= window:
        return None
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    return (distance >= 0) & (distance < window)
