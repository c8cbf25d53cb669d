"""Where engine and trainer run: what fits, how long a step takes there, and the fastest of them.

``colocated``: both share every GPU and take turns. ``split``: each has GPUs of its own and waits for the other.
``overlapped``: split, and the engine samples the next step while the trainer updates (staleness 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from posttrain.capacity import speed
from posttrain.capacity.hardware import Cluster
from posttrain.capacity.speed import Phase
from posttrain.capacity.workload import POLICY, Workload
from posttrain.errors import JobError
from posttrain.training.memory import Launch, state_bytes, trained_bytes

PLACEMENTS = ("colocated", "split", "overlapped")
RUNNABLE = "as jobs run"  # colocated, an engine on every rank
MOST_GPUS = 1024
SPLITS = 16  # in how many parts GPUs are divided between engines and trainer


@dataclass(frozen=True, slots=True)
class Layout:
    """GPUs of the engines, ranks of the trainer (the same GPUs where colocated), and how each splits its model."""

    placement: str
    gpus: int
    engine_gpus: int
    ranks: int
    tensor_parallel: int
    zero_stage: int | None

    def __str__(self) -> str:
        zero = "no ZeRO" if self.zero_stage is None else f"ZeRO-{self.zero_stage}"
        gpus = f"{self.gpus}" if self.placement == "colocated" else f"{self.engine_gpus} + {self.ranks}"
        return f"{self.placement} on {gpus}, {zero}, tensor parallel {self.tensor_parallel}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A layout's ``memory``: bytes by part, ``engine's ...`` on an engine's GPU and the others on a rank's, one GPU
    where colocated. What is missing for it is ``shortage``; ``batch`` rollouts of mean length fit in an engine's cache.
    Where it fits: the ``phases``, and the ``seconds`` of a step."""

    layout: Layout
    memory: dict[str, float]
    shortage: float
    batch: float
    phases: dict[str, Phase]
    seconds: float


def trainer_memory(work: Workload, ranks: int, zero_stage: int | None) -> dict[str, float]:
    """Bytes by part on a rank. A rollout longer than a micro-batch travels alone, over ranks that share sequences."""
    launch, model = Launch(ranks, zero_stage=zero_stage), work.job.model
    policy = state_bytes(*work.models[POLICY], model.dtype, launch)
    parts = dict(zip(("weights", "gradients", "optimizer"), policy, strict=True))
    parts |= {name: trained_bytes(*size, model.dtype, launch) for name, size in work.models.items() if name != POLICY}
    longest = work.longest / model.sequence_parallel
    parts["activations"] = work.activation_bytes * max(work.job.trainer.tokens_per_micro_batch, longest)
    return parts | {"a chunk of logits": 2 * 4.0 * model.logits_chunk_size * work.model.vocab_size}


def estimate(work: Workload, cluster: Cluster, layout: Layout) -> Estimate:
    """Memory and time of ``layout``. The cache gets what is left and must hold one rollout that fills its context.

    A colocated vLLM sleeps during the update, so that only the trainer's states lie beside it; another engine keeps its
    memory. Phases follow each other; overlapped, a step takes ``max(generate, score + update) + sync``.
    """
    parts = trainer_memory(work, layout.ranks, layout.zero_stage)
    peak = sum(parts.values())
    passing = parts["activations"] + parts["a chunk of logits"] if work.job.engine.type == "vllm" else 0.0
    beside = peak - passing if layout.placement == "colocated" else 0.0
    memory, t = cluster.device.memory, layout.tensor_parallel
    parts["engine's weights"] = work.engine_weights / t
    cache = parts["engine's cache"] = memory - beside - parts["engine's weights"]
    shortage = max(0.0, peak - memory, work.longest * work.cache_bytes / t - cache)
    batch = cache * t / work.cache_bytes / (work.prompt_tokens + work.completion_tokens)
    if shortage:
        return Estimate(layout, parts, shortage, batch, {}, float("inf"))
    phases = {
        "generate": speed.generate(work, cluster, layout.engine_gpus, t, batch),
        **speed.learn(work, cluster, layout.ranks, layout.zero_stage),
        "sync": speed.sync(work, cluster, layout.gpus),
    }
    generate, score, update, sync = (phase.seconds for phase in phases.values())
    both = max(generate, score + update) if layout.placement == "overlapped" else generate + score + update
    return Estimate(layout, parts, 0.0, batch, phases, both + sync)


