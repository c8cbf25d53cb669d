"""The page on rewards: its code runs, its YAML loads, the files that it names are there."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

PAGE = Path(__file__).parents[2] / "docs" / "rewards.md"
TEXT = PAGE.read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_a_reward_of_ones_own() -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[0], names)
    reward = names["ShortAnswer"](cost_per_word=0.25)
    outputs = score_checked(
        reward, [RewardInput(Example("a", "2+3=", "5"), "it is 5"), RewardInput(Example("b", "2+3="), "5")]
    )
    assert (outputs[0].score, outputs[0].parts) == (0.25, {"right": 1.0, "words": 3.0})
    assert outputs[1].error == "invalid_input"


def test_the_other_code_runs() -> None:
    for block in blocks("python")[1:]:
        exec(block, {})


@pytest.mark.parametrize("block", blocks("yaml"))
def test_yaml_is_valid(block: str) -> None:
    TypeAdapter(RewardConfig).validate_python(yaml.safe_load(block)["reward"]).build().close()


def test_files_and_types_exist() -> None:
    files = re.findall(r"\]\(\.\./(.*?)\)", TEXT)
    assert files
    assert [file for file in files if not (PAGE.parents[1] / file).is_file()] == []
    schemas = TypeAdapter(RewardConfig).json_schema()["$defs"].values()
    known = {schema["properties"]["type"].get("const") for schema in schemas if "type" in schema.get("properties", {})}
    table = TEXT.split("## Choose one")[1].split("##")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("|")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2]) if row[2].strip() != "`type`"}
    assert len(named) > 15
    assert named <= known
