"""One optimizer update over packed micro-batches: the same result however the batch is cut, on any number of ranks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn

from posttrain.training.accelerator import gather_lists
from posttrain.training.packing import MicroBatch, balance, collate, pack
from posttrain.training.sequence_parallel import SequenceRanks
from posttrain.types import Origin, TrainingSample


@dataclass(slots=True)
class LossOutput:
    """A micro-batch's part of the loss and of the metrics. Both are divided by the *global* counts of the step, so
    that parts simply add up over micro-batches and ranks."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class UpdateResult:
    """What an update did. ``applied`` is False where loss or gradient was not finite and the optimizer did not step."""

    loss: float
    gradient_norm: float
    applied: bool
    metrics: dict[str, float]
    offending_samples: list[str] = field(default_factory=list)


def adamw(model: nn.Module, config: Any) -> torch.optim.AdamW:
    """AdamW for what ``model`` trains, as ``config`` sets it."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        trained, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, weight_decay=config.weight_decay
    )


class Update:
    """Runs forward, backward and the optimizer for one trained model.

    ``model`` and ``optimizer`` have been through ``accelerator.prepare``. Ranks of ``sequence_ranks`` run the same
    micro-batches, each with a part of the tokens.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: Any,
        *,
        tokens_per_micro_batch: int,
        max_grad_norm: float,
        sequence_ranks: SequenceRanks | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.tokens_per_micro_batch = tokens_per_micro_batch
        self.max_grad_norm = max_grad_norm
        self.sequence_ranks = sequence_ranks
        self.sharing = sequence_ranks.size if sequence_ranks else 1
        self.skipped = 0  # updates in a row whose loss or gradient was not finite

    def micro_batches(self, samples: Sequence[TrainingSample]) -> list[MicroBatch]:
        """This rank's share of ``samples`` (which every rank holds whole). All ranks get equally many micro-batches."""
        shares = balance(samples, self.accelerator.num_processes // self.sharing)
        packed = [pack(share, self.sharing * self.tokens_per_micro_batch) for share in shares]
        mine = packed[self.accelerator.process_index // self.sharing]
        idle = max(map(len, packed)) - len(mine)
        batches = [collate(batch).to(self.accelerator.device) for batch in [*mine, *[[_IDLE_SAMPLE]] * idle]]
        return batches if self.sequence_ranks is None else list(map(self.sequence_ranks.share, batches))

    @torch.no_grad()
    def token_values(
        self, samples: Sequence[TrainingSample], values: Callable[[MicroBatch], Tensor]
    ) -> dict[str, list[Any]]:
        """What ``values`` ([M] or [M, k] of a micro-batch) gives for the trained tokens of each sample, by sample id.

        Every rank holds all ``samples``, computes its share, and gets the whole. Without samples nothing is run.
        """
        found: list[tuple[str, list[Any]]] = []
        for batch in self.micro_batches(samples) if samples else []:
            for sample, own in zip(batch.samples, values(batch).split(batch.trained_lengths.tolist()), strict=True):
                if sample is not _IDLE_SAMPLE:
                    found.append((sample.id, own.tolist()))
        return dict(gather_lists(self.accelerator, found))

    def run(
        self, batches: Sequence[MicroBatch], loss: Callable[[MicroBatch], LossOutput], learning_rate: float
    ) -> UpdateResult:
        """Accumulate the gradient of the summed ``loss`` over all micro-batches and ranks, clip it, and step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        total, metrics, offending = self.backward(batches, loss)
        norm = self._clip()
        applied = not offending and bool(torch.isfinite(norm))
        if applied:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.skipped = 0 if applied else self.skipped + 1
        return UpdateResult(total, float(norm), applied, metrics, offending)

    def backward(
        self, batches: Sequence[MicroBatch], loss: Callable[[MicroBatch], LossOutput]
    ) -> tuple[float, dict[str, float], list[str]]:
        """Gradients only: the loss, the metrics (both global) and the ids of samples whose loss was not finite."""
        sums: dict[str, Any] = {}
        offending: list[str] = []
        for number, batch in enumerate(batches):
            with self._synchronised(number == len(batches) - 1):
                output = loss(batch)
                if not torch.isfinite(output.loss):
                    offending += [sample.id for sample in batch.samples]
                # ranks average their gradients, but parts of the loss add up: undo the average
                self.accelerator.backward(output.loss * self.accelerator.num_processes / self.sharing)
            for name, value in {"loss": output.loss, **output.metrics}.items():
                sums[name] = sums.get(name, 0.0) + value.detach().double()
        totals = self._reduced(sums)
        everywhere = dict.fromkeys(gather_lists(self.accelerator, offending))  # ranks that share tokens tell the same
        return totals.pop("loss"), totals, list(everywhere)

    @contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        self.accelerator.sync_gradients = last  # what DeepSpeed's boundary follows
        if last or self.accelerator.distributed_type == DistributedType.DEEPSPEED:
            yield
        else:
            with self.accelerator.no_sync(self.model):
                yield

    def _clip(self) -> Tensor:
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        return torch.as_tensor(0.0 if norm is None else norm)

    def _reduced(self, sums: dict[str, Tensor]) -> dict[str, float]:
        names = sorted(sums)
        values = torch.stack([sums[name] for name in names]).to(self.accelerator.device)
        values = self.accelerator.reduce(values, reduction="sum") / self.sharing
        return dict(zip(names, values.tolist(), strict=True))


# What a rank without samples runs, so that collective operations meet: two tokens, none of them trained.
_IDLE_SAMPLE = TrainingSample(
    id="",
    input_ids=[0, 0],
    origin=[Origin.PROMPT, Origin.PROMPT],
    trained=[0, 0],
    token_weights=[0.0, 0.0],
    behaviour_logprobs=[0.0, 0.0],
)
