"""The time of each phase of a step: a model of arithmetic, memory traffic and links, not a measurement.

P: parameters of the policy. Rates are those of a ``Cluster``. Attention's own operations, the verifier, the optimizer's
step, stragglers and start-up are left out.
"""

from dataclasses import dataclass

from posttrain.capacity.hardware import Cluster
from posttrain.capacity.workload import Workload
from posttrain.training.memory import bytes_of

COLLECTIVE_SECONDS = 10e-6  # latency of one exchange between GPUs of a machine


@dataclass(frozen=True, slots=True)
class Phase:
    """``seconds`` of a phase, and what bounds it."""

    seconds: float
    bound: str


def decode(work: Workload, cluster: Cluster, t: int, batch: float) -> Phase:
    """One token for each of ``batch`` rollouts on an engine of ``t`` GPUs (tensor parallel).

    ``max((W + batch c k) / (t bandwidth), 2 P batch / (t flops)) + exchange``: W bytes of weights, k of cache a token,
    c the mean context (prompt + half the completion). The exchange, if t > 1, is two all-reduces a layer, each of
    ``COLLECTIVE_SECONDS`` and of ``2 (t - 1) / t`` times the batch's hidden states over the link.
    """
    context = work.prompt_tokens + work.completion_tokens / 2
    read = (work.engine_weights + batch * context * work.cache_bytes) / (t * cluster.device.bandwidth)
    arithmetic = 2 * work.parameters * batch / (t * cluster.device.flops)
    hidden = batch * work.model.hidden_size * work.engine_weights / work.parameters
    one = COLLECTIVE_SECONDS + 2 * (t - 1) / t * hidden / cluster.link(t)
    exchange = 2 * work.model.num_hidden_layers * one if t > 1 else 0.0
    bounds = {"memory bandwidth": read, "arithmetic": arithmetic, "tensor parallel exchange": exchange}
    return Phase(max(read, arithmetic) + exchange, max(bounds, key=lambda name: bounds[name]))


def generate(work: Workload, cluster: Cluster, gpus: int, t: int, batch: float) -> Phase:
    """All rollouts of a step on gpus / t engines: with n a engine, of which at most ``batch`` are decoded together,
    ``2 P n prompt / (t flops) + n / b completion decode(b)``, b = min(n, batch). Each rollout reads its prompt anew."""
    share = work.share(gpus / t)
    together = min(share, batch)
    token = decode(work, cluster, t, together)
    prefill = 2 * work.parameters * share * work.prompt_tokens / (t * cluster.device.flops)
    return Phase(prefill + share / together * work.completion_tokens * token.seconds, token.bound)


def learn(work: Workload, cluster: Cluster, ranks: int, zero_stage: int | None) -> dict[str, Phase]:
    """The phases of the trainer; each is its arithmetic or its exchange over the link, whichever is longer.

    ``score``: a forward pass of every model beside the policy, ``2 P tokens / (ranks flops)``; under ZeRO-3 its weights
    are gathered for each micro-batch. ``update``: for each trained model ``6 P tokens / (ranks flops)`` a pass (8 with
    checkpointing), and twice the gradients' bytes an optimizer update; under ZeRO-3 three times the weights' bytes a
    micro-batch (two gatherings and a reduction: arXiv 1910.02054, section 7.2).
    """
    trainer, width = work.job.trainer, bytes_of(work.job.model.dtype)
    weights, others = width * work.parameters, len(work.models) - 1
    trained = [count for _, count in work.models.values() if count]
    passes, micro_batches = trainer.updates_per_step, work.micro_batches(ranks)
    gathered, exchanged = 0.0, 2.0 * passes * trainer.minibatches_per_step * sum(trained) * width
    if zero_stage == 3:
        gathered = others * weights * micro_batches
        exchanged = 3 * weights * len(trained) * passes * max(trainer.minibatches_per_step, micro_batches)

    def phase(operations: float, moved: float) -> Phase:
        arithmetic = operations * work.tokens / (ranks * cluster.device.flops)
        exchange = moved / cluster.link(ranks) if ranks > 1 else 0.0
        return Phase(max(arithmetic, exchange), "arithmetic" if arithmetic >= exchange else "link")

    score = phase(2.0 * others * work.parameters, gathered)
    return {"score": score, "update": phase(passes * work.update_operations, exchanged)}


def sync(work: Workload, cluster: Cluster, gpus: int) -> Phase:
    """The policy to every engine once, ``2 P`` bytes in bfloat16, over the slowest link."""
    return Phase(work.engine_weights / cluster.link(gpus), "link")
