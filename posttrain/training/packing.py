"""Samples to micro-batches: packed end to end without padding, under a token budget, equal work for every rank."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from posttrain.training.sequence_parallel import SequenceRanks
from posttrain.types import TrainingSample


@dataclass(slots=True)
class MicroBatch:
    """One forward pass. T packed tokens of S samples, of which M are trained.

    ``input_ids``, ``position_ids``: int64 [1, T], positions restart at 0 in every sample.
    ``lengths``: tokens of each sample, in order.
    ``sources``: int64 [M], the packed index of the token whose hidden state predicts the trained token.
    ``targets`` int64, ``weights`` float32, ``behaviour_logprobs`` float32, ``origins`` int64: [M].
    ``sample_index``: int64 [M], which of ``samples`` a trained token belongs to; ``trained_lengths`` counts them, [S].
    ``engine_logprobs``: as ``behaviour_logprobs``, and left as the engine gave them.
    ``reference_logprobs``: float32 [M], where the method has a reference model.
    ``sequence_ranks``: where ranks share the T tokens, those ranks. ``input_ids`` and ``position_ids`` are then this
    rank's part, and ``lengths`` has the padding behind the last part, as samples of one token.
    """

    samples: list[TrainingSample]
    input_ids: Tensor
    position_ids: Tensor
    lengths: list[int]
    sources: Tensor
    targets: Tensor
    weights: Tensor
    behaviour_logprobs: Tensor
    engine_logprobs: Tensor
    origins: Tensor
    sample_index: Tensor
    trained_lengths: Tensor
    reference_logprobs: Tensor | None = None
    sequence_ranks: SequenceRanks | None = None

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch with every tensor on ``device``."""
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(device) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


def collate(samples: Sequence[TrainingSample]) -> MicroBatch:
    """Pack ``samples`` one after the other. The first token of a sample has no prediction and cannot be trained."""
    positions = [torch.arange(len(sample.input_ids)) for sample in samples]
    trained = _concatenated((sample.trained for sample in samples), torch.bool)
    position_ids = torch.cat(positions)
    chosen = (trained & (position_ids > 0)).nonzero().squeeze(1)
    owner = torch.repeat_interleave(
        torch.arange(len(samples)), torch.tensor([len(sample.input_ids) for sample in samples])
    )
    input_ids = _concatenated((sample.input_ids for sample in samples), torch.int64)
    sample_index = owner[chosen]
    behaviour = _concatenated((sample.behaviour_logprobs for sample in samples), torch.float32)[chosen]
    return MicroBatch(
        samples=list(samples),
        input_ids=input_ids[None],
        position_ids=position_ids[None],
        lengths=[len(sample.input_ids) for sample in samples],
        sources=chosen - 1,
        targets=input_ids[chosen],
        weights=_concatenated((sample.token_weights for sample in samples), torch.float32)[chosen],
        behaviour_logprobs=behaviour,
        engine_logprobs=behaviour,
        origins=_concatenated((sample.origin for sample in samples), torch.int64)[chosen],
        sample_index=sample_index,
        trained_lengths=torch.bincount(sample_index, minlength=len(samples)),
    )


def pack(samples: Sequence[TrainingSample], tokens_per_micro_batch: int) -> list[list[TrainingSample]]:
    """Fill micro-batches of at most ``tokens_per_micro_batch`` tokens (a longer sample travels alone), longest first.

    Neighbours have like lengths, so that attention over runs of equal length has few runs.
    """
    batches: list[list[TrainingSample]] = []
    room = 0
    for sample in sorted(samples, key=_cost, reverse=True):
        if len(sample.input_ids) > room:
            batches.append([])
            room = tokens_per_micro_batch
        batches[-1].append(sample)
        room -= len(sample.input_ids)
    return batches


def balance(samples: Sequence[TrainingSample], ranks: int) -> list[list[TrainingSample]]:
    """Share ``samples`` among ``ranks`` so that token counts are near equal: longest first, to the least loaded."""
    shares: list[list[TrainingSample]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for sample in sorted(samples, key=_cost, reverse=True):
        least = loads.index(min(loads))
        shares[least].append(sample)
        loads[least] += len(sample.input_ids)
    return shares


def _cost(sample: TrainingSample) -> tuple[int, str]:
    return len(sample.input_ids), sample.id


def _concatenated(values: Iterable[Sequence[float]], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.tensor(value, dtype=dtype) for value in values])
