"""Environments of the tests, and a policy of random weights that acts in them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.agents.environment_pool import EnvironmentPool
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.transformers_engine import TransformersEngine
from posttrain.tasks.environment import EnvironmentTask


@pytest.fixture(autouse=True)
def custom_environments_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture(scope="module")
def policy(tiny_model_folder: Path) -> TransformersEngine:
    return TransformersEngine(tiny_model_folder, TransformersEngineConfig())


@pytest.fixture
def task_of() -> Iterator[Callable[..., EnvironmentTask]]:
    """Makes tasks of a custom environment, and ends their processes."""
    made: list[EnvironmentTask] = []

    def make(name: str, **keys: Any) -> EnvironmentTask:
        environment = {"type": f"custom_environments:{name}"}
        settings = {"workers": 1, "max_turn_tokens": 3, "environment": environment, **keys}
        made.append(EnvironmentTask.model_validate(settings))
        return made[-1]

    yield make
    for task in made:
        task._pool.close()


@pytest.fixture
def parity(task_of: Callable[..., EnvironmentTask], policy: TransformersEngine) -> EnvironmentEngine:
    """The policy in the environment ``Parity``."""
    return EnvironmentEngine(policy, EnvironmentPool(task_of("Parity")), max_turn_tokens=3)
