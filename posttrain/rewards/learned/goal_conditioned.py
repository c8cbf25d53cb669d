"""How likely a completion is to end well, token by token: the cosine of its hidden states to a goal state.

The Q-value of arXiv 2407.13887: method ``reward_model`` trains the states and keeps the goal states with the model.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.config_errors import unknown
from posttrain.errors import JobError
from posttrain.rewards.learned.learned import BaseRewardModel
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from torch import Tensor

    from posttrain.rewards.learned.reward_scorer import Reading

GOAL_STATES_FILE = "goal_states.safetensors"
PREFERRED = "preferred"  # the goal of all preferred completions


class GoalConditionedReward(BaseRewardModel):
    """``{type: goal_conditioned, model: FOLDER}``: a model of method ``reward_model``, best with ``contrastive``.

    The score is one of the parts ``q_last``, ``q_mean`` and ``q_min``, in [-1, 1]; ``token_scores`` are the Q of
    every token, and ``parts["reward_model"]`` is the score of the model's head.

    A completion whose ``finish_reason`` is not "stop" is read as it is, without what ends a turn. States of an ending
    are nearest to the goal, a mean of final states: to compare beginnings with endings, as guided decoding does, the
    minimum is fairer than the last.
    """

    type: Literal["goal_conditioned"] = "goal_conditioned"
    goal: str = Field(default=PREFERRED, description="which goal state: preferred, or a value of the run's goal_key")
    pooling: Literal["last", "mean", "min"] = Field(
        default="last", description="the Q that is the score: at the last token, or over all tokens so far"
    )

    def make(self) -> Reward:
        _ = self._goal_state  # loaded here
        return super().make()

    @cached_property
    def _goal_state(self) -> "Tensor":
        """Of that name, beside the model, float32 [hidden]. Raises ``JobError`` where there is none."""
        from safetensors.torch import load_file
        from transformers.utils import cached_file

        try:
            file = cached_file(self.model, GOAL_STATES_FILE, revision=self.revision)
        except OSError as error:
            raise JobError(
                f"reward model {self.model!r} has no {GOAL_STATES_FILE}; train one with method: reward_model, which "
                "keeps it beside the model"
            ) from error
        states: dict[str, Tensor] = load_file(str(file))
        if self.goal not in states:
            what = f"reward.goal: {self.goal!r} is none of the goals of {self.model!r}"
            raise JobError(unknown(what, self.goal, sorted(states)))
        return states[self.goal]

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        texts = [self.scorer.encode(item) for item in inputs]
        return [self._output(reading) for reading in self.scorer.read(texts, with_states=True)]

    def _output(self, reading: "Reading") -> RewardOutput:
        from posttrain.objectives.preference import goal_values

        if reading.score is None or reading.states is None:
            return reading.output()
        values: list[float] = goal_values(reading.states[1:], self._goal_state).tolist()
        if not values:
            return RewardOutput(None, error="invalid_input", message="the completion has no token")
        pooled = {"q_last": values[-1], "q_mean": sum(values) / len(values), "q_min": min(values)}
        output = reading.output(pooled[f"q_{self.pooling}"], {**pooled, "reward_model": reading.score})
        output.token_scores = values
        return output
