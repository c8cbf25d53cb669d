"""Do the losses alone teach? A table of logits instead of a model, one-token completions, the real objectives.

40 contexts x 6 actions, one right action per context. 60 steps of plain SGD on 16 contexts, K samples each; one
random right and one random wrong sample per mixed group for OREAL, one random right sample for RAFT. The measure is
the mean probability of the right action over all contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pytest
import torch
from torch import Tensor

from posttrain.objectives.advantages import leave_one_out
from posttrain.objectives.oreal import (
    NegativeShaping,
    OREALCounts,
    negative_shaping,
    oreal_loss,
    positive_shaping,
)

CONTEXTS, ACTIONS, STEPS, CONTEXTS_PER_STEP, LEARNING_RATE = 40, 6, 60, 16, 5.0
SEEDS = range(10)


@dataclass(frozen=True)
class Arm:
    """One way to train: how rewards are seen, and what is done with them."""

    k: int = 8
    keep: Literal["pair", "best"] = "pair"
    negative_coef: float = 0.5
    shaping: NegativeShaping = "rloo"
    rewards: Literal["true", "flipped", "shuffled"] = "true"


@dataclass(frozen=True)
class Kept:
    """A sample that is trained."""

    context: int
    action: int
    weight: float
    correct: bool


def seen(correct: Tensor, arm: Arm, generator: torch.Generator) -> Tensor:
    """The outcomes [contexts, K] as the arm is told them."""
    if arm.rewards == "flipped":
        return ~correct
    if arm.rewards == "shuffled":
        return correct.flatten()[torch.randperm(correct.numel(), generator=generator)].view_as(correct)
    return correct


def draw(candidates: Tensor, generator: torch.Generator) -> int:
    positions = candidates.nonzero().flatten()
    return int(positions[torch.randint(len(positions), (1,), generator=generator)])


def kept_samples(context: int, actions: Tensor, correct: Tensor, arm: Arm, generator: torch.Generator) -> list[Kept]:
    """What a group of K samples contributes."""
    if not correct.any() or (arm.keep == "pair" and correct.all()):
        return []
    right = draw(correct, generator)
    if arm.keep == "best":
        return [Kept(context, int(actions[right]), 1.0, True)]
    wrong = draw(~correct, generator)
    rewards = torch.where(correct, 1.0, -1.0).double()
    advantages = leave_one_out(rewards)
    up = positive_shaping(advantages, "rloo")
    down = negative_shaping(advantages, rewards, float(correct.double().mean()), arm.shaping)
    return [
        Kept(context, int(actions[right]), float(up[right]), True),
        Kept(context, int(actions[wrong]), float(down[wrong]), False),
    ]


def gradient(logits: Tensor, kept: Sequence[Kept], arm: Arm) -> Tensor:
    """Of OREAL's loss; with positives of weight 1 only, that is the mean negative log-likelihood of RAFT."""
    logits = logits.clone().requires_grad_()
    contexts = torch.tensor([sample.context for sample in kept])
    actions = torch.tensor([sample.action for sample in kept])
    correct = torch.tensor([sample.correct for sample in kept])
    positives = int(correct.sum())
    loss = oreal_loss(
        torch.log_softmax(logits, dim=1)[contexts, actions],
        torch.tensor([sample.weight for sample in kept], dtype=torch.float64),
        correct,
        None,
        OREALCounts(positives, len(kept) - positives, len(kept)),
        negative_coef=arm.negative_coef,
    )
    return torch.autograd.grad(loss.total, logits)[0]


def start(seed: int) -> tuple[Tensor, Tensor, torch.Generator]:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(CONTEXTS, ACTIONS, generator=generator, dtype=torch.float64)
    return logits, torch.randint(ACTIONS, (CONTEXTS,), generator=generator), generator


def success(logits: Tensor, right_actions: Tensor) -> float:
    return float(torch.softmax(logits, dim=1)[torch.arange(CONTEXTS), right_actions].mean())


def train(arm: Arm, seed: int) -> float:
    """Success after training."""
    logits, right_actions, generator = start(seed)
    for _ in range(STEPS):
        contexts = torch.randperm(CONTEXTS, generator=generator)[:CONTEXTS_PER_STEP]
        actions = torch.multinomial(torch.softmax(logits[contexts], 1), arm.k, replacement=True, generator=generator)
        correct = seen(actions == right_actions[contexts, None], arm, generator)
        kept = [
            sample
            for context, own_actions, own_correct in zip(contexts.tolist(), actions, correct, strict=True)
            for sample in kept_samples(context, own_actions, own_correct, arm, generator)
        ]
        if kept:
            logits = logits - LEARNING_RATE * gradient(logits, kept, arm)
    return success(logits, right_actions)


ARMS = {
    "oreal": Arm(),
    "positives only": Arm(negative_coef=0.0),
    "one minus p": Arm(shaping="one_minus_p"),
    "flipped": Arm(rewards="flipped"),
    "shuffled": Arm(rewards="shuffled"),
    "raft 2": Arm(k=2, keep="best"),
    "raft 4": Arm(k=4, keep="best"),
    "raft 8": Arm(k=8, keep="best"),
}


@pytest.fixture(scope="module")
def ends() -> dict[str, list[float]]:
    """Success at the end, per arm and seed."""
    return {name: [train(arm, seed) for seed in SEEDS] for name, arm in ARMS.items()}


@pytest.fixture(scope="module")
def starts() -> list[float]:
    return [success(*start(seed)[:2]) for seed in SEEDS]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_pushing_wrong_samples_down_adds_to_cloning_right_ones(ends: dict[str, list[float]]) -> None:
    for seed in SEEDS:
        assert ends["oreal"][seed] > ends["positives only"][seed] + 0.08


def test_every_arm_with_the_true_reward_learns(ends: dict[str, list[float]], starts: list[float]) -> None:
    assert mean(starts) == pytest.approx(0.184, abs=0.03)
    for name, arm in ARMS.items():
        if arm.rewards == "true":
            assert min(end - begin for end, begin in zip(ends[name], starts, strict=True)) > 0.3


def test_more_rollouts_to_choose_from_are_better(ends: dict[str, list[float]]) -> None:
    assert mean(ends["raft 4"]) > mean(ends["raft 2"]) + 0.02
    assert mean(ends["raft 8"]) > mean(ends["raft 4"]) + 0.02


def test_false_rewards_do_not_teach(ends: dict[str, list[float]], starts: list[float]) -> None:
    assert max(ends["flipped"]) < 0.05
    assert mean(ends["shuffled"]) == pytest.approx(mean(starts), abs=0.1)
