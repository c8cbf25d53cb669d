"""What every engine promises, on the same tiny model."""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from posttrain.errors import EngineError
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.vllm_server_engine import VLLMServerEngine
from posttrain.rollout.weight_sync import sync_weights
from posttrain.types import Rollout, RolloutRequest

Make = Callable[..., RolloutRequest]

PROMPTS = [[70, 71, 72, 73], [80, 90, 100, 110, 120, 130, 140], [65]]


@torch.no_grad()
def logits_before(policy: Any, rollout: Rollout) -> torch.Tensor:
    """Logits [T, V] that predict each token of the completion, from one forward pass over the whole sequence."""
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    return policy(input_ids=ids, use_cache=False).logits[0, len(rollout.prompt_ids) - 1 : -1]


def sampled_logprobs(logits: torch.Tensor, rollout: Rollout) -> list[float]:
    """Log-softmax of ``logits`` at the completion's tokens."""
    return logits.log_softmax(-1)[range(len(logits)), rollout.completion_ids].tolist()


def nucleus(logits: torch.Tensor, top_p: float) -> torch.Tensor:
    """``logits`` without the tokens outside the smallest set that reaches ``top_p``, token by token in plain Python."""
    truncated = torch.full_like(logits, -math.inf)
    for row, probabilities in enumerate(logits.softmax(-1).tolist()):
        total = 0.0
        for token in sorted(range(len(probabilities)), key=lambda t: -probabilities[t]):
            truncated[row, token] = logits[row, token]
            total += probabilities[token]
            if total >= top_p:
                break
    return truncated


def completions(rollouts: list[Rollout]) -> list[list[int]]:
    return [rollout.completion_ids for rollout in rollouts]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_behaviour_logprobs_equal_a_forward_pass(
    engine: RolloutEngine, policy: Any, make_request: Make, temperature: float
) -> None:
    requests = [make_request(ids, n=8, seed=i, temperature=temperature) for i, ids in enumerate(PROMPTS)]
    for rollout in engine.generate(requests):
        expected = sampled_logprobs(logits_before(policy, rollout) / temperature, rollout)
        assert rollout.logprobs == pytest.approx(expected, abs=1e-4)


