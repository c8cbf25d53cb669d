"""The embedded engine: a copy of the policy and a decoding loop of our own.

``generate`` of transformers pads every batch to its longest completion, returns nothing before the last row is done,
draws all rows from one global generator, and does not return log-probs of the truncated distribution.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.errors import EngineError
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.decoding import DecodeBatch, DecodedRow
from posttrain.rollout.fingerprint import tensor_fingerprint
from posttrain.rollout.pending import PendingRollout, in_request_order, pending_rollouts
from posttrain.rollout.transfer import checked
from posttrain.types import Rollout, RolloutRequest


class TransformersEngine:
    """A ``RolloutEngine`` on transformers.

    A rollout's random numbers depend on its request's seed and its index alone, so it is drawn alike in any batch (to
    the rounding of the forward pass, which can depend on the batch's shape).

    Raises:
        EngineError: there is no model at ``model_path``.
    """

    def __init__(self, model_path: str | Path, config: TransformersEngineConfig) -> None:
        self.config = config
        self.dtype = getattr(torch, config.dtype)
        self.policy_version = 0
        self.continuous = False
        self.takes_adapter = False
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        try:
            model = AutoModelForCausalLM.from_pretrained(str(model_path), dtype=self.dtype)
            self.tokenizer = AutoTokenizer.from_pretrained(str(model_path))
        except (OSError, ValueError) as error:
            raise EngineError(f"the rollout engine cannot load a model from {str(model_path)!r}: {error}") from error
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.eos_token_ids = _eos_token_ids(model, self.tokenizer)
        self._waiting: list[PendingRollout] = []
        self._batch: DecodeBatch | None = None
        self._aborted: list[DecodedRow] = []

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its completion."""
        return int(self.model.config.max_position_embeddings)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Queue ``requests``; they are drawn as ``finished`` is consumed.

        Raises:
            EngineError: a prompt is empty or does not fit the model's context.
        """
        self._waiting += pending_rollouts(requests, self.context_length)

    def finished(self) -> Iterator[Rollout]:
        """Rollouts as they finish. If the consumer leaves early, what is outstanding is dropped."""
        try:
            while self._waiting or self._batch or self._aborted:
                yield from self._step()
        finally:
            self.close()

    def abort(self) -> None:
        """Let ``finished`` yield what is outstanding as far as it was drawn."""
        rows = self._batch.running() if self._batch else []
        self._aborted += rows + [DecodedRow(row, [], [], "aborted") for row in self._waiting]
        self._waiting, self._batch = [], None

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """All rollouts of ``requests``, ordered by request and index; nothing else may be outstanding."""
        self._check_idle("generate")
        self.submit(requests)
        return in_request_order(self.finished(), requests)

    def next_token_logprobs(self, requests: Sequence[RolloutRequest], top: int) -> list[dict[int, float]]:
        """The ``top`` likeliest next tokens after each prompt and their log-probs (see ``RolloutEngine``)."""
        self._check_idle("next_token_logprobs")
        waiting = pending_rollouts(requests, self.context_length)
        found: list[dict[int, float]] = []
        while waiting:
            number = self._number_that_fits(waiting)
            logits = DecodeBatch(self.model, waiting[:number], self.eos_token_ids).logits
            likeliest = logits.float().log_softmax(-1).topk(min(top, logits.shape[-1]))
            found += [
                dict(zip(ids, values, strict=True))
                for ids, values in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
            ]
            waiting = waiting[number:]
        return found

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, Tensor]]], version: int) -> None:
        """Copy a whole policy into the engine's model.

        Raises:
            WeightSyncError: a tensor is unknown, has another shape, or is missing.
            EngineError: rollouts are outstanding; their behaviour policy would change while they are drawn.
        """
        self._check_idle("update_weights")
        parameters = dict(self.model.named_parameters())
        shapes = {name: parameter.shape for name, parameter in parameters.items()}
        for bucket in checked(buckets, shapes):
            for name, tensor in bucket:
                parameters[name].copy_(tensor)
            del bucket, tensor  # before the next bucket is gathered
        self.policy_version = version

    def fingerprint(self) -> Mapping[str, float]:
        """The number of every tensor in use; a tied head is reported beside the embedding."""
        return {
            name: tensor_fingerprint(parameter)
            for name, parameter in self.model.named_parameters(remove_duplicate=False)
        }

    def sleep(self) -> None:
        """Move the weights to host memory."""
        self._check_idle("sleep")
        self.model.to("cpu")

    def wake(self) -> None:
        """Move the weights back to the device."""
        self.model.to(self.device)

    def close(self) -> None:
        """Drop what is outstanding."""
        self._waiting, self._batch, self._aborted = [], None, []

    def _check_idle(self, what: str) -> None:
        if self._waiting or self._batch or self._aborted:
            raise EngineError(f"{what} was called while rollouts are outstanding; consume finished() first")

    def _step(self) -> list[Rollout]:
        """Start a batch if none runs, else draw one token for each of its rows; the rollouts that ended."""
        if self._aborted:
            aborted, self._aborted = self._aborted, []
            return self._rollouts(aborted)
        if self._batch is None:
            return self._start_batch()
        rows = self._batch.step()
        if not self._batch.rows:
            self._batch = None
        return self._rollouts(rows)

    def _start_batch(self) -> list[Rollout]:
        """Take from the queue what fits in a batch, longest inputs together; a budget of 0 ends at once."""
        complete = [DecodedRow(row, [], [], "length") for row in self._waiting if row.max_new_tokens == 0]
        waiting = [row for row in self._waiting if row.max_new_tokens > 0]
        waiting.sort(key=lambda row: -len(row.input_ids))
        number = self._number_that_fits(waiting)
        self._waiting = waiting[number:]
        if number:
            self._batch = DecodeBatch(self.model, waiting[:number], self.eos_token_ids)
        return self._rollouts(complete)

    def _number_that_fits(self, waiting: Sequence[PendingRollout]) -> int:
        """How many of ``waiting`` stay under both limits; at least one."""
        width = number = 0
        for number, row in enumerate(waiting[: self.config.max_num_seqs], start=1):
            width = max(width, len(row.input_ids) + row.max_new_tokens)
            if number > 1 and width * number > self.config.max_num_tokens:
                return number - 1
        return number

    def _rollouts(self, rows: Sequence[DecodedRow]) -> list[Rollout]:
        if not rows:
            return []
        texts = self.tokenizer.batch_decode(
            [row.pending.given_ids + row.sampled_ids for row in rows], skip_special_tokens=True
        )
        return [
            row.pending.rollout(row.sampled_ids, row.logprobs, row.finish_reason, self.policy_version, text)
            for row, text in zip(rows, texts, strict=True)
        ]


def _eos_token_ids(model: Any, tokenizer: Any) -> list[int]:
    """The end-of-sequence tokens that the generation config or else the tokenizer names."""
    declared = model.generation_config.eos_token_id
    if declared is None:
        declared = tokenizer.eos_token_id
    return [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
