"""What a checkpoint was written by is compared with who wants to read it."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.layout import LAYOUT_FILE, check_models, check_shares, is_shared_alike, write_layout


def written(folder: Path, **changes: int) -> Path:
    write_layout(folder, Accelerator(cpu=True), [nn.Linear(2, 3)])
    layout = json.loads((folder / LAYOUT_FILE).read_text())
    (folder / LAYOUT_FILE).write_text(json.dumps(layout | changes))
    return folder


@pytest.mark.parametrize(("wrote", "alike"), [({"ranks": 8}, True), ({"zero_stage": 2}, False)])
def test_without_deepspeed_any_number_of_ranks_is_alike(wrote: dict[str, int], alike: bool, tmp_path: Path) -> None:
    assert is_shared_alike(written(tmp_path, **wrote), Accelerator(cpu=True)) is alike


def test_a_loop_that_cannot_share_anew_says_how_it_was(tmp_path: Path) -> None:
    check_shares(written(tmp_path, ranks=8), Accelerator(cpu=True))
    said = r"written by 4 ranks under ZeRO-2, and this launch has 1 rank under no DeepSpeed.*\(--num_processes 4\)"
    with pytest.raises(CheckpointError, match=said):
        check_shares(written(tmp_path, ranks=4, zero_stage=2), Accelerator(cpu=True))


def test_another_model_is_named_by_its_parameter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of another model: 0\.weight is 3x2 there and 4x2 here, and 1 more"):
        check_models(written(tmp_path), Accelerator(cpu=True), [nn.Linear(2, 4)])
    with pytest.raises(CheckpointError, match=r"1\.weight is missing there and 1x1 here\. Resume with"):
        check_models(tmp_path, Accelerator(cpu=True), [nn.Linear(2, 3), nn.Linear(1, 1, bias=False)])
