"""One thing to score, as JSON spells it: the row of ``posttrain score`` and the item of the scoring API."""

import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example, FinishReason, Message, TaskKind


class ScoreItem(BaseModel):
    """A completion with what it answers. Further columns reach the reward by their name, as ``metadata``."""

    model_config = ConfigDict(extra="allow", strict=True)

    id: str | int | None = None
    prompt: str | list[Message] = Field(default="", description="text, or messages with role and content")
    completion: str
    answer: str | list[str] | int | float | None = None
    references: list[str] = Field(default_factory=list)
    demonstration: str | list[str] | None = None
    candidates: list[str] = Field(default_factory=list)
    task: TaskKind = "verifiable"
    completion_ids: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    finish_reason: FinishReason = "stop"

    def reward_input(self, default_id: str) -> RewardInput:
        """What a reward sees; ``default_id`` names an item that has no id of its own."""
        own_id = default_id if self.id is None else str(self.id)
        answer = self.answer if self.answer is None or isinstance(self.answer, list) else str(self.answer)
        others = (self.references, self.demonstration, self.candidates, self.task)
        example = Example(own_id, self.prompt, answer, *others, metadata=dict(self.model_extra or {}))
        return RewardInput(example, self.completion, self.completion_ids, self.finish_reason)


def output_values(output: RewardOutput, with_token_scores: bool = True) -> dict[str, Any]:
    """Score, parts and error as JSON spells them; null for what is not finite."""
    parts = {name: _finite(value) for name, value in output.parts.items()}
    values: dict[str, Any] = {"score": output.score, "parts": parts, "error": output.error}
    if with_token_scores and output.token_scores:
        values["token_scores"] = list(map(_finite, output.token_scores))
    return values


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
