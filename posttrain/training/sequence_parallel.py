"""Long sequences over several ranks (DeepSpeed-Ulysses, arXiv 2309.14509): each has a part of a micro-batch's tokens.

For attention the ranks exchange: a part of the tokens with all heads becomes all tokens with a part of the heads, and
back. What is computed of the trained tokens is gathered, so that a loss sees all of them on every rank.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.distributed._functional_collectives import all_gather_single, all_to_all_single

from posttrain.errors import JobError

if TYPE_CHECKING:
    from posttrain.training.packing import MicroBatch


class SequenceRanks:
    """The ``size`` neighbouring ranks that share this rank's micro-batches. Every rank makes them.

    Raises:
        JobError: the ranks cannot be cut into groups of ``size``.
    """

    def __init__(self, size: int, accelerator: Accelerator) -> None:
        ranks = accelerator.num_processes
        if ranks % size:
            fitting = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
            raise JobError(f"model.sequence_parallel: {ranks} ranks are no multiple of {size}; take {fitting}")
        groups = [torch.distributed.new_group(list(range(first, first + size))) for first in range(0, ranks, size)]
        self.size, self.rank = size, accelerator.process_index % size
        self.group = groups[accelerator.process_index // size]

    def share(self, batch: "MicroBatch") -> "MicroBatch":
        """``batch`` with this rank's part of its tokens, ceil(T / size); the last ones are padded."""
        padding = -batch.input_ids.shape[1] % self.size
        whole = [F.pad(tokens, (0, padding)) for tokens in (batch.input_ids, batch.position_ids)]
        ids, positions = (tokens.chunk(self.size, dim=1)[self.rank] for tokens in whole)
        lengths = batch.lengths + [1] * padding
        return replace(batch, input_ids=ids, position_ids=positions, lengths=lengths, sequence_ranks=self)

    def gather(self, values: Tensor, counts: list[int]) -> Tensor:
        """The ranks' ``values`` end to end, [sum(counts)]."""
        pieces = all_gather_single(F.pad(values, (0, max(counts) - len(values))), 0, self.group).view(self.size, -1)
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    def all_tokens(self, values: Tensor) -> Tensor:
        """[1, heads, T / size, width] to [1, heads / size, T, width]; of fewer heads than ranks each is repeated."""
        heads = values[0].repeat_interleave(max(1, self.size // values.shape[1]), dim=0)
        return self._exchange(heads.unflatten(0, (self.size, -1)))

    def all_heads(self, values: Tensor) -> Tensor:
        """[1, T, heads / size, width] to [1, T / size, heads, width]."""
        return self._exchange(values[0].unflatten(0, (self.size, -1)))

    def _exchange(self, values: Tensor) -> Tensor:
        """Send ``values[i]`` to rank i, and lay what comes end to end along the second of its dimensions."""
        arrived = all_to_all_single(values.contiguous(), None, None, self.group)
        return arrived.transpose(0, 1).flatten(1, 2)[None]
