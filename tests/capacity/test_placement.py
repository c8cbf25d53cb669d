"""What fits where, and which layout is fastest."""

import itertools
from dataclasses import replace
from typing import Any

import pytest

from posttrain.capacity.hardware import GPUS, Cluster, Device
from posttrain.capacity.placement import (
    PLACEMENTS,
    RUNNABLE,
    Layout,
    estimate,
    fastest,
    layouts,
    scale,
    trainer_memory,
)
from posttrain.capacity.workload import POLICY, Workload
from posttrain.errors import JobError

MACHINE = Cluster(Device("round", 1e11, 1e14, 1e12, 1e11, 1e10), per_node=8)
H100 = Cluster(GPUS["H100"], per_node=8)


def test_the_parts_of_a_ranks_memory(seven: Workload) -> None:
    """bfloat16: 2 of weight, 2 of gradient, 12 of optimizer a parameter, the last two split by 4 under ZeRO-2."""
    parts = trainer_memory(seven, 4, 2)
    logits = parts.pop("a chunk of logits")
    assert logits == 2 * 4 * 256 * seven.model.vocab_size
    assert parts == {
        "weights": 14e9,
        "gradients": 14e9 / 4,
        "optimizer": 84e9 / 4,
        "reference model": 14e9,
        "activations": 8192 * 1e6,
    }


def test_a_rollout_longer_than_a_micro_batch_travels_alone(workload: Any) -> None:
    long = replace(workload(), longest=20_000)
    assert trainer_memory(long, 1, 1)["activations"] == 20_000 * 1e6


def test_ranks_that_share_sequences(job: Any, workload: Any) -> None:
    """A long rollout is shared, a micro-batch counts a rank's tokens already; and there are as many ranks as share."""
    work = replace(workload(job({"sequence_parallel": 4})), longest=80_000)
    assert trainer_memory(work, 4, 1)["activations"] == 20_000 * 1e6
    assert trainer_memory(replace(work, longest=1000), 4, 1)["activations"] == 8192 * 1e6
    assert {layout.ranks for layout in layouts(work, MACHINE, "colocated")} == {4, 8}
    with pytest.raises(JobError, match="takes more ranks than there are"):
        fastest(work, replace(MACHINE, per_node=2))


@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
def test_a_higher_stage_never_takes_more(ranks: int, seven: Workload) -> None:
    needs = [sum(trainer_memory(seven, ranks, stage).values()) for stage in (0, 1, 2, 3)]
    assert needs == sorted(needs, reverse=True)
    assert (needs[2] > needs[3]) == (ranks > 1)


def test_the_cache_gets_what_is_left_beside_the_states(job: Any, workload: Any) -> None:
    """16e9 of states and 2e9 of engine weights in 100e9; the activations (8.192e9) and logits pass while it sleeps."""
    work = workload()
    one = estimate(work, MACHINE, Layout("colocated", 1, 1, 1, 1, 1))
    assert one.memory["engine's cache"] == pytest.approx(82e9)
    assert one.batch == pytest.approx(82e9 / (500 * 1e5))
    awake = estimate(workload(job(engine="transformers")), MACHINE, one.layout)
    passing = one.memory["activations"] + one.memory["a chunk of logits"]
    assert awake.memory["engine's cache"] == pytest.approx(82e9 - passing)
    apart = estimate(work, MACHINE, Layout("split", 8, 4, 4, 2, 2))
    assert apart.memory["engine's cache"] == pytest.approx(99e9)
    assert apart.batch == pytest.approx(2 * 99e9 / (500 * 1e5))


