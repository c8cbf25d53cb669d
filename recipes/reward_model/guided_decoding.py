"""Decoding towards a goal: of several candidate chunks the one with the highest reward goes on (arXiv 2407.13887)."""

from dataclasses import replace

from posttrain.errors import RewardFailure
from posttrain.rewards.checked import score_checked
from posttrain.rewards.reward import Reward, RewardInput
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Rollout, RolloutRequest


def decode_guided(
    engine: RolloutEngine, reward: Reward, request: RolloutRequest, chunk_tokens: int, candidates: int
) -> Rollout:
    """One completion of ``request``, ``chunk_tokens`` at a time: ``candidates`` chunks are sampled, ``reward`` scores
    the completions so far, the best is kept.

    ``reward`` must judge beginnings, as ``goal_conditioned`` does: their ``finish_reason`` is "length". With one
    candidate this is plain sampling; with chunks as long as the completion, best-of-n. The log-probs of the result are
    0.0 in all chunks but the last.

    Raises:
        RewardFailure: no candidate of a chunk could be scored.
    """
    most = request.sampling.max_completion_tokens
    prefix, chunk = request.prefix_ids, 0
    while True:
        budget = min(len(prefix) + chunk_tokens, most)
        asked = replace(
            request,
            id=f"{request.id}/{chunk}",
            seed=derive_seed(request.seed, f"chunk/{chunk}"),
            n=candidates,
            prefix_ids=prefix,
            sampling=request.sampling.model_copy(update={"max_completion_tokens": budget}),
        )
        rollouts = engine.generate([asked])
        inputs = [RewardInput(request.example, r.text, r.completion_ids, r.finish_reason) for r in rollouts]
        outputs = score_checked(reward, inputs)
        scored = [(output.score, place) for place, output in enumerate(outputs) if output.score is not None]
        if not scored:
            raise RewardFailure(f"no chunk of example {request.example.id!r} could be scored: {outputs[0].message}")
        score, place = max(scored, key=lambda pair: pair[0])
        best = replace(rollouts[place], reward=score)
        prefix, chunk = best.completion_ids, chunk + 1
        if best.finish_reason == "stop" or len(prefix) >= most:
            return replace(best, request_id=request.id)
