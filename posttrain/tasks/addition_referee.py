"""Additions to solve and additions to referee, made from a seed: the smallest data with all three kinds of URPO."""

import random
from dataclasses import replace
from functools import cached_property
from typing import Literal

from pydantic import Field, model_validator

from posttrain.rewards.judge.judgement import load_template
from posttrain.rewards.judge.referee import Referee
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.reward import Reward
from posttrain.tasks.arithmetic import ArithmeticConfig
from posttrain.tasks.task import ConfiguredTask
from posttrain.types import Example

RANDOM_SCORES = (3, 8)  # two, so that reinforcement has one thing to learn about each


class AdditionRefereeConfig(ConfiguredTask):
    """The training problems are dealt to the three kinds. A preference pair is two answers to one problem, the one
    nearer to the truth preferred; half of the pairs hold the exact answer. A held-out problem is there to be solved and
    as a pair. ``metadata["distance"]`` of a pair: by how much more the worse answer is off.

    ``demonstrations`` are examples of both forms for a warm start: verifiable problems with their answers, and pairs
    with the nearer answer worked out, and *random* scores after it.
    """

    type: Literal["addition_referee"] = "addition_referee"
    problems: ArithmeticConfig = Field(default_factory=ArithmeticConfig)
    preference: float = Field(default=0.4, ge=0, le=1, description="share of the training problems")
    open: float = Field(default=0.2, ge=0, le=1, description="share of the training problems")
    largest_error: int = Field(default=50, ge=2, description="most that a wrong answer is off by")
    form: Literal["training", "demonstrations"] = "training"
    template: str = Field(default="compact", description="of the referee's prompt, in demonstrations")
    seed: int = Field(default=0, ge=0, description="of the pairs")

    @model_validator(mode="after")
    def _shares_fit(self) -> "AdditionRefereeConfig":
        if self.preference + self.open > 1:
            raise ValueError("preference and open are shares of the problems: together at most 1")
        return self

    def reward(self) -> Reward:
        """Exact match of the last integer."""
        return ExactIntegerReward()

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        problems = self.problems.build()
        train, held_out = problems.train_examples(), problems.eval_examples()
        pairs = round(self.preference * len(train))
        ends = pairs + round(self.open * len(train))
        ranked, open_ones = map(self._pair, train[:pairs]), [replace(each, task="open") for each in train[pairs:ends]]
        if self.form == "demonstrations":
            referee = Referee(load_template(self.template))
            return [*(_with_random_scores(referee, each) for each in ranked), *train[ends:]], held_out
        return [*ranked, *open_ones, *train[ends:]], [*held_out, *map(self._pair, held_out)]

    def _pair(self, example: Example) -> Example:
        rng = random.Random(f"{self.seed}/{example.id}")
        truth = int(str(example.answer))
        low = rng.randint(1, self.largest_error - 1) if rng.random() < 0.5 else 0
        high = rng.randint(low + 1, self.largest_error)
        answers = [
            str(truth + error if error > truth else truth + error * rng.choice([-1, 1])) for error in (low, high)
        ]
        metadata = example.metadata | {"distance": high - low}
        return replace(
            example, id=f"pair:{example.id}", candidates=answers, task="preference", demonstration=None,
            metadata=metadata,
        )  # fmt: skip


def _with_random_scores(referee: Referee, pair: Example) -> Example:
    """The referee's prompt, and a reply in its form: `18,0,7,1` works out the sum, how far off each answer is and which
    is nearer, and the scores do not heed it."""
    rng = random.Random(f"scores/{pair.id}")
    shown = referee.shown(pair, rng.sample(range(2), 2))
    truth = int(str(pair.answer))
    off = [abs(int(text) - truth) for text in shown.candidates]
    thoughts = [truth, *off, 1 + off.index(min(off))]
    scores = [rng.choice(RANDOM_SCORES) for _ in shown.candidates]
    return replace(shown, demonstration=f"{','.join(map(str, thoughts))}\nScores: {scores}")
