"""Completions of held-out prompts, sampled and graded as in training."""

from collections.abc import Sequence

from accelerate import Accelerator

from posttrain.data.chat import PromptEncoder
from posttrain.evaluation.evaluator import evaluate
from posttrain.rewards.reward import Reward
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.collection import collect_groups
from posttrain.training.accelerator import gather_lists
from posttrain.types import Example, RolloutGroup, RolloutRequest, Sampling


def evaluate_held_out(
    accelerator: Accelerator,
    engine: RolloutEngine,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    grader: Reward,
    *,
    sampling: Sampling,
    n: int,
    seed: int,
) -> dict[str, float]:
    """mean@n and more (see ``evaluate``) of the weights that ``engine`` holds; {} without examples."""
    if not examples:
        return {}
    groups = answer_and_score(accelerator, engine, encoder, examples, grader, sampling=sampling, n=n, seed=seed)
    return evaluate(groups)


def answer_and_score(
    accelerator: Accelerator,
    engine: RolloutEngine,
    encoder: PromptEncoder,
    examples: Sequence[Example],
    reward: Reward,
    *,
    sampling: Sampling,
    n: int,
    seed: int,
) -> list[RolloutGroup]:
    """``n`` scored rollouts of each example. Every rank samples its share and gets all groups, those of the first rank
    first. A rollout's seed depends on ``seed`` and its example alone."""
    requests = answer_requests(encoder, examples, sampling=sampling, n=n, seed=seed)
    mine = requests[accelerator.process_index :: accelerator.num_processes]
    return gather_lists(accelerator, collect_groups(engine, mine, reward)[0])


def answer_requests(
    encoder: PromptEncoder, examples: Sequence[Example], *, sampling: Sampling, n: int, seed: int
) -> list[RolloutRequest]:
    """``n`` rollouts of each example, whose seed depends on ``seed`` and the example alone."""
    return [
        RolloutRequest(
            id=f"eval/{number:06d}",
            example=example,
            prompt_ids=encoder.prompt_ids(example),
            sampling=sampling,
            seed=derive_seed(seed, "eval", example.id),
            n=n,
            group=number,
        )
        for number, example in enumerate(examples)
    ]
