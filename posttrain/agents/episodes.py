"""An episode as tokens: the policy's turns as it sampled them, and what the environment said in between."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.seeds import derive_seed
from posttrain.types import FinishReason, Origin, Rollout, RolloutRequest


@dataclass(slots=True)
class Turn:
    """What the policy sampled at one place."""

    text: str
    ids: list[int]
    logprobs: list[float]
    ended: bool

    @classmethod
    def of(cls, rollout: Rollout) -> "Turn":
        return cls(rollout.text, rollout.completion_ids, rollout.logprobs, rollout.finish_reason == "stop")


@dataclass(slots=True)
class Episode:
    """Rollout ``index`` of ``request``, turn by turn, from ``position`` on. Nothing sampled is tokenized again."""

    request: RolloutRequest
    index: int
    position: Position
    completion_ids: list[int] = field(default_factory=list)
    action_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    result: StepResult = field(default_factory=lambda: StepResult(""))
    finish_reason: FinishReason | None = None
    policy_version: int = 0
    valid_actions: int = 0

    def turn_request(self, max_turn_tokens: int, context_length: int) -> RolloutRequest | None:
        """The next turn; None where the episode is over, as it is where budget or context leave no token for it."""
        if self.finish_reason is not None:
            return None
        request, used = self.request, len(self.completion_ids)
        left = min(request.sampling.max_completion_tokens, context_length - len(request.prompt_ids)) - used
        if left <= 0:
            self.finish_reason = "length"
            return None
        number = len(self.position.turns)
        prefix = [] if self.completion_ids else request.prefix_ids
        budget = min(left, max_turn_tokens + len(prefix))
        return RolloutRequest(
            id=f"{request.id}/{self.index}/{number}",
            example=request.example,
            prompt_ids=request.prompt_ids + self.completion_ids,
            sampling=request.sampling.model_copy(update={"max_completion_tokens": budget}),
            seed=derive_seed(request.seed, self.index, number),
            prefix_ids=prefix,
            role=request.role,
        )

    def take(self, turn: Rollout, result: StepResult, encoder: PromptEncoder) -> None:
        """The policy's turn, and what the environment said to it; the last observation is left out."""
        self.position = self.position.after(turn.text)
        self.policy_version = turn.policy_version
        self.completion_ids += turn.completion_ids
        self.action_mask += turn.action_mask
        self.logprobs += turn.logprobs
        self.turns.append(turn.text)
        self.result = result
        self.valid_actions += result.valid
        if result.done or result.failed:
            self.finish_reason = "aborted" if result.failed else "stop"
            return
        ids = encoder.next_turn_ids(result.observation, turn_ended=turn.finish_reason == "stop")
        self.completion_ids += ids
        self.action_mask += [0] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def rollout(self, encoder: PromptEncoder) -> Rollout:
        """The finished episode. An observation that nothing follows is dropped."""
        assert self.finish_reason is not None
        end = max((place for place, sampled in enumerate(self.action_mask, start=1) if sampled), default=0)
        failed = self.result.failed
        return Rollout(
            request_id=self.request.id,
            index=self.index,
            prompt_ids=self.request.prompt_ids,
            completion_ids=self.completion_ids[:end],
            action_mask=self.action_mask[:end],
            logprobs=self.logprobs[:end],
            finish_reason=self.finish_reason,
            policy_version=self.policy_version,
            text=encoder.text(self.completion_ids[:end]),
            role=self.request.role,
            given=Origin.ENVIRONMENT,
            outcome=None if failed else self.result.reward,
            turns=self.turns,
            valid_actions=self.valid_actions,
        )


def count_turns(action_mask: Sequence[int]) -> int:
    """The policy's turns in an episode: the runs of 1."""
    return sum(bit and not before for before, bit in zip([0, *action_mask], action_mask, strict=False))