def test_next_token_logprobs_equal_a_forward_pass(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    found = engine.next_token_logprobs([make_request(ids, temperature=0.0) for ids in PROMPTS], top=5)
    for ids, logprobs in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            expected = policy(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].log_softmax(-1)
        assert set(expected.topk(5).indices.tolist()) <= logprobs.keys()
        assert list(logprobs.values()) == pytest.approx(expected[list(logprobs)].tolist(), abs=1e-4)
    assert engine.next_token_logprobs([], top=5) == []


def test_behaviour_logprobs_of_a_nucleus_are_renormalised(
    engine: RolloutEngine, policy: Any, make_request: Make
) -> None:
    requests = [make_request(ids, n=8, seed=i, top_p=0.9, temperature=0.8) for i, ids in enumerate(PROMPTS)]
    for rollout in engine.generate(requests):
        logits = logits_before(policy, rollout) / 0.8
        assert rollout.logprobs == pytest.approx(sampled_logprobs(nucleus(logits, 0.9), rollout), abs=1e-4)
        assert max(a - b for a, b in zip(rollout.logprobs, sampled_logprobs(logits, rollout), strict=True)) > 0.01


def test_top_k_draws_from_the_k_most_probable(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    for rollout in engine.generate([make_request(PROMPTS[0], n=32, seed=5, top_k=3)]):
        values, tokens = logits_before(policy, rollout).topk(3)
        places = [row.index(token) for row, token in zip(tokens.tolist(), rollout.completion_ids, strict=True)]
        assert rollout.logprobs == pytest.approx(values.log_softmax(-1)[range(len(places)), places].tolist(), abs=1e-4)


def test_greedy_takes_the_most_probable_token(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    """Both engines are held to the same forward pass, so their greedy outputs are equal."""
    for rollout in engine.generate([make_request(ids, temperature=0, max_completion_tokens=24) for ids in PROMPTS]):
        logits = logits_before(policy, rollout)
        assert rollout.completion_ids == logits.argmax(-1).tolist()
        assert rollout.logprobs == pytest.approx(sampled_logprobs(logits, rollout), abs=1e-4)


def test_a_forced_prefix_starts_the_completion(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    prefix = [100, 50, 60]
    request = make_request(PROMPTS[0], n=3, seed=1, prefix_ids=prefix, max_completion_tokens=9)
    for rollout in engine.generate([request]):
        assert rollout.completion_ids[:3] == prefix
        assert rollout.action_mask == [0] * 3 + [1] * (len(rollout.completion_ids) - 3)
        assert rollout.logprobs[:3] == [0.0] * 3
        assert rollout.logprobs[3:] == pytest.approx(
            sampled_logprobs(logits_before(policy, rollout), rollout)[3:], abs=1e-4
        )
        assert len(rollout.completion_ids) == 9 or rollout.finish_reason == "stop"


def test_a_prefix_that_fills_the_budget_is_the_completion(engine: RolloutEngine, make_request: Make) -> None:
    (rollout,) = engine.generate([make_request(PROMPTS[0], prefix_ids=[100, 50, 60], max_completion_tokens=3)])
    assert (rollout.completion_ids, rollout.finish_reason) == ([100, 50, 60], "length")
    assert rollout.action_mask == [0, 0, 0]


def test_rollouts_do_not_depend_on_the_batch(engine: RolloutEngine, make_request: Make) -> None:
    alone = engine.generate([make_request(PROMPTS[0], n=4, seed=11)])
    others = [make_request(PROMPTS[1], n=5, seed=12), make_request(PROMPTS[0], n=4, seed=11), make_request(PROMPTS[2])]
    in_a_batch = engine.generate(others)[5:9]
    assert completions(in_a_batch) == completions(alone)
    assert [rollout.index for rollout in in_a_batch] == [0, 1, 2, 3]
    assert len(set(map(tuple, completions(alone)))) == 4
    other_seed = engine.generate([make_request(PROMPTS[0], n=4, seed=13)])
    assert completions(other_seed) != completions(alone)


def test_stop_tokens_end_a_completion_and_are_part_of_it(
    engine: RolloutEngine, tokenizer: Any, make_request: Make
) -> None:
    stops = tuple(range(100, 180))
    rollouts = engine.generate([make_request(PROMPTS[0], n=64, max_completion_tokens=6, stop_token_ids=stops)])
    ends = {tokenizer.eos_token_id, *stops}
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}
    for rollout in rollouts:
        *before, last = rollout.completion_ids
        assert not ends & set(before)
        assert (last in ends) == (rollout.finish_reason == "stop")
        assert rollout.finish_reason == "stop" or len(rollout.completion_ids) == 6
        assert len(rollout.logprobs) == len(rollout.completion_ids)
        assert rollout.text == tokenizer.decode(rollout.completion_ids, skip_special_tokens=True)


def test_the_end_of_sequence_token_ends_a_completion(
    engine: RolloutEngine, policy: Any, tokenizer: Any, make_request: Make
) -> None:
    rollouts = engine.generate([make_request(PROMPTS[2], n=64, max_completion_tokens=250, temperature=2.0)])
    stopped = [rollout for rollout in rollouts if rollout.finish_reason == "stop"]
    assert stopped
    for rollout in stopped:
        assert rollout.completion_ids.index(tokenizer.eos_token_id) == len(rollout.completion_ids) - 1
        expected = sampled_logprobs(logits_before(policy, rollout) / 2, rollout)
        assert rollout.logprobs[-1] == pytest.approx(expected[-1], abs=1e-4)


def test_rollouts_stream_out_and_requests_stream_in(engine: RolloutEngine, make_request: Make) -> None:
    short = make_request(PROMPTS[0], temperature=0, max_completion_tokens=2)
    long = make_request(PROMPTS[0], temperature=0, max_completion_tokens=200)
    referee = make_request(PROMPTS[1], n=3, max_completion_tokens=2)
    engine.submit([short, long])  # a busy server may have ended the long one before the next request arrives
    order = []
    for rollout in engine.finished():
        order.append(rollout.request_id)
        if rollout.request_id == short.id:
            engine.submit([referee])
    assert order[0] == short.id
    assert Counter(order) == {short.id: 1, long.id: 1, referee.id: 3}
    assert list(engine.finished()) == []


def test_leaving_early_drops_what_is_outstanding(engine: RolloutEngine, make_request: Make) -> None:
    engine.submit([make_request(PROMPTS[0], n=3, max_completion_tokens=200)])
    engine.submit([make_request(PROMPTS[0], max_completion_tokens=1)])
    rollouts = engine.finished()
    next(rollouts)
    rollouts.close()
    (rollout,) = engine.generate([make_request(PROMPTS[1], temperature=0)])
    assert rollout.prompt_ids == PROMPTS[1]


def test_an_aborted_rollout_can_be_gone_on_with(
    engine: RolloutEngine, policy: Any, perturb: Callable[..., None], make_request: Make
) -> None:
    """Greedy, it ends as if it had not been cut; after an update, each token has the policy that sampled it."""
    short = make_request(PROMPTS[0], temperature=0, max_completion_tokens=2)
    long = make_request(PROMPTS[0], n=2, prefix_ids=[100, 50], temperature=0, max_completion_tokens=200)
    uncut = engine.generate([long])
    beside = make_request(PROMPTS[1], n=24, temperature=0, max_completion_tokens=200)  # slows the long ones down
    for _ in range(5):  # a busy server may have ended them before it hears of the abortion
        drawn: dict[str, list[Rollout]] = {long.id: [], short.id: [], beside.id: []}
        engine.submit([short, long, beside])
        for rollout in engine.finished():
            drawn[rollout.request_id].append(rollout)
            if rollout.request_id == short.id:
                engine.abort()
        if any(rollout.finish_reason == "aborted" for rollout in drawn[long.id]):
            break
    (_,), aborted = drawn[short.id], drawn[long.id]
    begun = next(each for each in aborted if each.finish_reason == "aborted")
    length, own, other = len(begun.completion_ids), begun.index, 1 - begun.index
    assert len(aborted) == 2 and (
        isinstance(engine, VLLMServerEngine)  # on a busy machine one of two may have ended there
        or {each.finish_reason for each in aborted} == {"aborted"}
    )
    assert 2 <= length < len(uncut[own].completion_ids) and begun.action_mask == [0, 0] + [1] * (length - 2)

    (rest,) = engine.generate([replace(long, begun={other: uncut[other], own: begun})])
    assert (rest.index, rest.completion_ids, rest.text) == (own, uncut[own].completion_ids, uncut[own].text)
    assert (rest.action_mask, rest.finish_reason) == (uncut[own].action_mask, uncut[own].finish_reason)
    assert rest.logprobs == pytest.approx(uncut[own].logprobs, abs=1e-4)

    perturb(policy, seed=3)
    sync_weights(policy, engine, version=1)
    (mixed,) = engine.generate([replace(long, begun={other: uncut[other], own: begun})])
    assert mixed.versions == [0] * length + [1] * (len(mixed.completion_ids) - length)
    assert mixed.completion_ids[:length] == begun.completion_ids and mixed.logprobs[:length] == begun.logprobs
    expected = sampled_logprobs(logits_before(policy, mixed), mixed)
    assert mixed.logprobs[length:] == pytest.approx(expected[length:], abs=1e-4)


def test_what_had_not_started_is_aborted_too(engine: RolloutEngine, make_request: Make) -> None:
    requests = [make_request(PROMPTS[0], n=3, max_completion_tokens=200), make_request(PROMPTS[1])]
    engine.submit(requests)
    engine.abort()
    rollouts = list(engine.finished())
    assert Counter(rollout.request_id for rollout in rollouts) == {requests[0].id: 3, requests[1].id: 1}
    assert len(engine.generate([make_request(PROMPTS[2])])) == 1


def test_the_context_bounds_a_completion(engine: RolloutEngine, make_request: Make) -> None:
    request = make_request([70] * 250, temperature=0, max_completion_tokens=50)
    (rollout,) = engine.generate([request])
    assert rollout.finish_reason == "stop" or len(rollout.completion_ids) == 6
    with pytest.raises(EngineError, match="256 tokens, the model's context has 256"):
        engine.submit([make_request([70] * 250, prefix_ids=[70] * 6)])
    with pytest.raises(EngineError, match="empty prompt"):
        engine.submit([make_request([])])


@pytest.mark.slow
def test_sampled_tokens_have_the_models_distribution(engine: RolloutEngine, policy: Any, make_request: Make) -> None:
    """Chi-square over 10,000 first tokens; tokens expected fewer than 5 times are pooled."""
    if isinstance(engine, VLLMServerEngine):
        pytest.skip("its sampler is that of vLLM in this process, and 10,000 requests over HTTP take minutes")
    draws = 10_000
    rollouts = engine.generate([make_request(PROMPTS[1], n=draws, seed=3, max_completion_tokens=1, temperature=1.3)])
    counts = Counter(rollout.completion_ids[0] for rollout in rollouts)
    expected = (logits_before(policy, rollouts[0])[0] / 1.3).double().softmax(-1) * draws
    frequent = [token for token in range(len(expected)) if expected[token] >= 5]
    cells = [(counts[token], float(expected[token])) for token in frequent]
    cells.append((draws - sum(seen for seen, _ in cells), draws - sum(wanted for _, wanted in cells)))
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in cells)
    freedom = len(cells) - 1
    assert freedom > 20
    # Wilson-Hilferty: the cube root of chi-square / freedom is nearly normal; 4 sigma.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 4
