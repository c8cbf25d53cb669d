"""Weights that reach the engine whole, and every way of not reaching it that must be loud."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from posttrain.errors import EngineError, WeightSyncError
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import Rollout, RolloutRequest

Make = Callable[..., RolloutRequest]
Perturb = Callable[..., None]

PROMPT = [80, 90, 100, 110, 120]
LONG_PROMPT = [70 + i % 60 for i in range(200)]  # longer than a block of vLLM's prefix cache (128 tokens)


@torch.no_grad()
def assert_engine_runs(engine: RolloutEngine, policy: Any, request: RolloutRequest) -> list[Rollout]:
    """The engine's behaviour log-probs are those of ``policy``."""
    rollouts = engine.generate([request])
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        logits = policy(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
        expected = logits.log_softmax(-1)[range(len(logits)), rollout.completion_ids].tolist()
        assert rollout.logprobs == pytest.approx(expected, abs=1e-4)
    return rollouts


class AlteringEngine:
    """An engine whose transfer loses, swaps or damages what ``alter`` says."""

    def __init__(self, engine: RolloutEngine, alter: Callable[[str, Tensor], list[tuple[str, Tensor]]]) -> None:
        self.engine = engine
        self.alter = alter

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, Tensor]]], version: int) -> None:
        altered = ([out for name, tensor in bucket for out in self.alter(name, tensor)] for bucket in buckets)
        self.engine.update_weights(altered, version)


@pytest.mark.parametrize("bucket_bytes", [1, 100_000, 1 << 30])
def test_a_full_sync_in_buckets(
    engine: RolloutEngine, policy: Any, perturb: Perturb, make_request: Make, bucket_bytes: int
) -> None:
    perturb(policy, seed=2)
    report = sync_weights(policy, engine, version=7, bucket_bytes=bucket_bytes)
    assert report.tensors == len(list(policy.parameters()))
    assert report.bytes == sum(parameter.nbytes for parameter in policy.parameters())
    assert report.buckets == (1 if bucket_bytes == 1 << 30 else report.buckets)
    assert report.buckets > 1 or bucket_bytes == 1 << 30
    rollouts = assert_engine_runs(engine, policy, make_request(PROMPT, n=8))
    assert {rollout.policy_version for rollout in rollouts} == {7}


def test_syncs_one_after_another(engine: RolloutEngine, policy: Any, perturb: Perturb, make_request: Make) -> None:
    for version in range(1, 4):
        perturb(policy, seed=version, scale=0.03)
        sync_weights(policy, engine, version=version)
        assert_engine_runs(engine, policy, make_request(PROMPT, n=4))


