"""A plan as sections of (name, value) lines."""

from collections.abc import Iterator, Mapping
from typing import Any

from posttrain.capacity.hardware import Cluster
from posttrain.capacity.placement import PLACEMENTS, RUNNABLE, Estimate, scale
from posttrain.capacity.workload import Workload, model_and_tokenizer
from posttrain.data.chat import PromptEncoder
from posttrain.job import Job
from posttrain.planning import human_bytes, prompt_budget, prompt_lengths

Section = list[tuple[str, str]]


def prompts_of(job: Job[Any]) -> tuple[float, int]:
    """Mean and greatest tokens of the job's prompts. Raises ``UserError`` if its data cannot be used."""
    config, tokenizer = model_and_tokenizer(job)
    encoder = PromptEncoder(tokenizer, prompt_budget(job, config.max_position_embeddings))
    lengths = prompt_lengths(encoder, job.data.build().train_examples())
    return sum(lengths) / len(lengths), max(lengths)


def plan_sections(work: Workload, cluster: Cluster, found: Mapping[str, Estimate]) -> dict[str, Section]:
    """A line on every placement of ``found``, and in full the layout that a job can run, or else the fastest."""
    shown, device = found.get(RUNNABLE) or min(found.values(), key=lambda one: one.seconds), cluster.device
    rates = " / ".join(f"{rate / 1e9:,.4g}" for rate in (device.bandwidth, device.link, device.network))
    longest = max(shown.phases, key=lambda name: shown.phases[name].seconds)
    room = device.memory - sum(size for name, size in shown.memory.items() if not name.startswith("engine's"))
    most = (room + shown.memory["activations"]) / work.activation_bytes
    layout, micro_batch = shown.layout, work.job.trainer.tokens_per_micro_batch
    decoded = min(shown.batch, work.share(layout.engine_gpus / layout.tensor_parallel))
    where = "GPU" if layout.placement == "colocated" else "rank, and of an engine's GPU"
    return {
        f"{cluster.nodes} x {cluster.per_node} {device.name}, as each is reckoned": [
            ("memory", human_bytes(device.memory)),
            ("arithmetic", f"{device.flops / 1e12:.3g} TFLOP/s"),
            ("memory, link, network", f"{rates} GB/s"),
        ],
        "Placements, the fastest layout of each": [
            (name, f"{_seconds(found[name].seconds)} s: {found[name].layout}" if name in found else "does not fit")
            for name in (*PLACEMENTS, RUNNABLE)
        ],
        f"A step, {layout}": [
            ("rollouts", f"{work.rollouts:,} of {work.prompt_tokens:,.0f} + {work.completion_tokens:,.0f} tokens"),
            *((name, f"{_seconds(phase.seconds)} s, bound by {phase.bound}") for name, phase in shown.phases.items()),
            ("together", f"{_seconds(shown.seconds)} s; the bottleneck is {longest}"),
        ],
        f"Memory of a {where}": [(name, human_bytes(size)) for name, size in shown.memory.items()],
        "Batch settings": [
            ("micro-batches of a rank", f"{work.micro_batches(layout.ranks):.3g} a pass"),
            ("tokens_per_micro_batch", f"{micro_batch:,}; at most {most:,.0f} fit"),
            ("engine.max_num_seqs", f"{decoded:,.0f} are decoded together"),
        ],
    }


def scale_lines(work: Workload, cluster: Cluster) -> Iterator[tuple[str, str]]:
    """``scale`` as lines: seconds of a step in each placement, the fastest marked."""
    for gpus, found in scale(work, cluster).items():
        least = min((one.seconds for one in found.values()), default=0.0)
        times = [found[name].seconds if name in found else None for name in PLACEMENTS]
        cells = ("         -" if t is None else f"{_seconds(t):>9}{'*' if t == least else ' '}" for t in times)
        yield f"{gpus:,}", " ".join(cells)


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
