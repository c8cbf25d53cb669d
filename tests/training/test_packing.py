import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.training.packing import balance, collate, pack
from posttrain.types import Origin, TrainingSample


def sample(name: str, prompt: int, completion: int) -> TrainingSample:
    length = prompt + completion
    return TrainingSample(
        id=name,
        input_ids=list(range(100, 100 + length)),
        origin=[Origin.PROMPT] * prompt + [Origin.POLICY] * completion,
        trained=[0] * prompt + [1] * completion,
        token_weights=[0.0] * prompt + [float(i + 1) for i in range(completion)],
        behaviour_logprobs=[0.0] * prompt + [-0.1 * (i + 1) for i in range(completion)],
    )


def test_collate_points_at_the_state_that_predicts_each_trained_token() -> None:
    batch = collate([sample("a", 2, 3), sample("b", 1, 2)])
    assert batch.input_ids.tolist() == [[100, 101, 102, 103, 104, 100, 101, 102]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch.lengths == [5, 3]
    assert batch.sources.tolist() == [1, 2, 3, 5, 6]
    assert batch.targets.tolist() == [102, 103, 104, 101, 102]
    assert batch.weights.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0]
    assert batch.sample_index.tolist() == [0, 0, 0, 1, 1]
    assert batch.trained_lengths.tolist() == [3, 2]
    assert set(batch.origins.tolist()) == {Origin.POLICY}
    torch.testing.assert_close(batch.behaviour_logprobs, torch.tensor([-0.1, -0.2, -0.3, -0.1, -0.2]))


def test_the_first_token_of_a_sample_has_no_prediction() -> None:
    batch = collate([sample("a", 1, 2), sample("b", 0, 2)])
    assert batch.sources.tolist() == [0, 1, 3]
    assert batch.sample_index.tolist() == [0, 0, 1]


def test_a_sample_without_trained_tokens_counts_zero() -> None:
    batch = collate([sample("a", 2, 0), sample("b", 1, 1)])
    assert batch.trained_lengths.tolist() == [0, 1]


lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(lengths, st.integers(16, 64))
def test_pack_keeps_every_sample_once_within_the_budget(sizes: list[int], budget: int) -> None:
    samples = [sample(f"s{i}", size, 1) for i, size in enumerate(sizes)]
    batches = pack(samples, budget)
    assert sorted(s.id for batch in batches for s in batch) == sorted(s.id for s in samples)
    for batch in batches:
        assert len(batch) == 1 or sum(len(s.input_ids) for s in batch) <= budget


@given(lengths, st.integers(1, 5))
def test_balance_differs_by_at_most_one_sample(sizes: list[int], ranks: int) -> None:
    samples = [sample(f"s{i}", size, 1) for i, size in enumerate(sizes)]
    shares = balance(samples, ranks)
    assert sorted(s.id for share in shares for s in share) == sorted(s.id for s in samples)
    loads = [sum(len(s.input_ids) for s in share) for share in shares]
    assert max(loads) - min(loads) <= max(len(s.input_ids) for s in samples)
