"""The memory estimate against the published byte counts, and against a real adapter and optimizer."""

from pathlib import Path

import pytest
import torch

from posttrain.training.memory import Launch, deepspeed_estimate, frozen_bytes, lora_parameters, trained_bytes

SEVEN_BILLION = 7_600_000_000


@pytest.mark.parametrize("ranks", [1, 32])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_trained_parameter_in_bfloat16_takes_16_bytes(ranks: int, stage: int) -> None:
    """ZeRO (1910.02054), figure 1: 16; 4 + 12/N; 2 + 14/N; 16/N bytes for stages 0 to 3."""
    per_rank = trained_bytes(SEVEN_BILLION, SEVEN_BILLION, "bfloat16", Launch(ranks, ranks, zero_stage=stage))
    expected = {0: 16, 1: 4 + 12 / ranks, 2: 2 + 14 / ranks, 3: 16 / ranks}[stage]
    assert per_rank == pytest.approx(expected * SEVEN_BILLION, rel=1e-12)


def test_without_a_master_copy_every_number_has_the_weights_width() -> None:
    assert trained_bytes(100, 100, "float32", Launch()) == 1600
    assert trained_bytes(100, 100, "bfloat16", Launch()) == 800
    assert trained_bytes(100, 10, "float32", Launch()) == 400 + 120
    assert frozen_bytes(100, "bfloat16") == 200


def test_what_adamw_really_holds() -> None:
    """Counted on a real module after a real step."""
    layer = torch.nn.Linear(64, 32, bias=False)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 64)).sum().backward()
    optimizer.step()
    tensors = [layer.weight, layer.weight.grad, *optimizer.state[layer.weight].values()]
    held = sum(t.numel() * t.element_size() for t in tensors if t is not None and t.numel() > 1)
    assert held == trained_bytes(64 * 32, 64 * 32, "float32", Launch())


def test_lora_parameters_are_those_that_peft_trains(tiny_model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from posttrain.training.model import add_adapter
    from posttrain.training.model_config import LoRAConfig

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    expected = lora_parameters(model, 4)
    adapted = add_adapter(model, LoRAConfig(rank=4))
    assert sum(p.numel() for p in adapted.parameters() if p.requires_grad) == expected > 0


def test_the_launch_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ACCELERATE_USE_DEEPSPEED"):
        monkeypatch.delenv(name, raising=False)
    assert Launch.of_environment() == Launch()
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert Launch.of_environment() == Launch(16, 8)
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu")
    assert Launch.of_environment() == Launch(16, 8, zero_stage=3, offload_optimizer=True)


@pytest.mark.parametrize(("stage", "gpu_bytes"), [(2, 2 * 1000 + 18 * 1000 // 8), (3, 4 * 100 + 18 * 1000 // 8)])
def test_deepspeed_is_asked_for_its_own_estimate(stage: int, gpu_bytes: int) -> None:
    pytest.importorskip("deepspeed", reason="the extra posttrain[deepspeed] is not installed")
    _, gpu = deepspeed_estimate(1000, 100, Launch(ranks=8, ranks_per_node=8, zero_stage=stage))
    assert gpu == gpu_bytes
