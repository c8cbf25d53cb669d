"""OREAL's token-level reward model (arXiv 2502.06781) as a reward of its own: which tokens lead to a right answer."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from posttrain.errors import JobError
from posttrain.rewards.learned.learned import BaseRewardModel
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.learned.reward_scorer import Classifier, Reading


class TokenReward(BaseRewardModel):
    """``{type: token_reward_model, model: runs/NAME/model/token_reward_model}``, written by method ``oreal``.

    The score is the predicted probability of a right answer, sigmoid(mean_t s_t) (eq. 12), in (0, 1).
    ``token_scores`` are s_t, the logits of the completion's tokens, the end of the turn included where it was reached;
    their mean is the part ``mean_logit``. A completion without tokens is ``invalid_input``.
    """

    type: Literal["token_reward_model"] = "token_reward_model"
    fp32_head: bool = Field(default=True, description="of bfloat16: the head in float32, as it was trained")

    def make(self) -> Reward:
        """Raises: also JobError, where the model's config does not say where a token's score is read."""
        if self._score_position not in ("before_token", "after_token"):
            raise JobError(
                f"{self.model!r} does not say where a token's score is read (score_position in config.json), so it is "
                "no token-level reward model; name the folder token_reward_model of an OREAL run, or use type: learned"
            )
        return self

    @property
    def _score_position(self) -> str | None:
        return getattr(self.scorer.model_config, "score_position", None)

    def classifier(self, max_length: int) -> "Classifier":
        from posttrain.rewards.learned.sequence_classifier import TokenClassifier

        return TokenClassifier(self)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        texts = [self.scorer.encode_sampled(item) for item in inputs]
        return [self._output(reading) for reading in self.scorer.read(texts, with_states=True)]

    def _output(self, reading: "Reading") -> RewardOutput:
        import torch

        if reading.states is None:
            return reading.output()
        scores = reading.states[:-1] if self._score_position == "before_token" else reading.states[1:]
        if not len(scores):
            return RewardOutput(None, error="invalid_input", message="the completion has no token")
        mean = scores.double().mean()
        output = reading.output(float(torch.sigmoid(mean)), {"mean_logit": float(mean)})
        output.token_scores = scores.tolist()
        return output
