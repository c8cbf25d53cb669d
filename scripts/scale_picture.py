"""Draw ``docs/planning.svg``: GPU-minutes of a step over the number of GPUs, for each placement.

``python scripts/scale_picture.py [OUTPUT.svg]``; the job is the one that docs/planning.md describes.
"""

import math
import sys
from pathlib import Path
from typing import Any

from transformers import Qwen2Config

from posttrain.capacity.hardware import parse_cluster
from posttrain.capacity.memory import activation_bytes
from posttrain.capacity.placement import PLACEMENTS, Estimate, scale
from posttrain.capacity.workload import Workload, empty_model, held_models, shape_of
from posttrain.job import Job
from posttrain.report.comparison import ArmCurve, curves_picture
from posttrain.trainers.grpo_config import GRPOConfig

JOB: dict[str, Any] = {
    "method": "grpo",
    "model": {"path": "7B", "dtype": "bfloat16", "gradient_checkpointing": True},
    "data": {"type": "arithmetic"},
    "engine": {"type": "vllm", "dtype": "bfloat16"},
    "trainer": {
        "prompts_per_step": 1024,
        "rollouts_per_prompt": 8,
        "tokens_per_micro_batch": 16384,
        "kl_coef": 0.01,
        "sampling": {"max_completion_tokens": 8192},
    },
}
SEVEN_BILLION: dict[str, Any] = {
    "vocab_size": 152_064,
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}
PROMPT, COMPLETION = 500, 2000


def workload() -> Workload:
    """A 7B model: 1,024 prompts x 8 rollouts of 500 + 2,000 tokens, with a reference model."""
    job: Job[Any] = Job[GRPOConfig].model_validate(JOB)
    config = Qwen2Config(**SEVEN_BILLION)
    model = empty_model(config, "bfloat16")
    shape = shape_of(job, config, model)
    return Workload(
        job=job,
        model=config,
        models=held_models(job, shape, model),
        cache_bytes=shape.cache_bytes_per_token,
        activation_bytes=activation_bytes(model, checkpointing=True),
        prompt_tokens=float(PROMPT),
        completion_tokens=float(COMPLETION),
        longest=PROMPT + 8192,
    )


def picture(table: dict[int, dict[str, Estimate]]) -> str:
    """The SVG: GPU-minutes of a step, which stay the same where twice the GPUs take half the time."""
    curves = []
    for placement in PLACEMENTS:
        points = {gpus: found[placement].seconds for gpus, found in table.items() if placement in found}
        minutes = tuple(gpus * seconds / 60 for gpus, seconds in points.items())
        curves.append(ArmCurve(placement, tuple(map(math.log2, points)), minutes, minutes, minutes))
    note = "a model, not a measurement: 7B on machines of 8 H100; flat is perfect scaling"
    spoken = "GPU-minutes of a step over the number of GPUs, for each placement"
    return curves_picture(curves, "GPU-minutes of a step", note, "GPUs, as a power of two", spoken)


def rows(table: dict[int, dict[str, Estimate]]) -> str:
    """The table of the page."""
    lines = []
    for gpus, found in table.items():
        times = [f"{found[name].seconds:,.1f}" if name in found else "does not fit" for name in PLACEMENTS]
        lines.append(f"| {gpus:,} | {' | '.join(times)} |")
    return "\n".join(lines)


def main() -> None:
    """Write the picture and print the table."""
    table = scale(workload(), parse_cluster("8xH100", 1))
    print(rows(table))
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs" / "planning.svg"
    output.write_text(picture(table))


if __name__ == "__main__":
    main()
