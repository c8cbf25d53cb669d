"""One thing to score, as JSON spells it: the row of ``posttrain score`` and the item of the scoring API."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from posttrain.rewards.reward import RewardInput
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
        answer = self.answer if self.answer is None or isinstance(self.answer, list) else str(self.answer)
        example = Example(
            id=default_id if self.id is None else str(self.id),
            prompt=self.prompt,
            answer=answer,
            references=self.references,
            demonstration=self.demonstration,
            candidates=self.candidates,
            task=self.task,
            metadata=dict(self.model_extra or {}),
        )
        return RewardInput(example, self.completion, self.completion_ids, self.finish_reason)
