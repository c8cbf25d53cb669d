"""Requests taken apart into single rollouts, and finished rollouts put into their requests' order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.errors import EngineError
from posttrain.rollout.seeds import derive_seed
from posttrain.types import FinishReason, Rollout, RolloutRequest


@dataclass(slots=True, frozen=True)
class PendingRollout:
    """Rollout ``index`` of ``request``, of which at most ``max_new_tokens`` are still to be sampled; ``begun`` is what
    there is of it."""

    request: RolloutRequest
    index: int
    max_new_tokens: int
    begun: Rollout | None = None

    @property
    def given_ids(self) -> list[int]:
        """The completion so far: what was begun, or the forced prefix."""
        return self.request.prefix_ids if self.begun is None else self.begun.completion_ids

    @property
    def input_ids(self) -> list[int]:
        """What is given to the model: the prompt and the completion so far."""
        return self.request.prompt_ids + self.given_ids

    @property
    def seed(self) -> int:
        """Depends on the request's seed, the index and where a begun rollout goes on."""
        place = [] if self.begun is None else [len(self.given_ids)]
        return derive_seed(self.request.seed, self.index, *place)

    def rollout(
        self,
        sampled_ids: Sequence[int],
        logprobs: Sequence[float],
        finish_reason: FinishReason,
        policy_version: int,
        text: str,
    ) -> Rollout:
        """The rollout: the completion so far, then the sampled tokens with their log-probs. What was begun keeps its
        own log-probs and versions."""
        begun, given = self.begun, len(self.given_ids)
        return Rollout(
            request_id=self.request.id,
            index=self.index,
            prompt_ids=self.request.prompt_ids,
            completion_ids=[*self.given_ids, *sampled_ids],
            action_mask=(begun.action_mask if begun else [0] * given) + [1] * len(sampled_ids),
            logprobs=(begun.logprobs if begun else [0.0] * given) + [*logprobs],
            finish_reason=finish_reason,
            policy_version=policy_version,
            text=text,
            role=self.request.role,
            token_versions=begun.versions + [policy_version] * len(sampled_ids) if begun else [],
        )


def pending_rollouts(requests: Iterable[RolloutRequest], context_length: int) -> list[PendingRollout]:
    """What is left to draw of ``requests``, with a budget cut to what the model's context leaves.

    Raises:
        EngineError: a prompt is empty, or it and its forced prefix leave no room in the context.
    """
    pending = []
    for request in requests:
        used = len(request.prompt_ids) + len(request.prefix_ids)
        if not request.prompt_ids:
            raise EngineError(f"request {request.id!r} has an empty prompt")
        if used >= context_length:
            raise EngineError(
                f"request {request.id!r}: prompt and forced prefix have {used} tokens, the model's context has "
                f"{context_length}; shorten the prompt or drop the row"
            )
        budget = min(request.sampling.max_completion_tokens, context_length - len(request.prompt_ids))
        for index in range(request.n):
            begun = request.begun.get(index)
            if begun is None or begun.finish_reason == "aborted":
                given = len(request.prefix_ids if begun is None else begun.completion_ids)
                pending.append(PendingRollout(request, index, max(0, budget - given), begun))
    return pending


def in_request_order(rollouts: Iterable[Rollout], requests: Sequence[RolloutRequest]) -> list[Rollout]:
    """``rollouts`` ordered by their request's place in ``requests``, then by index."""
    place = {request.id: number for number, request in enumerate(requests)}
    return sorted(rollouts, key=lambda rollout: (place[rollout.request_id], rollout.index))