def layouts(work: Workload, cluster: Cluster, placement: str) -> Iterator[Layout]:
    """What is tried: powers of two of the GPUs and all of them, since a small step can be slower on many; at most as
    many ranks, and engines, as there are prompts; tensor parallelism within a machine; ranks that can share sequences
    as the job says."""
    total, prompts, model = cluster.per_node * cluster.nodes, work.job.trainer.prompts_per_step, work.job.model
    stages = [None, 1, 2, 3] if model.dtype == "float32" else [1, 2, 3]
    heads, sharing = getattr(work.model, "num_key_value_heads", work.model.num_attention_heads), model.sequence_parallel
    for gpus in sorted({2**power for power in range(total.bit_length())} | {total}):
        shares = sorted({round(gpus * part / SPLITS) for part in range(1, SPLITS)} - {0, gpus})
        for engine_gpus in [gpus] if placement == "colocated" else shares:
            ranks = gpus if placement == "colocated" else gpus - engine_gpus
            for t in (1, 2, 4, 8):
                whole = engine_gpus % t == heads % t == ranks % sharing == 0 and t <= cluster.per_node
                if whole and ranks <= prompts and engine_gpus <= prompts * t:
                    for stage in stages if ranks > 1 else stages[:1]:
                        yield Layout(placement, gpus, engine_gpus, ranks, t, stage)


def fastest(work: Workload, cluster: Cluster) -> dict[str, Estimate]:
    """For each placement that fits, and ``RUNNABLE``, the layout of least time, of equal ones the first (fewest GPUs,
    lowest stage).

    Raises:
        JobError: nothing fits; the message says what is short, and by how much.
    """
    found = [estimate(work, cluster, layout) for name in PLACEMENTS for layout in layouts(work, cluster, name)]
    best: dict[str, Estimate] = {}
    for tried in (tried for tried in found if not tried.shortage):
        runs = tried.layout.placement == "colocated" and tried.layout.tensor_parallel == 1
        for name in (tried.layout.placement, RUNNABLE) if runs else (tried.layout.placement,):
            if name not in best or tried.seconds < best[name].seconds:
                best[name] = tried
    if best:
        return best
    if not found:
        raise JobError(f"model.sequence_parallel ({work.job.model.sequence_parallel}) takes more ranks than there are")
    nearest = min(found, key=lambda tried: tried.shortage)
    part = max(nearest.memory, key=lambda name: nearest.memory[name])
    raise JobError(
        f"this job fits nowhere on {cluster.nodes} x {cluster.per_node} {cluster.device.name}: the nearest layout "
        f"({nearest.layout}) is short by {nearest.shortage / 1e9:.3g} GB a GPU of {cluster.device.memory / 1e9:.3g} GB "
        f"to use; its largest part is {part}, {nearest.memory[part] / 1e9:.3g} GB. Take more or larger GPUs, "
        "model.gradient_checkpointing=true, or less of trainer.tokens_per_micro_batch and max_completion_tokens"
    )


def scale(work: Workload, cluster: Cluster) -> dict[int, dict[str, Estimate]]:
    """``fastest`` for 1, 2, 4, ... ``MOST_GPUS`` GPUs in machines of ``cluster.per_node``; empty where nothing fits."""
    found: dict[int, dict[str, Estimate]] = {}
    for power in range(MOST_GPUS.bit_length()):
        per_node = min(2**power, cluster.per_node)
        try:
            found[2**power] = fastest(work, Cluster(cluster.device, per_node, 2**power // per_node))
        except JobError:
            found[2**power] = {}
    return found
