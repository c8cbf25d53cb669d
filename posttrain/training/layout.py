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


def read_layout(checkpoint: Path) -> dict[str, Any]:
    """``ranks``, ``zero_stage`` (None without DeepSpeed), and by name the shapes of all ``parameters``."""
    layout: dict[str, Any] = json.loads((checkpoint / LAYOUT_FILE).read_text(encoding="utf-8"))
    return layout


def check_models(checkpoint: Path, accelerator: Accelerator, models: Sequence[nn.Module]) -> None:
    """Whether ``checkpoint`` is of these models.

    Raises:
        CheckpointError: of another model, or of other adapters; names the first parameter that differs.
    """
    first, second = (layout["parameters"] for layout in (read_layout(checkpoint), _layout(accelerator, models)))
    unlike = [name for name in first | second if first.get(name) != second.get(name)]
    if unlike:
        name = unlike[0]
        raise CheckpointError(
            f"{checkpoint}: of another model: {name} is {_shape(first, name)} there and {_shape(second, name)} here"
            f"{f', and {len(unlike) - 1} more parameters differ' if unlike[1:] else ''}. Resume with the model and the "
            "model.lora of the run that wrote it"
        )


def is_shared_alike(checkpoint: Path, accelerator: Accelerator) -> bool:
    """Whether the optimizer's state lies there as this launch reads it: under DeepSpeed in a part for each of its
    ranks, without DeepSpeed whole, for any number of ranks."""
    there, stage = read_layout(checkpoint), zero_stage(accelerator)
    return there["zero_stage"] == stage and (stage is None or there["ranks"] == accelerator.num_processes)


def check_shares(checkpoint: Path, accelerator: Accelerator) -> None:
    """For a loop that cannot share a checkpoint out anew.

    Raises:
        CheckpointError: another number of ranks under DeepSpeed, or another stage.
    """
    if not is_shared_alike(checkpoint, accelerator):
        there, here = read_layout(checkpoint), _layout(accelerator, [])
        raise CheckpointError(
            f"{checkpoint}: written by {_ranks(there)}, and this launch has {_ranks(here)}, which would read the "
            f"optimizer's state in other parts. Launch it as it was (--num_processes {there['ranks']})"
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
