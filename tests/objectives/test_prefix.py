"""Prefix ratio, prefix length and the entropy filter against the numbers worked out for Prefix-RFT."""

import math
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from posttrain.objectives.prefix import (
    prefix_baseline,
    prefix_length,
    scheduled,
    trained_prefix_tokens,
    unclipped_expert_ratio,
)

ENTROPIES = [0.1, 2.0, 0.5, 2.0, 0.0, 1.5, 0.5, 0.5, 3.0, 0.2]


@pytest.mark.parametrize(
    ("step", "total", "value"),
    [
        (0, 500, 0.95), (1, 500, 0.9499911174), (50, 500, 0.9279754323), (125, 500, 0.8181980515), (250, 500, 0.5),
        (375, 500, 0.1818019485), (450, 500, 0.0720245677), (499, 500, 0.0500088826), (900, 500, 0.05),
        (1, 8, 0.9157457896), (3, 8, 0.6722075446), (5, 8, 0.3277924554), (7, 8, 0.0842542104),
    ],
)  # fmt: skip
def test_the_cosine_falls(step: int, total: int, value: float) -> None:
    assert scheduled("cosine", 0.95, 0.05, step / total) == pytest.approx(value, abs=1e-9)


def test_other_schedules() -> None:
    assert [scheduled("linear", 0.8, 0.2, p) for p in (0.0, 0.5, 1.0, 2.0)] == pytest.approx([0.8, 0.5, 0.2, 0.2])
    assert scheduled("constant", 0.95, 0.05, 0.7) == 0.95


@pytest.mark.parametrize(
    ("ratio", "tokens", "minimum", "length"),
    [
        (0.5, 7, 1, 3), (0.95, 20, 1, 19), (0.05, 20, 1, 1), (0.999, 3, 1, 2),
        (0.29, 100, 1, 28), (0.5, 1, 1, 0), (0.5, 10, 16, 9), (0.7, 0, 1, 0),
    ],
)  # fmt: skip
def test_prefix_length(ratio: float, tokens: int, minimum: int, length: int) -> None:
    assert prefix_length(ratio, tokens, minimum, 1000) == length


def test_of_two_tokens_one_may_be_given_and_of_one_none() -> None:
    assert [prefix_length(1.0, tokens, 1, 10) for tokens in (0, 1, 2)] == [0, 0, 1]


def test_a_prefix_leaves_room_to_go_on() -> None:
    assert prefix_length(0.9, 100, 1, 15) == 15
    assert prefix_length(0.9, 100, 1, -3) == 0


@pytest.mark.parametrize(
    ("fraction", "kept"),
    [(0.2, [1, 8]), (0.25, [1, 3, 8]), (0.3, [1, 3, 8]), (0.5, [1, 2, 3, 5, 8]), (1.0, list(range(10))), (0.0, [])],
)
def test_the_most_uncertain_tokens(fraction: float, kept: list[int]) -> None:
    assert trained_prefix_tokens(ENTROPIES, fraction, "top", random.Random(0)) == kept


def test_how_many_tokens_a_fifth_is() -> None:
    counts = {
        n: len(trained_prefix_tokens([0.0] * n, 0.2, "top", random.Random(0))) for n in (1, 2, 3, 4, 5, 6, 9, 10, 11)
    }
    assert list(counts.values()) == [1, 1, 1, 1, 1, 2, 2, 2, 3]
    assert len(trained_prefix_tokens([0.0] * 10, 1 - 0.9, "top", random.Random(0))) == 1


@given(st.lists(st.floats(0, 5), max_size=30), st.floats(0, 1), st.sampled_from(["top", "bottom", "random"]))
def test_every_selection_keeps_as_many(entropies: list[float], fraction: float, selection: str) -> None:
    kept = trained_prefix_tokens(entropies, fraction, selection, random.Random(1))  # type: ignore[arg-type]
    assert kept == sorted(set(kept))
    assert len(kept) == math.ceil(fraction * len(entropies) - 1e-9)
    rest = [e for i, e in enumerate(entropies) if i not in kept]
    if selection == "top" and kept and rest:
        assert min(entropies[i] for i in kept) >= max(rest)
    if selection == "bottom" and kept and rest:
        assert max(entropies[i] for i in kept) <= min(rest)


def test_all_and_none() -> None:
    assert trained_prefix_tokens(ENTROPIES, 0.2, "all", random.Random(0)) == list(range(10))
    assert trained_prefix_tokens(ENTROPIES, 0.2, "none", random.Random(0)) == []


def test_prefix_baseline() -> None:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    sampled, prefix = prefix_baseline(rewards, [False, False, False, True])
    assert sampled.tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, 1.0])
    assert prefix.tolist() == pytest.approx([0.0, 0.0, 0.0, 2 / 3])


@pytest.mark.parametrize(
    ("kind", "ratio", "slope"),
    [("old_policy", 1.5, 1.5), ("one", 1.0, 1.0), ("probability", 0.3, 0.3), ("luffy", 0.75, 0.1 * 0.3 / 0.4**2)],
)
def test_expert_ratios(kind: str, ratio: float, slope: float) -> None:
    """p = 0.3 and p_old = 0.2; the slope is by log p."""
    logprobs = torch.tensor([math.log(0.3)], dtype=torch.float64, requires_grad=True)
    value = unclipped_expert_ratio(logprobs, torch.tensor([math.log(0.2)], dtype=torch.float64), kind)  # type: ignore[arg-type]
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    assert (value.item(), gradient.item()) == pytest.approx((ratio, slope), abs=1e-12)
