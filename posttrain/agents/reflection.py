"""Good and bad trajectories of one task, the step at which a bad one went wrong, and the two spliced (2501.11425)."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from posttrain.agents.environment import ACTION
from posttrain.agents.environment_pool import EnvironmentPool, Position
from posttrain.agents.episodes import Turn
from posttrain.agents.tree_search import Tree
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Origin, TrainingSample

Judgement = Literal["good", "bad", "uncertain"]

SLACK = 1e-9  # rewards are sums of floats: 0.6 - 0.3 > 0.3 must not hold
VERDICT = re.compile(r"judgement:\s*(good|bad|uncertain)\b", re.IGNORECASE)
REVISION_THOUGHTS = (
    "My last step was wrong, so I leave this way and try another.",
    "That was a mistake. I change my plan from here.",
    "I see now that this step does not help; I do it differently.",
    "This is not going where I want. I correct my last step.",
    "I chose badly just now. A different way is needed.",
    "The result shows that I erred, and I turn back.",
    "I should not have done that; here is a better way.",
    "My plan has a fault in the last step. I mend it now.",
    "I misjudged this. Let me go on in another manner.",
    "The last step led me astray, so I start over from what I have.",
)


@dataclass(slots=True, frozen=True)
class Pair:
    """Two leaves of one tree, and the node at which their ways part."""

    parting: int
    good: int
    bad: int


@dataclass(slots=True, frozen=True)
class Step:
    """A turn of a trajectory, what followed, who wrote the turn, and whether it is trained."""

    turn: Turn
    observation: str
    origin: Origin = Origin.POLICY
    trained: bool = False


def qualifying_pairs(rewards: Sequence[float], alpha: float, beta: float) -> list[tuple[int, int]]:
    """Indices (good, bad) with r(good) >= ``alpha`` and r(good) - r(bad) > ``beta``, each up to 1e-9."""
    return [
        (good, bad)
        for good, high in enumerate(rewards)
        for bad, low in enumerate(rewards)
        if high >= alpha - SLACK and high - low > beta + SLACK
    ]


def choose_pairs(tree: Tree, alpha: float, beta: float, most: int) -> list[Pair]:
    """At most ``most`` qualifying pairs of leaves, drawn by the tree's seed: bad leaves take turns."""
    leaves = tree.leaves()
    rewards = [tree.nodes[leaf].result.reward for leaf in leaves]
    rng = random.Random(derive_seed(tree.seed, "pairs"))
    good_of: dict[int, list[int]] = {}
    for good, bad in qualifying_pairs(rewards, alpha, beta):
        good_of.setdefault(leaves[bad], []).append(leaves[good])
    queues = [(bad, rng.sample(good, len(good))) for bad, good in good_of.items()]
    rng.shuffle(queues)
    chosen: list[tuple[int, int]] = []
    while queues and len(chosen) < most:
        bad_leaf, good_leaves = queues.pop(0)
        chosen.append((good_leaves[0], bad_leaf))
        queues += [(bad_leaf, good_leaves[1:])] if good_leaves[1:] else []
    return [Pair(parting_node(tree, good_leaf, bad_leaf), good_leaf, bad_leaf) for good_leaf, bad_leaf in chosen]


def parting_node(tree: Tree, one: int, other: int) -> int:
    """The last node that the ways to two leaves share."""
    return next(a for a in reversed(tree.path(one)) if a in tree.path(other))


def parse_judgement(text: str) -> Judgement | None:
    """The verdict on the last line that begins with ``Judgement:``; None where there is none."""
    verdicts = [found[1].lower() for line in text.splitlines() if (found := VERDICT.match(line.strip()))]
    return verdicts[-1] if verdicts else None  # type: ignore[return-value]


def transition(judgements: Sequence[Judgement | None]) -> int:
    """How many bad steps are kept: up to the first that is judged bad, all where none is. A reply without a verdict is
    uncertain, and goes on."""
    return next((number for number, verdict in enumerate(judgements, start=1) if verdict == "bad"), len(judgements))


