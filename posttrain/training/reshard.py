"""Going on from a checkpoint of other ranks: each takes its part of the weights and of AdamW's moments.

Without DeepSpeed a checkpoint holds both whole. Under ZeRO every rank wrote its parts of them end to end, in float32:
in stages 1 and 2 what its share of all parameters together cuts out of each, in stage 3 an equal share of each. Their
files are mapped into memory, so that a rank reads no more than its own part.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from accelerate.checkpointing import load_accelerator_state
from safetensors.torch import load_file
from torch import Tensor

from posttrain.training.accelerator import zero_stage
from posttrain.training.layout import read_layout
from posttrain.training.update import Update

# What was written of a parameter, in order: pieces of its flat "weight" and of AdamW's moments, each with the "step".
Pieces = Mapping[str, Sequence[Mapping[str, Any]]]
_mapped = partial(torch.load, map_location="cpu", mmap=True, weights_only=False)


def load_resharded(checkpoint: Path, updates: Sequence[Update]) -> None:
    """Give the models and optimizers of ``updates`` what ``checkpoint`` holds of them, however it was shared there.

    A rank takes the random generators of the rank of its number; one that was not there keeps those it started with.
    """
    layout = read_layout(checkpoint)
    for number, update in enumerate(updates):
        if layout["zero_stage"] is None:
            pieces = _whole_pieces(checkpoint, f"_{number}" if number else "", update)
        else:
            folder = checkpoint / f"model_{number}" if number else checkpoint
            pieces = _zero_pieces(folder / "pytorch_model", layout["ranks"])
        _fill(update, pieces)
    load_accelerator_state(str(checkpoint), [], [], [], [], updates[0].accelerator.process_index)


def _whole_pieces(checkpoint: Path, ending: str, update: Update) -> Pieces:
    """What accelerate wrote without DeepSpeed: each parameter in one piece."""
    weights = load_file(checkpoint / f"model{ending}.safetensors")
    states = _mapped(checkpoint / f"optimizer{ending}.bin")["state"]
    trained = enumerate(name for name, _ in _trained(update))
    return {name: [{"weight": weights[name], **states.get(place, {})}] for place, name in trained}


def _zero_pieces(folder: Path, ranks: int) -> Pieces:
    """What DeepSpeed's ranks wrote of one model."""
    pieces: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for rank in range(ranks):
        (file,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
        saved = _mapped(file)["optimizer_state_dict"]
        if "param_slice_mappings" in saved:
            flat, states = saved["single_partition_of_fp32_groups"], saved["base_optimizer_state"]["state"]
            cuts = [{name: (cut.start, cut.numel) for name, cut in of.items()} for of in saved["param_slice_mappings"]]
        else:
            flat, states = saved["fp32_flat_groups"], saved["optimizer_state_dict"]["state"]
            (file,) = folder.glob("*zero_pp_rank_0_mp_rank_00_model_states.pt")
            cuts = [_equal_shares(shapes, rank, ranks) for shapes in _mapped(file)["param_shapes"]]
        for group, cut in enumerate(cuts):
            held = {"weight": flat[group], **states.get(group, {})}
            for name, (start, count) in cut.items():
                pieces[name].append({key: v if key == "step" else v[start : start + count] for key, v in held.items()})
    return pieces


def _equal_shares(shapes: Mapping[str, torch.Size], rank: int, ranks: int) -> dict[str, tuple[int, int]]:
    """Stage 3: where ``rank``'s share of each parameter starts, and its elements. The last ones are padded."""
    sizes = [-(-shape.numel() // ranks) for shape in shapes.values()]
    left = [max(0, shape.numel() - rank * size) for shape, size in zip(shapes.values(), sizes, strict=True)]
    return dict(zip(shapes, zip(accumulate([0, *sizes]), map(min, sizes, left), strict=False), strict=True))


@torch.no_grad()
def _fill(update: Update, pieces: Pieces) -> None:
    """Copy this rank's parts to where the optimizer holds them, and under ZeRO on to the model."""
    stage, zero = zero_stage(update.accelerator), update.optimizer.optimizer
    optimizer = zero.optimizer if stage else zero
    if stage == 3:
        zero.checkpoint_event_prologue()
    for name, held, start, offset, count in _held(update):
        state = optimizer.state[held]
        for key, first in pieces[name][0].items():
            if key == "step":
                state[key] = torch.tensor(float(first)) if isinstance(optimizer, torch.optim.AdamW) else int(first)
            else:
                if key not in ("weight", *state):
                    state[key] = torch.zeros_like(held)
                into = held.data if key == "weight" else state[key]
                part = _span([piece[key].flatten() for piece in pieces[name]], offset, count)
                into.view(-1)[start : start + len(part)] = part
    if stage == 3:
        zero.load_state_dict([zero.state_dict()] * update.accelerator.num_processes)  # renews the model's weights
        zero.checkpoint_event_epilogue()
    elif stage:
        zero.update_lp_params()


def _held(update: Update) -> Iterator[tuple[str, Tensor, int, int, int]]:
    """This rank's part of each trained parameter: the name, the tensor that the optimizer steps, where the part starts
    in it, where in the flat parameter, and its elements (with the padding)."""
    stage, zero = zero_stage(update.accelerator), update.optimizer.optimizer
    if stage is None:
        yield from ((name, parameter, 0, 0, parameter.numel()) for name, parameter in _trained(update))
    elif stage == 3:
        rank = update.accelerator.process_index
        for group, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
            starts = accumulate([parameter.partition_numel() for parameter in group], initial=0)
            for parameter, start in zip(group, starts, strict=False):
                count = parameter.partition_numel()
                yield zero.param_names[parameter], flat, start, rank * count, count
    else:
        for group, flat in zip(zero.bit16_groups, zero.single_partition_of_fp32_groups, strict=True):
            for parameter in group:
                if (mapping := parameter._hp_mapping) is not None:
                    place, own = mapping.hp_fragment_address, mapping.lp_fragment_address
                    yield zero.param_names[parameter], flat, place.start, own.start, own.numel


def _trained(update: Update) -> list[tuple[str, Tensor]]:
    model = update.accelerator.unwrap_model(update.model)
    return [each for each in model.named_parameters() if each[1].requires_grad]


def _span(parts: Sequence[Tensor], start: int, count: int) -> Tensor:
    """Elements ``start`` to ``start + count`` of ``parts`` laid end to end; fewer where they end before."""
    begins = accumulate(map(len, parts), initial=0)
    return torch.cat([p[max(0, start - b) : max(0, start + count - b)] for p, b in zip(parts, begins, strict=False)])
