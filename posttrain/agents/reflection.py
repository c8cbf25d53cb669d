"""Good and bad trajectories of one task, the step at which a bad one went wrong, and the two spliced (2501.11425)."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import Field

from posttrain.agents.environment import ACTION
from posttrain.agents.environment_pool import Environments, Position
from posttrain.agents.episodes import Turn
from posttrain.agents.tree_search import ROOT, Tree
from posttrain.config import Config
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Origin, TrainingSample

SLACK = 1e-9  # rewards are sums of floats: 0.8 - 0.5 is not more than 0.3
NO_ACTION = "none"
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


class ReflectionConfig(Config):
    """Defaults are the paper's, where it says."""

    alpha: list[float] = Field(
        default=[0.5, 0.7, 1.0], min_length=1, description="least score of a good way, by iteration; the last stays"
    )
    beta: float = Field(default=0.2, ge=0, description="by how much more a good way scores than a bad one")
    judge: Literal["self", "none", "oracle"] = Field(
        default="self",
        description="finds the mistake: the policy; none: the end is it; oracle: the environment's `went_wrong`, or, "
        "where it has none, the tree's own values",
    )
    judgement_tokens: int = Field(default=256, ge=1)
    max_pairs_per_task: int = Field(default=8, ge=1, description="and most good ways of a task that are trained")
    thoughts: list[str] = Field(
        default=list(REVISION_THOUGHTS), min_length=1, description="one is drawn: the last step was a mistake"
    )
    revision_action: str = Field(
        default="wait", min_length=1, description="of the revision's turn; none: the thought opens the next turn"
    )
    replay_tolerance: float = Field(default=0.0, ge=0, description="of the score that a splice reaches once more")
    on_replay_failure: Literal["drop", "recover"] = Field(
        default="drop", description="recover: the policy finishes after the thought, and what reaches alpha is kept"
    )
    recovery_tries: int = Field(default=4, ge=1)


@dataclass(slots=True, frozen=True)
class Pair:
    """Two leaves of one tree, and the node at which their ways part."""

    parting: int
    good: int
    bad: int


@dataclass(slots=True, frozen=True)
class Step:
    """A turn of a trajectory, what followed, and whether the turn is trained. Its first ``revision`` tokens are a
    revision thought: the policy did not sample them."""

    turn: Turn
    observation: str
    trained: bool = False
    revision: int = 0


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


def steps_between(tree: Tree, above: int, leaf: int, trained: bool = False) -> list[Step]:
    """The steps from node ``above`` to ``leaf``."""
    path = tree.path(leaf)
    nodes = [tree.nodes[number] for number in path[path.index(above) + 1 :]]
    return [Step(node.turn, node.result.observation, trained=trained) for node in nodes if node.turn is not None]


def revision(tree: Tree, pair: Pair, encoder: PromptEncoder, action: str, thoughts: Sequence[str]) -> Step:
    """One of ``thoughts``, drawn by the tree's seed, and ``action``; with ``none`` the thought alone, which opens the
    turn that follows."""
    thought = random.Random(derive_seed(tree.seed, "revision", pair.good, pair.bad)).choice(thoughts)
    acts = action != NO_ACTION
    text = f"{thought}\n{ACTION} {action}" if acts else f"{thought}\n"
    ids = encoder.completion_ids(text) + ([encoder.tokenizer.eos_token_id] if acts else [])
    return Step(Turn(text, ids, [0.0] * len(ids), ended=acts), "", trained=True, revision=len(ids))


def opened_by(thought: Step, step: Step) -> Step:
    """``step`` with ``thought`` at the head of its turn, so that no action is spent on it."""
    head, turn = thought.turn, step.turn
    turn = Turn(head.text + turn.text, head.ids + turn.ids, head.logprobs + turn.logprobs, turn.ended)
    return replace(step, turn=turn, revision=thought.revision)


def splice(tree: Tree, pair: Pair, cut: int, thought: Step) -> tuple[list[Step], list[Step]]:
    """The context (the shared beginning and the first ``cut`` bad steps) and what is trained after it: the revision
    and the good steps. Their observations are those of the good way, until they are replayed."""
    context = steps_between(tree, ROOT, pair.parting) + steps_between(tree, pair.parting, pair.bad)[:cut]
    good = steps_between(tree, pair.parting, pair.good, trained=True)
    return context, [thought, *good] if thought.turn.ended else [opened_by(thought, good[0]), *good[1:]]


def replay(pool: Environments, position: Position, steps: Sequence[Step]) -> tuple[list[Step], float | None]:
    """``steps`` from ``position`` on with the observations that a fresh environment gives, up to where it ends, and
    its final score; None where it fails, or was at its end already."""
    seen, reward = list[Step](), 0.0
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
    """The whole trajectory, up to the last turn; weight 1 on the turns that are trained. Nothing sampled is tokenized
    again."""
    sample = TrainingSample(name, [], [], [], [], [], objective)
    extend(sample, prompt_ids, Origin.PROMPT)
    for number, step in enumerate(steps, start=1):
        ids, thought = step.turn.ids, step.revision
        extend(sample, ids[:thought], Origin.REVISION, step.trained)
        extend(sample, ids[thought:], Origin.POLICY, step.trained, step.turn.logprobs[thought:])
        if number < len(steps):
            extend(sample, encoder.next_turn_ids(step.observation, step.turn.ended), Origin.ENVIRONMENT)
    return sample


def extend(
    sample: TrainingSample, ids: list[int], origin: Origin, trained: bool = False, logprobs: list[float] | None = None
) -> None:
    """Append tokens of one origin; weight 1 where they are ``trained``."""
    sample.input_ids += ids
    sample.origin += [origin] * len(ids)
    sample.trained += [int(trained)] * len(ids)
    sample.token_weights += [float(trained)] * len(ids)
    sample.behaviour_logprobs += logprobs or [0.0] * len(ids)
