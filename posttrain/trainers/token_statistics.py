"""What the policy makes of tokens that it did not sample."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from posttrain.training.accelerator import gather_lists
from posttrain.training.update import Update
from posttrain.types import Origin, TrainingSample


@torch.no_grad()
def token_statistics(update: Update, samples: Sequence[TrainingSample]) -> dict[str, tuple[list[float], list[float]]]:
    """Log-probs and entropies (nats) of the expert tokens of each sample, in order, under the policy as it is.

    Every rank holds all ``samples``, computes its share, and gets the whole. Without samples nothing is run.
    """
    if not samples:
        return {}
    expert_only = [replace(s, trained=[int(origin == Origin.EXPERT) for origin in s.origin]) for s in samples]
    statistics: list[tuple[str, tuple[list[float], list[float]]]] = []
    for batch in update.micro_batches(expert_only):
        lengths = batch.trained_lengths.tolist()
        logprobs, entropies = (values.split(lengths) for values in update.model(batch))
        for sample, own_logprobs, own_entropies in zip(batch.samples, logprobs, entropies, strict=True):
            if sample.id:  # a rank that has run out of samples idles on one without a name
                statistics.append((sample.id, (own_logprobs.tolist(), own_entropies.tolist())))
    return dict(gather_lists(update.accelerator, statistics))