def test_a_merged_adapter_arrives(engine: RolloutEngine, policy: Any, perturb: Perturb, make_request: Make) -> None:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(policy, LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    perturb(adapted, seed=3, scale=0.05)
    before = {name: parameter.clone() for name, parameter in adapted.named_parameters()}
    sync_weights(adapted, engine, version=1)
    assert_engine_runs(engine, adapted, make_request(PROMPT, n=8))
    for name, parameter in adapted.named_parameters():
        assert torch.equal(parameter, before[name]), name
    with adapted.disable_adapter(), pytest.raises(AssertionError):
        assert_engine_runs(engine, adapted, make_request(PROMPT, n=8))


def test_an_adapter_that_never_arrives_fails(engine: RolloutEngine, policy: Any, perturb: Perturb) -> None:
    from peft import LoraConfig, get_peft_model

    base = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    adapted = get_peft_model(policy, LoraConfig(r=4, target_modules=["o_proj"], task_type="CAUSAL_LM"))
    perturb(adapted, seed=3, scale=0.05)
    without = AlteringEngine(engine, lambda name, tensor: [(name, base[name] if "o_proj" in name else tensor)])
    with pytest.raises(WeightSyncError, match=r"layers\.0\.self_attn\.o_proj\.weight: the engine has .* sent "):
        sync_weights(adapted, without, version=1)


def test_the_tied_head_follows_the_embedding(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    with torch.no_grad():
        embedding = policy.get_input_embeddings().weight
        embedding.copy_(embedding[torch.randperm(len(embedding), generator=torch.Generator().manual_seed(0))])
    sync_weights(policy, engine, version=1)
    assert_engine_runs(engine, policy, make_request(PROMPT, n=8))


def test_no_cache_of_the_old_weights_is_used(
    engine: RolloutEngine, policy: Any, perturb: Perturb, make_request: Make
) -> None:
    engine.generate([make_request(LONG_PROMPT, temperature=0)])
    perturb(policy, seed=4)
    sync_weights(policy, engine, version=1)
    assert_engine_runs(engine, policy, make_request(LONG_PROMPT, n=2, max_completion_tokens=4))


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.0.self_attn.v_proj.weight",
        "model.layers.1.self_attn.k_proj.bias",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
    ],
)
class TestSabotage:
    """One tensor goes wrong; the error names it."""

    def test_stale(self, engine: RolloutEngine, policy: Any, perturb: Perturb, name: str) -> None:
        stale = policy.get_parameter(name).clone()
        perturb(policy, seed=5, scale=1e-4)
        sabotaged = AlteringEngine(engine, lambda n, tensor: [(n, stale if n == name else tensor)])
        with pytest.raises(WeightSyncError) as error:
            sync_weights(policy, sabotaged, version=1)
        assert f"{name}" in str(error.value)
        assert "the trainer sent" in str(error.value)
        sync_weights(policy, engine, version=2)

    def test_lost(self, engine: RolloutEngine, policy: Any, name: str) -> None:
        sabotaged = AlteringEngine(engine, lambda n, tensor: [] if n == name else [(n, tensor)])
        with pytest.raises(WeightSyncError, match=name.replace(".", r"\.")):
            sync_weights(policy, sabotaged, version=1)
        sync_weights(policy, engine, version=2)

    def test_of_another_shape(self, engine: RolloutEngine, policy: Any, name: str) -> None:
        sabotaged = AlteringEngine(engine, lambda n, tensor: [(n, tensor[:-1] if n == name else tensor)])
        with pytest.raises(WeightSyncError, match=name.replace(".", r"\.")):
            sync_weights(policy, sabotaged, version=1)
        sync_weights(policy, engine, version=2)


def test_an_unknown_tensor_is_refused(engine: RolloutEngine, policy: Any) -> None:
    renamed = AlteringEngine(engine, lambda n, tensor: [(n.replace("model.norm", "model.last_norm"), tensor)])
    with pytest.raises(WeightSyncError, match=r"model\.last_norm\.weight"):
        sync_weights(policy, renamed, version=1)
    sync_weights(policy, engine, version=2)


def test_a_weight_that_is_not_a_number_is_named(engine: RolloutEngine, policy: Any) -> None:
    with torch.no_grad():
        policy.model.norm.weight[3] = torch.nan
    with pytest.raises(WeightSyncError, match=r"model\.norm\.weight: the engine has nan"):
        sync_weights(policy, engine, version=1)


def test_another_version_is_refused(engine: RolloutEngine, policy: Any) -> None:
    class Stamping(AlteringEngine):
        def update_weights(self, buckets: Iterable[Sequence[tuple[str, Tensor]]], version: int) -> None:
            self.engine.update_weights(buckets, version - 1)

    with pytest.raises(WeightSyncError, match="policy version 3 after a sync to 4"):
        sync_weights(policy, Stamping(engine, lambda n, t: [(n, t)]), version=4)


def test_a_deadline_that_has_passed_stops_the_sync(engine: RolloutEngine, policy: Any) -> None:
    with pytest.raises(WeightSyncError, match=r"more than 0 s, by model\.embed_tokens\.weight"):
        sync_weights(policy, engine, version=1, deadline_s=0.0, bucket_bytes=1)
    sync_weights(policy, engine, version=2)


def test_weights_stay_while_rollouts_are_outstanding(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    engine.submit([make_request(PROMPT)])
    with pytest.raises(EngineError, match="outstanding"):
        sync_weights(policy, engine, version=1)
    assert len(list(engine.finished())) == 1
