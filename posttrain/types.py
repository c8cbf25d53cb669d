"""The nouns: what travels between the stages of a training step.

``Example`` -> ``RolloutRequest`` -> ``Rollout`` -> ``RolloutGroup`` -> ``TrainingSample``. Token ids flow from the
engine to the update untouched; every token of a training sample carries its origin.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

from pydantic import Field

from posttrain.config import Config

Message = dict[str, str]
TaskKind = Literal["verifiable", "preference", "open", "environment"]
FinishReason = Literal["stop", "length", "aborted"]
ImportanceMode = Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"]
ErrorKind = Literal["timeout", "crashed", "unparseable", "invalid_input", "unavailable", "not_finite"]


class Origin(IntEnum):
    """Who wrote a token."""

    PROMPT = 0
    POLICY = 1
    EXPERT = 2
    ENVIRONMENT = 3
    REVISION = 4


class Sampling(Config):
    """How an engine draws tokens."""

    temperature: float = Field(default=1.0, ge=0.0, description="0 is greedy")
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0, description="0 is off")
    max_completion_tokens: int = Field(default=512, ge=1, description="budget of a completion, forced prefix included")
    stop_token_ids: tuple[int, ...] = Field(default=(), description="end a completion, besides the tokenizer's EOS")


@dataclass(slots=True)
class Example:
    """One dataset row, checked."""

    id: str
    prompt: str | list[Message]
    answer: str | list[str] | None = None
    references: list[str] = field(default_factory=list)
    demonstration: str | list[str] | None = None
    candidates: list[str] = field(default_factory=list)
    task: TaskKind = "verifiable"
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class RolloutRequest:
    """``n`` rollouts of one prompt. Rollout ``i`` is drawn with a seed derived from ``(seed, i)`` alone, so it does
    not depend on what else is in the batch and can be resubmitted by itself. Requests of one ``group`` (a number within
    the step) make one ``RolloutGroup``. ``begun`` holds rollouts of earlier steps by index: an engine goes on with what
    was aborted, and does not draw the others again."""

    id: str
    example: Example
    prompt_ids: list[int]
    sampling: Sampling
    seed: int
    n: int = 1
    prefix_ids: list[int] = field(default_factory=list)
    role: str = "policy"
    group: int = 0
    begun: "dict[int, Rollout]" = field(default_factory=dict)


@dataclass(slots=True)
class Rollout:
    """One sampled trajectory, token in and token out.

    ``completion_ids``, ``action_mask`` and ``logprobs`` have one entry per completion token, the forced prefix first
    and the stop token included. ``action_mask`` is 1 where the policy sampled the token. ``logprobs`` are natural
    logs under the distribution that was really sampled (after temperature, top-k and top-p); 0.0 where
    ``action_mask`` is 0; those tokens are of origin ``given``. ``reward`` is None until scored, and stays None when
    ``error`` says why it could not be. ``outcome`` is the final score of an environment, and None without one;
    ``turns`` are the texts of the policy's turns in it, ``valid_actions`` counts those that it could carry out.
    ``token_versions``, where a rollout was aborted and gone on with, has the policy version of each completion token;
    ``policy_version`` is then the last one.
    """

    request_id: str
    index: int
    prompt_ids: list[int]
    completion_ids: list[int]
    action_mask: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    policy_version: int
    text: str
    role: str = "policy"
    given: Origin = Origin.EXPERT
    outcome: float | None = None
    turns: list[str] = field(default_factory=list)
    valid_actions: int = 0
    reward: float | None = None
    reward_parts: dict[str, float] = field(default_factory=dict)
    error: ErrorKind | None = None
    error_message: str = ""
    token_versions: list[int] = field(default_factory=list)

    @property
    def versions(self) -> list[int]:
        """The policy version of each completion token."""
        return self.token_versions or [self.policy_version] * len(self.completion_ids)


@dataclass(slots=True)
class RolloutGroup:
    """The rollouts of one example."""

    example: Example
    rollouts: list[Rollout]


@dataclass(slots=True)
class TrainingSample:
    """What the update consumes. The per-token lists have one entry per entry of ``input_ids``.

    ``token_weights`` is the advantage or weight of a token, 0.0 on every token that is not trained.
    ``trained`` is 1 on the tokens that count in the loss's normaliser (a trained token may have weight 0).
    ``behaviour_logprobs`` is 0.0 outside the completion. ``objective`` names the term of the loss that the sample
    enters (for example OREAL's "clone" or "push_down").
    """

    id: str
    input_ids: list[int]
    origin: list[Origin]
    trained: list[int]
    token_weights: list[float]
    behaviour_logprobs: list[float]
    objective: str = "policy"
    metadata: dict[str, Any] = field(default_factory=dict)
