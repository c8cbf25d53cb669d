"""The page on rollouts: its YAML loads, every engine and setting is there, and every metric is one that a step has."""

import re
from pathlib import Path

import yaml
from pydantic import TypeAdapter

from posttrain.rollout.config import EngineConfig, TransformersEngineConfig, VLLMEngineConfig, VLLMServerEngineConfig
from posttrain.trainers.grpo_config import GRPOConfig

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "rollouts.md").read_text()


def test_yaml_is_valid() -> None:
    block, tail = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert GRPOConfig.model_validate(yaml.safe_load(tail)["trainer"]).sampling_at(0).max_completion_tokens == 1024
    engines = [TypeAdapter(EngineConfig).validate_python(yaml.safe_load(line)["engine"]) for line in block.splitlines()]
    assert [engine.replicas for engine in engines] == [2, 2, 1]


def test_settings_and_engines_exist() -> None:
    configs = (TransformersEngineConfig, VLLMEngineConfig, VLLMServerEngineConfig)
    for config in configs:
        assert f"| `{config().type}` |" in TEXT
    known = {
        "engine": {name for config in configs for name in config.model_fields},
        "trainer": set(GRPOConfig.model_fields),
    }
    named = re.findall(r"`(engine|trainer)\.(\w+)", TEXT)
    assert len(named) >= 3 and all(field in known[section] for section, field in named)
    for setting in ("stall_s", "rollout_deadline_s", "sync_deadline_s", "weights_folder", "weight_transfer"):
        assert f"`{setting}" in TEXT and setting in known["engine"]


def test_metrics_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "posttrain" / "trainers").glob("*.py"))
    table = TEXT.split("## What to watch")[1]
    metrics = re.findall(r"`((?:policy|batch|speed)/\w+)`", table)
    assert len(metrics) == 6 and all(f'"{name}"' in sources for name in metrics)
