"""The stream of several kinds: exact counts, exact resume, and a clear word where a kind is missing."""

import pytest

from posttrain.data.mixture import MixtureSampler, mixed_counts
from posttrain.data.sampler import ExampleSampler
from posttrain.errors import DataError
from posttrain.types import Example, TaskKind

MIX = {"verifiable": 0.5, "preference": 0.25, "open": 0.25}
KINDS: list[TaskKind] = ["open", "verifiable", "preference"]
EXAMPLES = [Example(f"{kind}{n}", "p", task=kind) for n in range(5) for kind in KINDS]


@pytest.mark.parametrize(
    ("mix", "total", "counts"),
    [
        ((0.5, 0.25, 0.25), 128, [64, 32, 32]),
        ((0.5, 0.25, 0.25), 10, [5, 3, 2]),
        ((0.5, 0.25, 0.25), 7, [3, 2, 2]),
        ((1 / 3, 1 / 3, 1 / 3), 128, [43, 43, 42]),
        ((1.0, 0.0, 0.0), 9, [9, 0, 0]),
        ((0.1, 0.2, 0.7), 10, [1, 2, 7]),  # 10 * 0.7 is below 7 in floating point
    ],
)
def test_largest_remainders(mix: tuple[float, ...], total: int, counts: list[int]) -> None:
    assert list(mixed_counts(dict(zip(MIX, mix, strict=True)), total).values()) == counts


def test_each_kind_is_drawn_as_if_alone() -> None:
    sampler = MixtureSampler(EXAMPLES, MIX, seed=4)
    drawn = [example for _ in range(3) for example in sampler.next(8)]
    for kind, number in (("verifiable", 12), ("preference", 6), ("open", 6)):
        alone = ExampleSampler([example for example in EXAMPLES if example.task == kind], seed=4)
        assert [example for example in drawn if example.task == kind] == alone.next(number)
    assert [example.task for example in drawn[:8]] == ["verifiable"] * 4 + ["preference"] * 2 + ["open"] * 2


def test_it_goes_on_where_it_was_also_after_the_mix_changed() -> None:
    whole, cut, resumed = (MixtureSampler(EXAMPLES, MIX, seed=4) for _ in range(3))
    changed = {"verifiable": 0.5, "preference": 0.5, "open": 0.0}
    for sampler in (whole, cut):
        sampler.next(7)
        sampler.mix = changed
        sampler.next(5)
    resumed.load_state_dict(cut.state_dict())
    resumed.mix = changed
    assert [whole.next(6) for _ in range(4)] == [resumed.next(6) for _ in range(4)]


def test_a_missing_kind_and_a_foreign_checkpoint_are_named() -> None:
    labelled = [example for example in EXAMPLES if example.task != "open"]
    with pytest.raises(DataError, match=r"gives open a share of 0\.25, but no training example is of that task"):
        MixtureSampler(labelled, MIX)
    state = MixtureSampler(labelled, {**MIX, "preference": 0.5, "open": 0.0}).state_dict()
    with pytest.raises(DataError, match="the checkpoint samples verifiable, preference, this run verifiable, "):
        MixtureSampler(EXAMPLES, MIX).load_state_dict(state)
