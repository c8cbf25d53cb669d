"""Workloads with round numbers, for closed forms."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import Qwen2Config

from posttrain.capacity.workload import POLICY, Workload
from posttrain.job import Job
from posttrain.trainers.grpo_config import GRPOConfig

TINY = {"hidden_size": 32, "intermediate_size": 64, "layers": 1, "heads": 1, "key_value_heads": 1}


def make_job(model: dict[str, Any] | None = None, engine: str = "vllm", **trainer: Any) -> Job[Any]:
    settings: dict[str, Any] = {"prompts_per_step": 64, "rollouts_per_prompt": 8, "tokens_per_micro_batch": 8192}
    return Job[GRPOConfig].model_validate(
        {
            "method": "grpo",
            "model": {"tiny": TINY, "dtype": "bfloat16", **(model or {})},
            "data": {"type": "arithmetic"},
            "engine": {"type": engine, "dtype": "bfloat16"},
            "trainer": {**settings, "sampling": {"max_completion_tokens": 512}, **trainer},
        }
    )


def make_workload(planned: Job[Any] | None = None, models: dict[str, tuple[int, int]] | None = None) -> Workload:
    """10^9 parameters, 10^5 bytes of cache and 10^6 of activations a token, 512 rollouts of 100 + 400 tokens."""
    return Workload(
        job=planned or make_job(),
        model=Qwen2Config(hidden_size=2000, num_hidden_layers=20, num_attention_heads=16, num_key_value_heads=8),
        models=models or {POLICY: (10**9, 10**9)},
        cache_bytes=10**5,
        activation_bytes=1e6,
        prompt_tokens=100.0,
        completion_tokens=400.0,
        longest=1000,
    )


@pytest.fixture
def job() -> Callable[..., Job[Any]]:
    return make_job


@pytest.fixture
def workload() -> Callable[..., Workload]:
    return make_workload


@pytest.fixture
def seven() -> Workload:
    """Seven billion parameters and a reference model."""
    return replace(make_workload(), models={POLICY: (7 * 10**9, 7 * 10**9), "reference model": (7 * 10**9, 0)})
