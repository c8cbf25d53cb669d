"""Some seconds of the job's model on this machine: the rates that it really reaches."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from posttrain.capacity.hardware import MEMORY_SHARE, Device
from posttrain.capacity.workload import Workload
from posttrain.data.tiny_model import create_tiny_model
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.training.model import PolicyModel, load_causal_lm
from posttrain.training.packing import collate
from posttrain.types import Example, Origin, RolloutRequest, Sampling, TrainingSample

SECONDS, MOST_TOKENS, MOST_ROLLOUTS, MOST_STEPS = 2.0, 2048, 64, 32


def probe_device(work: Workload) -> Device:
    """This machine's GPU, or its CPU if it has none: ``flops`` are the formula's of an update at the measured forward
    and backward passes, ``bandwidth`` the formula's of decoding at the measured steps of the transformers engine.

    Raises:
        UserError: the model cannot be loaded.
    """
    name, memory = "CPU", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
    model = work.job.model
    with TemporaryDirectory() as scratch:
        folder = Path(model.path or scratch) if model.tiny is None else create_tiny_model(scratch, model.tiny)
        flops, bandwidth = update_rate(work, folder), decode_rate(work, folder)
    return Device(name, MEMORY_SHARE * memory, flops, bandwidth, bandwidth, bandwidth)


def update_rate(work: Workload, folder: Path) -> float:
    """Operations a second of forward and backward passes over packed samples of mean length."""
    config, length = work.job.model, int(work.prompt_tokens + work.completion_tokens)
    count = max(1, min(work.job.trainer.tokens_per_micro_batch, MOST_TOKENS) // length)
    numbers = [1.0] * length
    sample = TrainingSample("probe", [1] * length, [Origin.POLICY] * length, [1] * length, numbers, numbers)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    policy = PolicyModel(load_causal_lm(folder, config), 1.0, config.logits_chunk_size).to(device).train()
    batch = collate([sample] * count).to(device)
    seconds = _seconds(lambda: policy(batch)[0].sum().backward())
    return (6 + 2 * config.gradient_checkpointing) * work.parameters * count * length / seconds


def decode_rate(work: Workload, folder: Path) -> float:
    """Bytes of weights and cache a second."""
    dtype = getattr(work.job.engine, "dtype", work.job.model.dtype)
    engine = TransformersEngineConfig(dtype=dtype).build(folder)
    sampling = Sampling(max_completion_tokens=int(min(MOST_STEPS, work.completion_tokens)))
    ids, rollouts = [1] * int(work.prompt_tokens), min(MOST_ROLLOUTS, work.rollouts)
    request = RolloutRequest("probe", Example("probe", ""), ids, sampling, seed=0, n=rollouts)
    steps = max(len(rollout.completion_ids) for rollout in engine.generate([request]))
    seconds = _seconds(lambda: engine.generate([request])) / steps
    engine.close()
    return (work.engine_weights + rollouts * (len(ids) + steps / 2) * work.cache_bytes) / seconds


def _seconds(work: Callable[[], object]) -> float:
    """Mean time of ``work`` in ``SECONDS`` or more, after one call to warm up."""
    work()
    calls, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < SECONDS:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        calls += 1
    return elapsed / calls
