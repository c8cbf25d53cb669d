"""The page on planning: its table, its picture and its assumptions are those of the code."""

import importlib.util
from pathlib import Path

import pytest

from posttrain.capacity import hardware

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "planning.md").read_text()


@pytest.mark.slow
def test_the_table_and_the_picture_are_the_models() -> None:
    spec = importlib.util.spec_from_file_location("scale_picture", ROOT / "scripts" / "scale_picture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    table = module.scale(module.workload(), module.parse_cluster("8xH100", 1))
    assert f"\n{module.rows(table)}\n" in PAGE
    assert module.picture(table) == (ROOT / "docs" / "planning.svg").read_text()


def test_the_assumptions_are_the_constants() -> None:
    shares = (hardware.ARITHMETIC_SHARE, hardware.BANDWIDTH_SHARE, hardware.LINK_SHARE, hardware.MEMORY_SHARE)
    assert shares == (0.4, 0.7, 0.7, 0.9)
    text = " ".join(PAGE.split())
    assert "40 % of the peak bfloat16 operations, 70 % of the memory's and of the links' bandwidth, 90 % of" in text
    assert ", ".join(list(hardware.GPUS)[:3]) + f" and {list(hardware.GPUS)[3]}" in text
