"""A batch of rollouts that is decoded together: one forward pass a token, finished rows taken out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from posttrain.rollout.pending import PendingRollout
from posttrain.rollout.sampling import RowSampling, sample_tokens
from posttrain.types import FinishReason


@dataclass(slots=True)
class DecodedRow:
    """The part of a rollout that was sampled here."""

    pending: PendingRollout
    sampled_ids: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class DecodeBatch:
    """B rollouts with left-padded inputs and one cache. Every row has sampled ``length`` tokens.

    Args:
        model: a causal language model of transformers in evaluation mode.
        pending: what to draw; every ``max_new_tokens`` is at least 1.
        eos_token_ids: tokens that end a completion, besides a request's own stop tokens.
    """

    def __init__(self, model: Any, pending: Sequence[PendingRollout], eos_token_ids: Sequence[int]) -> None:
        self.model = model
        self.rows = list(pending)
        self.length = 0
        device = model.device
        self.sampling = RowSampling.of(self.rows, device)
        self.budgets = torch.tensor([row.max_new_tokens for row in self.rows], device=device)
        self.stop_ids = _stop_ids(self.rows, eos_token_ids).to(device)
        size = (len(self.rows), max(row.max_new_tokens for row in self.rows))
        self.tokens = torch.zeros(size, dtype=torch.long, device=device)
        self.logprobs = torch.zeros(size, device=device)
        self.ended = torch.zeros(len(self.rows), dtype=torch.bool, device=device)
        self._prefill()

    @torch.no_grad()
    def _prefill(self) -> None:
        """Run every distinct input once, and give each row the cache and logits of its own."""
        numbers: dict[tuple[int, ...], int] = {}
        input_of_row = [numbers.setdefault(tuple(row.input_ids), len(numbers)) for row in self.rows]
        inputs = list(numbers)
        self.padded = max(map(len, inputs))
        padding = torch.tensor([self.padded - len(ids) for ids in inputs])
        input_ids = torch.tensor([[0] * (self.padded - len(ids)) + list(ids) for ids in inputs])
        mask = (torch.arange(self.padded) >= padding[:, None]).long()
        device = self.model.device
        self.cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=input_ids.to(device),
            attention_mask=mask.to(device),
            position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(device),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        of_row = torch.tensor(input_of_row, device=device)
        if len(inputs) < len(self.rows):
            self.cache.batch_select_indices(of_row)
        self.logits = output.logits[of_row, -1]
        self.positions = (self.padded - padding).to(device)[of_row]
        self.mask = torch.cat([mask, torch.ones(len(inputs), self.tokens.shape[1], dtype=torch.long)], 1).to(device)[
            of_row
        ]

    @torch.no_grad()
    def step(self) -> list[DecodedRow]:
        """Draw one token for every row; the rows that ended with it."""
        tokens, logprobs = sample_tokens(self.logits, self.sampling, self.length)
        self.tokens[:, self.length] = tokens
        self.logprobs[:, self.length] = logprobs
        self.length += 1
        stopped = (tokens[:, None] == self.stop_ids).any(1)
        ending = (stopped | (self.budgets <= self.length)) & ~self.ended
        finished = self._take(ending.nonzero()[:, 0], stopped)
        if finished:
            self.ended |= ending
            tokens = self._compact(tokens)
        if self.rows:
            self._forward(tokens)
        return finished

    def running(self) -> list[DecodedRow]:
        """The rows that have not ended, as far as they are drawn."""
        rows = self._take((~self.ended).nonzero()[:, 0], self.ended)
        return [replace(row, finish_reason="aborted") for row in rows]

    def _take(self, rows: Tensor, stopped: Tensor) -> list[DecodedRow]:
        ids = self.tokens[rows, : self.length].tolist()
        logprobs = self.logprobs[rows, : self.length].tolist()
        reasons = stopped[rows].tolist()
        return [
            DecodedRow(self.rows[row], ids[i], logprobs[i], "stop" if reasons[i] else "length")
            for i, row in enumerate(rows.tolist())
        ]

    def _compact(self, tokens: Tensor) -> Tensor:
        """Take ended rows out, once they are enough to be worth copying the cache of the others."""
        running = (~self.ended).nonzero()[:, 0]
        if len(self.rows) - len(running) < len(self.rows) / 4:
            return tokens
        self.rows = [self.rows[row] for row in running.tolist()]
        if not self.rows:
            return tokens[running]
        self.cache.batch_select_indices(running)
        self.sampling = self.sampling.select(running)
        self.budgets, self.stop_ids, self.ended = self.budgets[running], self.stop_ids[running], self.ended[running]
        self.tokens, self.logprobs = self.tokens[running], self.logprobs[running]
        self.positions, self.mask = self.positions[running], self.mask[running]
        return tokens[running]

    def _forward(self, tokens: Tensor) -> None:
        """Logits of the next token, after ``tokens`` [B]."""
        output = self.model(
            input_ids=tokens[:, None],
            attention_mask=self.mask[:, : self.padded + self.length],
            position_ids=self.positions[:, None],
            past_key_values=self.cache,
            use_cache=True,
        )
        self.logits = output.logits[:, -1]
        self.positions = self.positions + ~self.ended


def _stop_ids(rows: Sequence[PendingRollout], eos_token_ids: Sequence[int]) -> Tensor:
    """Stop tokens of every row, [B, S], filled up with -1."""
    stops = [[*eos_token_ids, *row.request.sampling.stop_token_ids] for row in rows]
    width = max(map(len, stops))
    return torch.tensor([ids + [-1] * (width - len(ids)) for ids in stops], dtype=torch.long).reshape(len(rows), width)
