"""Activations counted on the meta device, against a count by hand, an independent model, and the real peak."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen2Config

from posttrain.capacity.memory import activation_bytes
from posttrain.capacity.placement import trainer_memory
from posttrain.capacity.workload import POLICY, empty_model

ROOT = Path(__file__).parents[2]
CASES = [
    {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 8192, "tokens": 1024},
    {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 3, "vocab_size": 1024, "tokens": 1024},
    {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "vocab_size": 1024, "tokens": 2048},
]
CHECKPOINTING = [False, False, True]


def config_of(case: dict[str, Any]) -> Any:
    sizes = {name: size for name, size in case.items() if name != "tokens"}
    return Qwen2Config(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, **sizes)


def test_the_count_grows_with_layers_and_width_of_a_number() -> None:
    def count(layers: int, dtype: str = "float32", checkpointing: bool = False) -> float:
        config = LlamaConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=100,
        )
        return activation_bytes(empty_model(config, dtype), checkpointing)

    one, two, three = (count(layers) for layers in (1, 2, 3))
    assert three - two == two - one > 0
    assert one > count(1, "bfloat16") > one / 2  # norms are computed in float32
    assert count(3, checkpointing=True) < three
    kept = [count(layers, checkpointing=True) for layers in (2, 3)]
    assert kept[1] - kept[0] == pytest.approx(64 * 4, rel=0.2)  # a layer's input


def test_the_count_of_a_known_model() -> None:
    """One layer of width h = 256, MLP of 4 h, 4 heads and 2 key-value heads, in float32, by hand.

    Saved numbers a token: 4 h by two norms (input and normed), h by the output projection, 16 h by the MLP (gate,
    activated, up, product), at least 2 h of queries, keys and values and 2 h by the last norm; 3 h are held
    beside them. Keys and values repeated for each head and rotary embeddings add at most 4 h.
    """
    config = Qwen2Config(
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=4096,
    )
    counted = activation_bytes(empty_model(config), False) / 4 / 256
    assert 4 + 1 + 16 + 2 + 2 + 3 <= counted <= 4 + 1 + 16 + 2 + 2 + 3 + 4


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_real_peak_is_within_a_fifth(job: Any, workload: Any) -> None:
    """Without the two variables malloc keeps what is freed, and the peak is that of the allocator."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    arguments = [json.dumps({**case, "checkpointing": on}) for case, on in zip(CASES, CHECKPOINTING, strict=True)]
    command = [sys.executable, str(Path(__file__).with_name("peak_memory.py")), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    assert len(peaks) == len(CASES)
    for case, checkpointing, peak in zip(CASES, CHECKPOINTING, peaks, strict=True):
        model = empty_model(config_of(case))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        work = replace(
            workload(job(model={"dtype": "float32"}, tokens_per_micro_batch=case["tokens"])),
            model=model.config,
            models={POLICY: (parameters, parameters)},
            activation_bytes=activation_bytes(model, checkpointing),
        )
        expected = sum(trainer_memory(work, 1, None).values())
        print(f"{case} checkpointing {checkpointing}: {peak / 1e6:.0f} MB, expected {expected / 1e6:.0f} MB")
        assert expected == pytest.approx(peak, rel=0.2), case
