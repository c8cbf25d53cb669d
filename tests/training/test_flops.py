"""The arithmetic of an update: what PyTorch counts in the same forward and backward pass."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.trainers import policy_trainer
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.training import flops
from posttrain.training.flops import peak_flops, update_flops
from posttrain.training.model import add_adapter, backbone_of, load_causal_lm, packed_hidden_states
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.packing import MicroBatch, collate
from posttrain.training.update import LossOutput
from posttrain.types import Example, Origin, TrainingSample


class LikelihoodTrainer(PolicyTrainer):
    method = "likelihood"

    def loss(self, logprobs: torch.Tensor, entropy: torch.Tensor, batch: MicroBatch) -> LossOutput:
        return LossOutput(-logprobs.sum())


def batch_of(*lengths: tuple[int, int]) -> MicroBatch:
    """A micro-batch of samples with so many (prompt, trained) tokens."""
    return collate(
        [
            TrainingSample(
                id="",
                input_ids=[7] * (prompt + trained),
                origin=[Origin.PROMPT] * prompt + [Origin.POLICY] * trained,
                trained=[0] * prompt + [1] * trained,
                token_weights=[0.0] * prompt + [1.0] * trained,
                behaviour_logprobs=[0.0] * (prompt + trained),
            )
            for prompt, trained in lengths
        ]
    )


def test_matrices_and_causal_attention_are_counted(tiny_model_folder: Path) -> None:
    """2 layers, hidden 64, MLP 128, 2 heads and 1 key-value head of 32, 261 tokens, tied embeddings."""
    model = load_causal_lm(tiny_model_folder, ModelConfig(path=str(tiny_model_folder)))
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    expected = 6 * 2 * layer * 30 + 6 * 261 * 64 * 18 + 6 * 2 * 64 * (10**2 + 20**2)
    assert update_flops(model, batch_of((4, 6), (8, 12))) == expected


def test_pytorch_counts_the_same_matrices(tiny_model_folder: Path) -> None:
    """In the decoder below the head; PyTorch counts attention as if it were not causal."""
    model = load_causal_lm(tiny_model_folder, ModelConfig(path=str(tiny_model_folder)))
    batch = batch_of((4, 6), (8, 12))
    with FlopCounterMode(display=False) as counter:
        packed_hidden_states(backbone_of(model), batch).sum().backward()
    attention_and_head = 6 * 2 * 64 * (10**2 + 20**2) + 6 * 261 * 64 * 18
    matrices = sum(count for op, count in counter.get_flop_counts()["Global"].items() if "mm" in str(op))
    assert matrices == update_flops(model, batch) - attention_and_head


def test_a_frozen_weight_has_no_gradient(tiny_model_folder: Path) -> None:
    model = load_causal_lm(tiny_model_folder, ModelConfig(path=str(tiny_model_folder)))
    batch = batch_of((4, 6))
    whole = update_flops(model, batch)
    layer = 64 * (64 + 32 + 32 + 64) + 3 * 64 * 128
    adapter = 2 * (2 * (64 + 64) + 2 * (64 + 32) + 2 * (64 + 128) + (128 + 64))  # rank 2 on every linear layer
    adapted = update_flops(add_adapter(model, LoRAConfig(rank=2, alpha=2.0)), batch)
    assert adapted == whole - 2 * 2 * layer * 10 - 2 * 261 * 64 * 6 + 6 * 2 * adapter * 10


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peak_is_the_devices(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(SimpleNamespace(type="cuda")) == peak
    assert peak_flops(torch.device("cpu")) is None


def test_an_update_logs_its_share_of_the_peak(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two micro-batches in each of two updates, 7 operations each, in 2 seconds at 28 operations a second."""
    trainer = LikelihoodTrainer(
        tiny_model_folder,
        PolicyTrainerConfig(tokens_per_micro_batch=16, updates_per_step=2, sampling={"max_completion_tokens": 8}),
        reward=ExactIntegerReward(),
        train_dataset=[Example(id="", prompt="1+1=")],
    )
    samples = [sample for _ in range(2) for sample in batch_of((4, 6)).samples]
    assert "speed/mfu" not in trainer.update_policy(samples)
    monkeypatch.setattr(flops, "peak_flops", lambda device: 28.0)
    monkeypatch.setattr(flops, "update_flops", lambda model, batch: 7)
    monkeypatch.setattr(policy_trainer, "time", SimpleNamespace(perf_counter=iter([10.0, 12.0]).__next__))
    assert trainer.update_policy(samples)["speed/mfu"] == 0.5
