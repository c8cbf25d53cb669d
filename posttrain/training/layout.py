"""What a checkpoint was written by: the ranks, how they shared the models, and the models' parameters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.rollout.weight_sync import whole_shape
from posttrain.training.accelerator import zero_stage

LAYOUT_FILE = "layout.json"


def write_layout(folder: Path, accelerator: Accelerator, models: Sequence[nn.Module]) -> None:
    """Say in ``folder`` what its files are of."""
    (folder / LAYOUT_FILE).write_text(json.dumps(_layout(accelerator, models)), encoding="utf-8")


def check_layout(checkpoint: Path, accelerator: Accelerator, models: Sequence[nn.Module]) -> None:
    """Whether this launch can go on from ``checkpoint``: with the same models, and under DeepSpeed, which splits the
    optimizer's state by rank, with the same ranks. Without it any number of ranks goes on; a rank that the checkpoint
    has no random generators of keeps those it started with.

    Raises:
        CheckpointError: another model, other adapters, or ranks that share it in another way.
    """
    there, here = json.loads((checkpoint / LAYOUT_FILE).read_text(encoding="utf-8")), _layout(accelerator, models)
    first, second = there["parameters"], here["parameters"]
    unlike = [name for name in first | second if first.get(name) != second.get(name)]
    if unlike:
        name = unlike[0]
        raise CheckpointError(
            f"{checkpoint}: of another model: {name} is {_shape(first, name)} there and {_shape(second, name)} here"
            f"{f', and {len(unlike) - 1} more parameters differ' if unlike[1:] else ''}. Resume with the model and the "
            "model.lora of the run that wrote it"
        )
    split = here["zero_stage"] is not None
    if there["zero_stage"] != here["zero_stage"] or (split and there["ranks"] != here["ranks"]):
        raise CheckpointError(
            f"{checkpoint}: written by {_ranks(there)}, and this launch has {_ranks(here)}, which would read the "
            f"optimizer's state in other parts. Launch it as it was (--num_processes {there['ranks']}), or start a new "
            "run from the model of a finished one (model.path=RUN/model)"
        )


def _layout(accelerator: Accelerator, models: Sequence[nn.Module]) -> dict[str, Any]:
    return {
        "ranks": accelerator.num_processes,
        "zero_stage": zero_stage(accelerator),
        "parameters": {
            f"{number}.{name.removeprefix('module.')}": list(whole_shape(parameter))
            for number, model in enumerate(models)
            for name, parameter in model.named_parameters()
        },
    }


def _shape(parameters: Mapping[str, list[int]], name: str) -> str:
    return "x".join(map(str, parameters[name])) if name in parameters else "missing"


def _ranks(layout: Mapping[str, Any]) -> str:
    stage = "no DeepSpeed" if layout["zero_stage"] is None else f"ZeRO-{layout['zero_stage']}"
    return f"{layout['ranks']} rank{'s' * (layout['ranks'] > 1)} under {stage}"
