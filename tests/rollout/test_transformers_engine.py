"""The embedded engine's own decoding loop: batches of any size and mixture give the same rollouts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from posttrain.errors import EngineError
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.pending import pending_rollouts
from posttrain.rollout.sampling import RowSampling, sample_tokens, truncate
from posttrain.types import Rollout, RolloutRequest

Make = Callable[..., RolloutRequest]

CPU = torch.device("cpu")


def test_a_rollout_that_goes_on_draws_other_random_numbers(make_request: Make) -> None:
    begun = Rollout("r", 0, [1], [5, 6], [0, 1], [0.0, -0.5], "aborted", 3, "")
    request = make_request([1], n=2, prefix_ids=[5], max_completion_tokens=4)
    whole, rest = pending_rollouts([request], 16)[0], pending_rollouts([replace(request, begun={0: begun})], 16)[0]
    assert (rest.input_ids, rest.max_new_tokens) == ([1, 5, 6], 2)
    assert rest.seed != whole.seed == pending_rollouts([replace(request, begun={1: begun})], 16)[0].seed
    ended = replace(begun, finish_reason="stop")
    assert [row.index for row in pending_rollouts([replace(request, begun={0: ended})], 16)] == [1]
    assert rest.rollout([7], [-0.25], "stop", 4, "").versions == [3, 3, 4]


def mixture(make_request: Make) -> list[RolloutRequest]:
    """Requests of all lengths, prefixes, budgets and ways of sampling."""
    return [
        make_request([70, 71], n=3, seed=1),
        make_request(list(range(60, 120)), n=2, seed=2, max_completion_tokens=3, top_p=0.8),
        make_request([90] * 9, n=2, seed=3, max_completion_tokens=40, temperature=0.5, top_k=4),
        make_request([70, 71], n=2, seed=4, prefix_ids=[100, 101], max_completion_tokens=20),
        make_request([65], temperature=0, max_completion_tokens=30),
    ]


@pytest.mark.parametrize("limits", [{"max_num_seqs": 1}, {"max_num_seqs": 3}, {"max_num_tokens": 150}])
def test_limits_of_a_batch_do_not_change_the_rollouts(
    policy_folder: Path, make_request: Make, limits: dict[str, int]
) -> None:
    requests = mixture(make_request)
    together = TransformersEngineConfig(device="cpu").build(policy_folder).generate(requests)
    limited = TransformersEngineConfig(device="cpu", **limits).build(policy_folder).generate(requests)
    assert len(together) == 10
    for a, b in zip(together, limited, strict=True):
        assert (a.request_id, a.index, a.completion_ids, a.finish_reason) == (
            b.request_id,
            b.index,
            b.completion_ids,
            b.finish_reason,
        )
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_a_sampled_token_inverts_the_cumulative_distribution(make_request: Make) -> None:
    """Tokens of probability 0 are never drawn, also at the ends of [0, 1)."""
    probabilities = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    uniforms = [0.0, 0.2499, 0.25, 0.7499, 0.75, 1 - 2**-53]
    rows = pending_rollouts([make_request([1], n=len(uniforms))], context_length=16)
    sampling = RowSampling.of(rows, CPU)
    sampling.uniforms[:, 0] = torch.tensor(uniforms, dtype=torch.float64)
    tokens, logprobs = sample_tokens(probabilities.log().repeat(len(uniforms), 1), sampling, position=0)
    assert tokens.tolist() == [1, 1, 3, 3, 4, 4]
    assert torch.equal(logprobs, probabilities[tokens].log())


def test_random_numbers_belong_to_the_rollout(make_request: Make) -> None:
    (request,) = [make_request([1], n=3, seed=9)]
    rows = pending_rollouts([request], context_length=64)
    together = RowSampling.of(rows, CPU).uniforms
    alone = RowSampling.of(rows[2:], CPU).uniforms
    assert torch.equal(together[2:], alone)
    assert len(together.unique()) == together.numel()
    longer = make_request([1], n=1, seed=9, max_completion_tokens=20)
    assert torch.equal(RowSampling.of(pending_rollouts([longer], 64), CPU).uniforms[:, :8], together[:1])


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (1, 1.0, [0]),
        (2, 1.0, [0, 1, 2]),  # token 2 ties with the second
        (99, 1.0, [0, 1, 2, 3]),
        (0, 1e-6, [0]),
        (0, 0.6, [0, 2]),  # 0.53 + 0.20: one of the tied tokens is enough
        (3, 0.99, [0, 1, 2]),
    ],
)
def test_what_truncation_keeps(top_k: int, top_p: float, kept: list[int]) -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0, 0.0]])
    truncated = truncate(logits, torch.tensor([[top_k]]), torch.tensor([[top_p]]))
    assert truncated.isfinite().nonzero()[:, 1].tolist() == kept
    assert torch.equal(truncated[0, kept], logits[0, kept])


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="cannot load a model from"):
        TransformersEngineConfig().build(tmp_path / "nothing")


def test_it_sleeps_and_wakes(policy_folder: Path, make_request: Make) -> None:
    engine: RolloutEngine = TransformersEngineConfig(device="cpu").build(policy_folder)
    before = engine.generate([make_request([70], n=2)])
    engine.sleep()
    engine.wake()
    assert [r.completion_ids for r in engine.generate([make_request([70], n=2)])] == [r.completion_ids for r in before]
