"""Requests taken apart into single rollouts, and finished rollouts put into their requests' order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posttrain.errors import EngineError
from posttrain.rollout.seeds import derive_seed
from posttrain.types import FinishReason, Rollout, RolloutRequest


@dataclass(slots=True, frozen=True)
class PendingRollout:
    """Rollout ``index`` of ``request``, of which at most ``max_new_tokens`` are still to be sampled."""

    request: RolloutRequest
    index: int
    max_new_tokens: int

    @property
    def input_ids(self) -> list[int]:
        """What is given to the model: the prompt and the forced prefix of the completion."""
        return self.request.prompt_ids + self.request.prefix_ids

    @property
    def seed(self) -> int:
        """Depends on the request's seed and the index alone."""
        return derive_seed(self.request.seed, self.index)

    def rollout(
        self,
        sampled_ids: Sequence[int],
        logprobs: Sequence[float],
        finish_reason: FinishReason,
        policy_version: int,
        text: str,
    ) -> Rollout:
        """The finished rollout: the forced prefix, then the sampled tokens with their log-probs."""
        prefix_ids = self.request.prefix_ids
        return Rollout(
            request_id=self.request.id,
            index=self.index,
            prompt_ids=self.request.prompt_ids,
            completion_ids=[*prefix_ids, *sampled_ids],
            action_mask=[0] * len(prefix_ids) + [1] * len(sampled_ids),
            logprobs=[0.0] * len(prefix_ids) + [*logprobs],
            finish_reason=finish_reason,
            policy_version=policy_version,
            text=text,
            role=self.request.role,
        )


def pending_rollouts(requests: Iterable[RolloutRequest], context_length: int) -> list[PendingRollout]:
    """Every rollout of ``requests``, with a budget cut to what the model's context leaves.

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
        budget = min(request.sampling.max_completion_tokens - len(request.prefix_ids), context_length - used)
        pending += [PendingRollout(request, index, max(0, budget)) for index in range(request.n)]
    return pending


def in_request_order(rollouts: Iterable[Rollout], requests: Sequence[RolloutRequest]) -> list[Rollout]:
    """``rollouts`` ordered by their request's place in ``requests``, then by index."""
    place = {request.id: number for number, request in enumerate(requests)}
    return sorted(rollouts, key=lambda rollout: (place[rollout.request_id], rollout.index))
