"""Log-probabilities and entropy of chosen tokens, without ever holding the full logits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int = 256,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Log-probs of ``targets`` and entropies of softmax((hidden @ weight.T + bias) / temperature).

    Logits exist for ``chunk_size`` tokens at a time, in two buffers of ``chunk_size * V`` floats that all chunks
    share, in the forward and in the backward pass (which computes them again).

    Args:
        hidden: [M, H].
        weight: [V, H], the language-model head; products are computed in its dtype, or in autocast's.
        targets: int64 [M].
        temperature: > 0.
        bias: [V], of the head.

    Returns:
        Log-probs [M] and entropies [M] in nats, float32 (float64 for float64 input). Both have gradients to
        ``hidden``, ``weight`` and ``bias``.
    """
    dtype = weight.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    bias = None if bias is None else bias.to(dtype)
    return _TokenLogprobs.apply(hidden.to(dtype), weight.to(dtype), bias, targets, temperature, chunk_size)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, temperature: float, size: int
    ) -> tuple[Tensor, Tensor]:
        logits = _ChunkedLogits(hidden, weight, bias, temperature, size)
        logprobs, entropy, normalizers = (hidden.new_empty(len(hidden), dtype=logits.dtype) for _ in range(3))
        for rows in logits.chunks:
            z, scratch = logits.of(rows)
            chosen = z.gather(1, targets[rows, None]).squeeze(1)
            largest = z.amax(1)
            masses = torch.exp(z.sub_(largest[:, None]), out=scratch)
            mass = masses.sum(1)
            normalizers[rows] = largest + mass.log()
            logprobs[rows] = chosen - normalizers[rows]
            entropy[rows] = mass.log() - torch.linalg.vecdot(masses, z) / mass
        ctx.save_for_backward(hidden, weight, bias, targets, normalizers, entropy)
        ctx.temperature, ctx.size = temperature, size
        ctx.set_materialize_grads(False)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_logprobs: Tensor | None, d_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        if d_logprobs is None and d_entropy is None:
            return (None,) * 6
        hidden, weight, bias, targets, normalizers, entropy = ctx.saved_tensors
        d_logprobs = torch.zeros_like(entropy) if d_logprobs is None else d_logprobs
        wanted = zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        d_hidden, d_weight, d_bias = (torch.zeros_like(tensor) if needed else None for tensor, needed in wanted)
        logits = _ChunkedLogits(hidden, weight, bias, ctx.temperature, ctx.size)
        for rows in logits.chunks:
            z, scratch = logits.of(rows)
            d_z = _logits_gradient(
                z.sub_(normalizers[rows, None]),
                scratch,
                targets[rows],
                entropy[rows],
                d_logprobs[rows] / ctx.temperature,
                None if d_entropy is None else d_entropy[rows] / ctx.temperature,
            ).to(weight.dtype)
            if d_hidden is not None:
                torch.mm(d_z, weight, out=d_hidden[rows])
            if d_weight is not None:
                d_weight.addmm_(d_z.T, hidden[rows])
            if d_bias is not None:
                d_bias.add_(d_z.sum(0))
        return d_hidden, d_weight, d_bias, None, None, None


def _logits_gradient(
    log_p: Tensor, scratch: Tensor, targets: Tensor, entropy: Tensor, g: Tensor, h: Tensor | None
) -> Tensor:
    """g (onehot(target) - p) - h p (log p + H), with g and h the incoming gradients of log-prob and entropy.

    Written over ``log_p``; ``scratch`` has the same shape, [rows, V].
    """
    if h is None:
        gradient = log_p.exp_().mul_(-g[:, None])
    else:
        p = torch.exp(log_p, out=scratch)
        gradient = log_p.add_(entropy[:, None]).mul_(-h[:, None]).sub_(g[:, None]).mul_(p)
    return gradient.scatter_add_(1, targets[:, None], g[:, None])


class _ChunkedLogits:
    """Logits of one chunk of tokens at a time, each written over the one before."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float, size: int) -> None:
        self.hidden, self.weight, self.bias, self.temperature = hidden, weight, bias, temperature
        self.dtype = torch.promote_types(weight.dtype, torch.float32)
        self.chunks = [slice(start, min(start + size, len(hidden))) for start in range(0, len(hidden), size)]
        shape = (min(size, len(hidden)), len(weight))
        self.logits, self.scratch = (weight.new_empty(shape, dtype=self.dtype) for _ in range(2))

    def of(self, rows: slice) -> tuple[Tensor, Tensor]:
        """Logits / temperature of ``rows`` and a buffer of the same shape, both to be overwritten."""
        count = rows.stop - rows.start
        logits, scratch = self.logits[:count], self.scratch[:count]
        if self.weight.dtype == self.dtype:
            torch.mm(self.hidden[rows], self.weight.T, out=logits)
        else:
            logits.copy_(self.hidden[rows] @ self.weight.T)
        if self.bias is not None:
            logits.add_(self.bias)
        if self.temperature != 1.0:
            logits.div_(self.temperature)
        return logits, scratch


def sums_over_samples(values: Tensor, sample_index: Tensor) -> Tensor:
    """For each token the sum of ``values`` over its sample; all are [M], ``sample_index`` int64."""
    samples = int(sample_index.max()) + 1 if len(sample_index) else 0
    return values.new_zeros(samples).index_add(0, sample_index, values)[sample_index]
