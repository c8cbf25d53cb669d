"""Each phase against numbers worked out by hand."""

from dataclasses import replace
from typing import Any

import pytest

from posttrain.capacity import speed
from posttrain.capacity.hardware import Cluster, Device
from posttrain.capacity.workload import POLICY

# 100 GB, 10^14 operations, 10^12 bytes a second of memory, 10^11 of link, 10^10 of network.
MACHINES = Cluster(Device("round", 1e11, 1e14, 1e12, 1e11, 1e10), per_node=8, nodes=4)


def test_decoding_reads_weights_and_cache(workload: Any) -> None:
    """(2e9 + 10 x 300 x 1e5) / 1e12 s; the arithmetic, 2e10 / 1e14, is far below."""
    token = speed.decode(workload(), MACHINES, 1, batch=10)
    assert token.seconds == pytest.approx(2.3e-3)
    assert token.bound == "memory bandwidth"


def test_decoding_of_many_short_rollouts_is_arithmetic(workload: Any) -> None:
    short = replace(workload(), prompt_tokens=0.0, completion_tokens=2.0)
    token = speed.decode(short, MACHINES, 1, batch=1000)  # 2e12 / 1e14 against 2.1e9 / 1e12
    assert (token.seconds, token.bound) == (pytest.approx(0.02), "arithmetic")


def test_tensor_parallel_divides_the_reading_and_adds_the_exchange(workload: Any) -> None:
    """4 GPUs: 2.3e-3 / 4, and 20 layers x 2 x (1e-5 + 1.5 x 10 x 2000 x 2 / 1e11)."""
    token = speed.decode(workload(), MACHINES, 4, batch=10)
    assert token.seconds == pytest.approx(2.3e-3 / 4 + 40 * (1e-5 + 6e-7))
    tiny = replace(workload(), models={POLICY: (10**6, 10**6)}, cache_bytes=1)
    assert speed.decode(tiny, MACHINES, 4, batch=10).bound == "tensor parallel exchange"


def test_generation_is_prefill_and_waves_of_decoding(workload: Any) -> None:
    """512 rollouts on 8 engines, 64 each, 32 at a time: 2 x 1e9 x 64 x 100 / 1e14, and 2 x 400 steps of
    (2e9 + 32 x 300 x 1e5) / 1e12 s."""
    assert speed.generate(workload(), MACHINES, 8, 1, batch=32).seconds == pytest.approx(0.128 + 800 * 2.96e-3)
    whole = speed.generate(workload(), MACHINES, 8, 1, batch=1000).seconds
    assert whole == pytest.approx(0.128 + 400 * (2e9 + 64 * 3e7) / 1e12)


def test_an_engine_has_at_least_one_rollout(workload: Any) -> None:
    lonely = speed.generate(workload(), MACHINES, 1024, 1, batch=32).seconds
    assert lonely == pytest.approx(2e11 / 1e14 + 400 * 2.03e-3)


@pytest.mark.parametrize(
    ("model", "trained", "operations"),
    [
        ({}, 10**9, 6e9),
        ({"gradient_checkpointing": True}, 10**9, 8e9),
        ({"lora": {"rank": 8}}, 10**6, 4e9),
        ({"lora": {"rank": 8}, "gradient_checkpointing": True}, 10**6, 6e9),
    ],
)
def test_operations_of_an_update(
    model: dict[str, object], trained: int, operations: float, job: Any, workload: Any
) -> None:
    work = workload(job(model=model), {POLICY: (10**9, trained)})
    assert work.update_operations == operations
    seconds = speed.learn(work, MACHINES, 1, 1)["update"].seconds  # 256,000 tokens
    assert seconds == pytest.approx(operations * 256_000 / 1e14)


def test_every_other_model_reads_the_tokens_and_those_trained_learn(job: Any, workload: Any) -> None:
    """A reference and a token reward model: two forwards, two updates; passes go through the rollouts again."""
    models = {POLICY: (10**9, 10**9), "reference model": (10**9, 0), "token reward model": (10**9, 10**9)}
    phases = speed.learn(workload(job(updates_per_step=3), models), MACHINES, 8, 2)
    assert phases["score"].seconds == pytest.approx(2 * 2e9 * 256_000 / 8e14)
    assert phases["update"].seconds == pytest.approx(3 * 2 * 6e9 * 256_000 / 8e14)
    assert speed.learn(workload(), MACHINES, 8, 2)["score"].seconds == 0


def test_the_exchange_of_small_micro_batches_is_longer_than_their_arithmetic(job: Any, workload: Any) -> None:
    """16 ranks over two machines, 16,000 tokens each in 16 micro-batches: ZeRO-3 moves 3 x 2e9 bytes in each."""
    work = workload(job(tokens_per_micro_batch=1000))
    assert work.micro_batches(16) == 16
    update = speed.learn(work, MACHINES, 16, 3)["update"]
    assert (update.seconds, update.bound) == (pytest.approx(16 * 6e9 / 1e10), "link")
    assert speed.learn(work, MACHINES, 16, 2)["update"].seconds == pytest.approx(6e9 * 256_000 / 16e14)  # arithmetic
    often = workload(job(tokens_per_micro_batch=1000, minibatches_per_step=10))
    assert speed.learn(often, MACHINES, 16, 2)["update"].seconds == pytest.approx(10 * 2 * 2e9 / 1e10)
    scored = workload(job(tokens_per_micro_batch=1000), {POLICY: (10**9, 10**9), "reference model": (10**9, 0)})
    assert speed.learn(scored, MACHINES, 16, 3)["score"].seconds == pytest.approx(16 * 2e9 / 1e10)


@pytest.mark.parametrize(("gpus", "rate"), [(1, 1e12), (8, 1e11), (32, 1e10)])
def test_the_sync_moves_the_weights_once(gpus: int, rate: float, workload: Any) -> None:
    assert speed.sync(workload(), MACHINES, gpus).seconds == pytest.approx(2e9 / rate)


def test_more_gpus_are_never_slower_to_generate_or_to_compute(workload: Any) -> None:
    work, counts = workload(), [2**power for power in range(11)]
    generated = [speed.generate(work, MACHINES, gpus, 1, batch=16).seconds for gpus in counts]
    assert generated == sorted(generated, reverse=True)
    assert generated[0] > 10 * generated[5]
    unlinked = replace(MACHINES, device=Device("no wait", 1e11, 1e14, 1e12, 1e30, 1e30))
    updated = [speed.learn(work, unlinked, gpus, 2)["update"].seconds for gpus in counts]
    assert updated == pytest.approx([updated[0] / gpus for gpus in counts])
