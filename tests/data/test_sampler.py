"""The order of examples is a function of the seed, and resuming changes nothing."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.pass_rate import PassRateBucket, filter_by_pass_rate, repeat_by_pass_rate
from posttrain.data.sampler import ExampleSampler
from posttrain.errors import DataError
from posttrain.types import Example


def examples(count: int) -> list[Example]:
    return [Example(id=str(number), prompt="p") for number in range(count)]


def ids(drawn: list[Example]) -> list[str]:
    return [example.id for example in drawn]


@given(
    size=st.integers(1, 20),
    before=st.lists(st.integers(0, 30), max_size=5),
    after=st.lists(st.integers(0, 30), max_size=5),
    seed=st.integers(0, 3),
)
def test_resuming_gives_what_would_have_come(size: int, before: list[int], after: list[int], seed: int) -> None:
    straight, resumed = ExampleSampler(examples(size), seed), ExampleSampler(examples(size), seed)
    for count in before:
        straight.next(count)
    resumed.load_state_dict(straight.state_dict())
    for count in after:
        assert ids(straight.next(count)) == ids(resumed.next(count))
    assert straight.state_dict() == resumed.state_dict()


@given(size=st.integers(1, 20), counts=st.lists(st.integers(0, 30), max_size=6))
def test_the_order_does_not_depend_on_how_many_are_taken_at_a_time(size: int, counts: list[int]) -> None:
    pieces = ExampleSampler(examples(size), 1)
    taken = [drawn for count in counts for drawn in ids(pieces.next(count))]
    assert taken == ids(ExampleSampler(examples(size), 1).next(sum(counts)))


def test_an_epoch_holds_every_example_once_and_the_next_differs() -> None:
    sampler = ExampleSampler(examples(50), 3)
    first, second = ids(sampler.next(50)), ids(sampler.next(50))
    assert sorted(first) == sorted(second) == sorted(ids(examples(50)))
    assert first != second
    assert first != ids(ExampleSampler(examples(50), 4).next(50))


def test_fewer_examples_than_asked_for() -> None:
    assert sorted(Counter(ids(ExampleSampler(examples(3), 0).next(8))).values()) == [2, 3, 3]


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    random.seed(1)
    before = random.getstate()
    first = ids(ExampleSampler(examples(10), 0).next(10))
    assert random.getstate() == before
    random.seed(2)
    assert ids(ExampleSampler(examples(10), 0).next(10)) == first


def test_no_examples() -> None:
    with pytest.raises(DataError, match="no training examples"):
        ExampleSampler([], 0)


def test_state_of_other_data_or_another_seed_is_refused() -> None:
    state = ExampleSampler(examples(3), 0).state_dict()
    with pytest.raises(DataError, match="not those of the checkpoint"):
        ExampleSampler(examples(4), 0).load_state_dict(state)
    with pytest.raises(DataError, match="sampled with seed 0, this run has 1"):
        ExampleSampler(examples(3), 1).load_state_dict(state)


def with_rate(rate: object) -> Example:
    return Example(id=str(rate), prompt="p", metadata={"pass_rate": rate})


def test_repeats_follow_half_open_buckets() -> None:
    limits = [(0.0, 0.2, 6), (0.2, 0.6, 4), (0.6, 0.8, 2)]
    table = [PassRateBucket(low=low, high=high, repeats=repeats) for low, high, repeats in limits]
    rates = [0.0, 0.1999, 0.2, 0.4, 0.59, 0.6, 0.7999, 0.8, 1]
    repeated = Counter(ids(repeat_by_pass_rate([with_rate(rate) for rate in rates], table)))
    expected = {"0.0": 6, "0.1999": 6, "0.2": 4, "0.4": 4, "0.59": 4, "0.6": 2, "0.7999": 2}
    assert repeated == expected


def test_repeats_of_another_table_keep_the_order() -> None:
    table = [PassRateBucket(low=0, high=0.5, repeats=1), PassRateBucket(low=0.5, high=1.01, repeats=2)]
    assert ids(repeat_by_pass_rate([with_rate(1.0), with_rate(0.25)], table)) == ["1.0", "1.0", "0.25"]


def test_the_range_of_pass_rates_is_closed() -> None:
    rates = [with_rate(rate) for rate in (0.0, 0.5, 0.8, 0.81)]
    assert ids(filter_by_pass_rate(rates, 0.0, 0.8)) == ["0.0", "0.5", "0.8"]
    assert ids(filter_by_pass_rate(rates, 0.1, 0.5)) == ["0.5"]


@pytest.mark.parametrize("rate", [None, "0.5", 1.5, -0.1, True, float("nan")])
def test_a_pass_rate_that_is_none(rate: object) -> None:
    with pytest.raises(DataError, match="not a number from 0 to 1"):
        repeat_by_pass_rate([with_rate(rate)], [])
