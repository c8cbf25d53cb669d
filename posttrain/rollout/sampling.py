"""Drawing one token a row from logits, exactly and independently of the other rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from posttrain.rollout.pending import PendingRollout


@dataclass(slots=True)
class RowSampling:
    """How each of B rows draws. ``uniforms`` float64 [B, T] in [0, 1): one per row and position; ``temperature``,
    ``top_p`` float32 [B, 1]; ``top_k`` int64 [B, 1], 0 is off. ``greedy`` and ``truncates`` say whether any row is."""

    uniforms: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    greedy: bool
    truncates: bool

    @classmethod
    def of(cls, pending: Sequence[PendingRollout], device: torch.device) -> "RowSampling":
        """Settings and random numbers of ``pending``; greedy rows ignore top-k and top-p, as they do in vLLM."""
        settings = [rollout.request.sampling for rollout in pending]
        top_k = [s.top_k if s.temperature > 0 else 0 for s in settings]
        top_p = [s.top_p if s.temperature > 0 else 1.0 for s in settings]
        positions = max(rollout.max_new_tokens for rollout in pending)
        uniforms = np.stack(
            [np.random.Generator(np.random.Philox(key=rollout.seed)).random(positions) for rollout in pending]
        )
        return cls(
            uniforms=torch.from_numpy(uniforms).to(device),
            temperature=torch.tensor([[s.temperature] for s in settings], device=device),
            top_k=torch.tensor([[k] for k in top_k], device=device),
            top_p=torch.tensor([[p] for p in top_p], device=device),
            greedy=any(s.temperature == 0 for s in settings),
            truncates=any(top_k) or any(p < 1 for p in top_p),
        )

    def select(self, rows: Tensor) -> "RowSampling":
        """Only ``rows`` (int64 [R])."""
        return RowSampling(
            self.uniforms[rows],
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.greedy,
            self.truncates,
        )


def sample_tokens(logits: Tensor, sampling: RowSampling, position: int) -> tuple[Tensor, Tensor]:
    """Draw a token from each row of ``logits`` [B, V]: token ids int64 [B] and their log-probs float32 [B].

    Sampling inverts the cumulative distribution at the row's own uniform number, so a row's token depends on its
    logits and its seed alone. Log-probs are those of the distribution drawn from: after temperature, top-k and top-p,
    renormalised. A greedy row takes the most probable token and its log-prob at temperature 1.
    """
    greedy = sampling.temperature == 0
    logits = logits.float() / torch.where(greedy, 1.0, sampling.temperature)
    if sampling.truncates:
        logits = truncate(logits, sampling.top_k, sampling.top_p)
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    threshold = sampling.uniforms[:, position : position + 1] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, threshold, right=True)
    if sampling.greedy:
        tokens = torch.where(greedy, logits.argmax(-1, keepdim=True), tokens)
    return tokens[:, 0], probabilities.gather(-1, tokens)[:, 0].log()


def truncate(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Set to -inf what top-k (ties with the k-th are kept) and then top-p (the smallest set of tokens that reaches
    ``top_p``) leave out; top-p is applied to the distribution that top-k left, renormalised. Shapes as ``RowSampling``.
    """
    ascending, order = logits.sort(dim=-1)
    vocabulary = logits.shape[-1]
    kept = torch.where(top_k > 0, top_k.clamp(max=vocabulary), vocabulary)
    smallest = ascending.gather(-1, vocabulary - kept)
    ascending = ascending.masked_fill(ascending < smallest, -torch.inf)
    outside = ascending.softmax(-1).cumsum(-1) <= 1 - top_p
    outside[:, -1] = False
    return torch.empty_like(logits).scatter_(-1, order, ascending.masked_fill(outside, -torch.inf))
