"""What a checkpoint was written by is compared with who wants to read it."""

import json
from pathlib import Path

import pytest
from accelerate import Accelerator
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.layout import LAYOUT_FILE, check_layout, write_layout


def written(folder: Path, **changes: int) -> Path:
    write_layout(folder, Accelerator(cpu=True), [nn.Linear(2, 3)])
    layout = json.loads((folder / LAYOUT_FILE).read_text())
    (folder / LAYOUT_FILE).write_text(json.dumps(layout | changes))
    return folder


def test_without_deepspeed_any_number_of_ranks_goes_on(tmp_path: Path) -> None:
    check_layout(written(tmp_path, ranks=8), Accelerator(cpu=True), [nn.Linear(2, 3)])


def test_what_deepspeed_split_by_rank_is_not_read_otherwise(tmp_path: Path) -> None:
    said = r"written by 4 ranks under ZeRO-2, and this launch has 1 rank under no DeepSpeed.*\(--num_processes 4\)"
    with pytest.raises(CheckpointError, match=said):
        check_layout(written(tmp_path, ranks=4, zero_stage=2), Accelerator(cpu=True), [nn.Linear(2, 3)])


def test_another_model_is_named_by_its_parameter(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of another model: 0\.weight is 3x2 there and 4x2 here, and 1 more"):
        check_layout(written(tmp_path), Accelerator(cpu=True), [nn.Linear(2, 4)])
    with pytest.raises(CheckpointError, match=r"1\.weight is missing there and 1x1 here\. Resume with"):
        check_layout(tmp_path, Accelerator(cpu=True), [nn.Linear(2, 3), nn.Linear(1, 1, bias=False)])