def test_the_shortage_is_what_is_missing(workload: Any) -> None:
    work = workload()
    needs = sum(trainer_memory(work, 1, 1).values())
    small = replace(MACHINE, device=replace(MACHINE.device, memory=needs - 7))
    assert estimate(work, small, Layout("colocated", 1, 1, 1, 1, 1)).shortage == pytest.approx(7)
    assert estimate(work, MACHINE, Layout("colocated", 1, 1, 1, 1, 1)).shortage == 0
    # An engine's GPU of 2.05e9 bytes leaves 5e7 beside the weights, and a rollout of 1,000 tokens takes 1e8.
    tight = replace(workload(models={POLICY: (10**9, 0)}), activation_bytes=0.0, longest=1000)
    logits = trainer_memory(tight, 1, 1)["a chunk of logits"]
    narrow = replace(MACHINE, device=replace(MACHINE.device, memory=2e9 + logits))
    lacking = estimate(tight, narrow, Layout("split", 2, 1, 1, 1, 1))
    assert lacking.shortage == pytest.approx(max(0.0, 1e8 - logits))


def test_the_time_of_a_step_is_a_sum_or_a_maximum(seven: Workload) -> None:
    serial = estimate(seven, H100, Layout("split", 8, 4, 4, 1, 3))
    generate, score, update, sync = (phase.seconds for phase in serial.phases.values())
    assert serial.seconds == pytest.approx(generate + score + update + sync)
    overlapped = estimate(seven, H100, Layout("overlapped", 8, 4, 4, 1, 3))
    assert overlapped.seconds == pytest.approx(max(generate, score + update) + sync)
    assert min(generate, score, update, sync) > 0


def test_layouts_keep_to_machines_heads_and_prompts(job: Any, workload: Any) -> None:
    few = workload(job(prompts_per_step=4))
    for placement in PLACEMENTS:
        tried = list(layouts(few, replace(H100, nodes=2), placement))
        assert tried
        for layout in tried:
            assert layout.ranks <= 4
            assert layout.engine_gpus / layout.tensor_parallel <= 4
            assert 8 % layout.tensor_parallel == layout.engine_gpus % layout.tensor_parallel == 0
            together = layout.ranks if placement == "colocated" else layout.ranks + layout.engine_gpus
            assert layout.gpus == together <= 16


def test_the_fastest_is_no_slower_than_any_that_fits(seven: Workload) -> None:
    best = fastest(seven, H100)
    for placement in PLACEMENTS:
        times = [estimate(seven, H100, layout).seconds for layout in layouts(seven, H100, placement)]
        assert best[placement].seconds == min(times)
    assert best[RUNNABLE].layout.placement == "colocated"
    assert best[RUNNABLE].layout.tensor_parallel == 1
    assert best[RUNNABLE].seconds >= best["colocated"].seconds


def test_more_gpus_are_never_slower_and_overlap_wins_on_many(seven: Workload) -> None:
    table = scale(seven, H100)
    assert list(table) == [2**power for power in range(11)]
    assert table[1] == {}  # 112 GB of states on one GPU of 72
    for placement in PLACEMENTS:
        times = [found[placement].seconds for found in table.values() if placement in found]
        assert all(after <= before for before, after in itertools.pairwise(times))
    assert all(found["overlapped"].seconds <= found["split"].seconds for found in table.values() if "split" in found)
    assert table[1024]["overlapped"].seconds < table[1024]["colocated"].seconds


def test_a_job_that_fits_nowhere_says_what_is_short(seven: Workload) -> None:
    with pytest.raises(JobError) as caught:
        fastest(seven, Cluster(GPUS["L40S"], per_node=2))
    # The nearest is ZeRO-3 on two ranks: 112 / 2 + 14 / 2 GB, 8.192 of activations and the logits against 43.2.
    logits = 2 * 4 * 256 * seven.model.vocab_size / 1e9
    assert str(caught.value).startswith(
        "this job fits nowhere on 1 x 2 L40S: the nearest layout (colocated on 2, ZeRO-3, tensor parallel 2) is short "
        f"by {56 + 7 + 8.192 + logits - 43.2:.3g} GB a GPU of 43.2 GB to use; its largest part is optimizer, 42 GB."
    )
