"""How far the engine's log-probs are from the trainer's, token by token."""

import torch
from accelerate import Accelerator
from torch import Tensor

from posttrain.objectives.policy_losses import importance_weights
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.training.packing import MicroBatch


class MismatchMonitor:
    """Gathers the tokens of an update's micro-batches."""

    def __init__(self) -> None:
        self.truncated: list[Tensor] = []
        self._log_ratios: list[Tensor] = []

    def clear(self) -> None:
        """Forget the tokens of the last update."""
        self._log_ratios = []

    def observe(self, trainer_logprobs: Tensor, engine_logprobs: Tensor) -> None:
        """Add the tokens of a micro-batch, [M] each."""
        self._log_ratios.append(torch.nan_to_num(trainer_logprobs.detach() - engine_logprobs, nan=0.0))

    def corrected_weights(self, old: Tensor, batch: MicroBatch, config: PolicyTrainerConfig) -> Tensor:
        """The token weights [M] times the ratios of the trainer, whose log-probs [M] are ``old``, to the engine, cut as
        ``config`` has it (see ``importance_weights``)."""
        mode, cap = config.correction, config.importance_cap
        if mode is None:
            return batch.weights
        factors = importance_weights(old, batch.engine_logprobs, batch.sample_index, mode, cap)
        self.truncated.append(factors >= cap if mode.endswith("truncate") else factors == 0)
        return batch.weights * factors

    def metrics(self, accelerator: Accelerator) -> dict[str, float]:
        """Over the tokens of all ranks: mean |log p_trainer - log p_engine|; its 99th percentile, the greatest of the
        ranks'; KL(engine || trainer) as the mean of r - 1 - log r with r = p_trainer / p_engine (k3); and the fraction
        of importance weights that were cut. Every rank calls it.
        """
        log_ratios = torch.cat(self._log_ratios).double()
        cut = torch.cat(self.truncated).double() if self.truncated else torch.zeros_like(log_ratios)
        distances = log_ratios.abs()
        sums = [distances.sum(), (log_ratios.expm1() - log_ratios).sum(), cut.sum()]
        counts = [torch.tensor(len(each), device=distances.device, dtype=torch.float64) for each in (log_ratios, cut)]
        mean, kl, cut_sum, tokens, weighed = accelerator.reduce(torch.stack([*sums, *counts]), reduction="sum").tolist()
        p99 = distances.quantile(0.99) if len(distances) else distances.sum()
        return {
            "policy/logprob_mismatch": mean / max(1, tokens),
            "policy/logprob_mismatch_p99": float(accelerator.gather(p99).max()),
            "policy/engine_kl": kl / max(1, tokens),
            "policy/importance_cut_fraction": cut_sum / max(1, weighed),
        }