def steps_between(tree: Tree, above: int, leaf: int, trained: bool = False) -> list[Step]:
    """The steps from node ``above`` to ``leaf``."""
    path = tree.path(leaf)
    nodes = [tree.nodes[number] for number in path[path.index(above) + 1 :]]
    return [Step(node.turn, node.result.observation, trained=trained) for node in nodes if node.turn is not None]


def revision_turn(encoder: PromptEncoder, action: str, seed: int) -> Turn:
    """A thought that the last step was a mistake, and ``action``; tokenized here, as nobody sampled it."""
    thought = random.Random(seed).choice(REVISION_THOUGHTS)
    text = f"{thought}\n{ACTION} {action}"
    ids = [*encoder.completion_ids(text), encoder.tokenizer.eos_token_id]
    return Turn(text, ids, [0.0] * len(ids), True)


def opened_by_a_thought(step: Step, encoder: PromptEncoder, seed: int) -> Step:
    """``step`` with the thought at the head of its own turn, so that no action is spent on it."""
    thought = random.Random(seed).choice(REVISION_THOUGHTS) + "\n"
    ids = encoder.completion_ids(thought)
    turn = Turn(thought + step.turn.text, ids + step.turn.ids, [0.0] * len(ids) + step.turn.logprobs, step.turn.ended)
    return replace(step, turn=turn, origin=Origin.REVISION)


def splice(
    tree: Tree, pair: Pair, cut: int, encoder: PromptEncoder, revision_action: str | None
) -> tuple[list[Step], list[Step]]:
    """The context (the shared beginning and the first ``cut`` bad steps) and what is trained after it: a revision
    thought and the good steps. Their observations are those of the good way, until they are replayed."""
    seed = derive_seed(tree.seed, "revision", pair.good, pair.bad)
    context = steps_between(tree, 0, pair.parting) if pair.parting else []
    context += steps_between(tree, pair.parting, pair.bad)[:cut]
    good = steps_between(tree, pair.parting, pair.good, trained=True)
    if revision_action is None:
        return context, [opened_by_a_thought(good[0], encoder, seed), *good[1:]]
    revision = Step(revision_turn(encoder, revision_action, seed), "", Origin.REVISION, trained=True)
    return context, [revision, *good]


def replay(pool: EnvironmentPool, start: Position, steps: Sequence[Step]) -> tuple[list[Step], float | None]:
    """``steps`` with the observations that a fresh environment gives, up to where it ends, and its final score; None
    where it fails."""
    position, seen, reward = start, list[Step](), 0.0
    for step in steps:
        position = position.after(step.turn.text)
        result = pool.at([position])[0]
        if result.failed:
            return seen, None
        seen.append(replace(step, observation=result.observation))
        reward = result.reward
        if result.done:
            break
    return seen, reward


def trajectory_sample(
    name: str, prompt_ids: list[int], steps: Sequence[Step], encoder: PromptEncoder, objective: str
) -> TrainingSample:
    """The whole trajectory; weight 1 on the turns that are trained. Nothing sampled is tokenized again."""
    sample = TrainingSample(
        id=name,
        input_ids=list(prompt_ids),
        origin=[Origin.PROMPT] * len(prompt_ids),
        trained=[0] * len(prompt_ids),
        token_weights=[0.0] * len(prompt_ids),
        behaviour_logprobs=[0.0] * len(prompt_ids),
        objective=objective,
    )
    for number, step in enumerate(steps, start=1):
        _extend(sample, step.turn.ids, step.origin, step.trained)
        if number < len(steps):
            _extend(sample, encoder.next_turn_ids(step.observation, step.turn.ended), Origin.ENVIRONMENT, False)
    return sample


def _extend(sample: TrainingSample, ids: list[int], origin: Origin, trained: bool) -> None:
    sample.input_ids += ids
    sample.origin += [origin] * len(ids)
    sample.trained += [int(trained)] * len(ids)
    sample.token_weights += [float(trained)] * len(ids)
    sample.behaviour_logprobs += [0.0] * len(ids)
