"""What every test shares: one thread, no network, a tiny model."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["DS_ACCELERATOR"] = "cpu"
os.environ["DS_LOG_LEVEL"] = "error"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import BaseServer

import hypothesis
import pytest

from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model

# A test is not timed: on a busy machine the first example of a property may take seconds.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Results must not depend on how many cores a machine has."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model_config() -> TinyModelConfig:
    """The config of ``tiny_model_folder``: about 0.1 million parameters, one token for each byte."""
    return TinyModelConfig(hidden_size=64, intermediate_size=128, layers=2, heads=2, key_value_heads=1, max_length=256)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_config: TinyModelConfig) -> Path:
    """A tiny Qwen2 folder; tests read it and never write into it."""
    return create_tiny_model(tmp_path_factory.mktemp("tiny_model"), tiny_model_config)


@pytest.fixture
def serve() -> Iterator[Callable[[BaseServer], None]]:
    """Starts servers, each on a thread of its own; they end with the test."""
    with ExitStack() as stack:

        def start(server: BaseServer) -> None:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
            thread.start()
            for end in (thread.join, server.server_close, server.shutdown):
                stack.callback(end)

        yield start
