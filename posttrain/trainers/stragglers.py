"""Over-sampling: a step begins more groups than it needs; those that are not whole in time go on in the next one.

Partial rollouts as in APRIL (arXiv 2509.18521): the longest completions no longer set the time of a step, and none of
their tokens is drawn twice.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from pydantic import TypeAdapter

from posttrain.errors import CheckpointError, JobError
from posttrain.rollout.engine import RolloutEngine
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.types import Example, Rollout, RolloutRequest

_REQUESTS = TypeAdapter(list[RolloutRequest])


@dataclass(slots=True)
class Stragglers:
    """What was begun and not waited for: ``requests`` that hold their rollouts so far.

    ``spare`` groups are begun beside those that a step needs, of which ``enough`` are this rank's.
    """

    spare: int
    enough: int = 0
    requests: list[RolloutRequest] = field(default_factory=list)

    @classmethod
    def of(cls, config: PolicyTrainerConfig, examples: Sequence[Example]) -> "Stragglers":
        """Without ``oversample`` there are none.

        Raises:
            JobError: there are fewer examples than a step begins, or they are tasks of an environment.
        """
        spare = math.ceil(config.oversample * config.prompts_per_step)
        if spare and config.prompts_per_step + spare > len(examples):
            raise JobError(
                f"trainer.oversample: a step begins {config.prompts_per_step} + {spare} prompts, there are "
                f"{len(examples)} to train on: one would be sampled twice at a time. Lower oversample or "
                "prompts_per_step"
            )
        if spare and any(example.task == "environment" for example in examples):
            raise JobError(
                "trainer.oversample: an episode of an environment cannot be cut and gone on with; set it to 0"
            )
        return cls(spare)

    @property
    def groups(self) -> int:
        """How many groups are kept."""
        return len({request.group for request in self.requests})

    @property
    def missing(self) -> int:
        """How many more are begun beside a step's own prompts."""
        return self.spare - self.groups

    def numbered(self, first: int) -> list[RolloutRequest]:
        """What is kept, the oldest first, its groups numbered from ``first``."""
        requests = sorted(self.requests, key=lambda request: request.id)
        numbers = {group: first + n for n, group in enumerate(dict.fromkeys(request.group for request in requests))}
        return [replace(request, group=numbers[request.group]) for request in requests]

    def whole_groups(self, engine: RolloutEngine, requests: Sequence[RolloutRequest]) -> Iterator[Rollout]:
        """The rollouts of the first ``enough`` groups of the submitted ``requests`` that are whole. Then the engine is
        told to abort, and the other requests are kept with what has been drawn of them."""
        group_of = {request.id: request.group for request in requests}
        rollouts: dict[int, list[Rollout]] = {request.group: [] for request in requests}
        undrawn: Counter[int] = Counter()
        for request in requests:
            undrawn[request.group] += request.n
        whole: set[int] = set()
        before = [rollout for request in requests for rollout in request.begun.values() if _has_ended(rollout)]
        if self.enough == 0:
            engine.abort()
        for rollout in chain(before, engine.finished()):
            group = group_of[rollout.request_id]
            rollouts[group].append(rollout)
            undrawn[group] -= _has_ended(rollout)
            if undrawn[group] == 0 and len(whole) < self.enough:
                whole.add(group)
                yield from rollouts[group]
                if len(whole) == self.enough:
                    engine.abort()
        self.requests = [_begun(request, rollouts[request.group]) for request in requests if request.group not in whole]

    def state_dict(self) -> list[dict[str, Any]]:
        """For a checkpoint: the requests as plain values."""
        plain: list[dict[str, Any]] = _REQUESTS.dump_python(self.requests, mode="json")
        return plain

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Restore ``state_dict``.

        Raises:
            CheckpointError: it holds more groups than are begun beside a step's own.
        """
        self.requests = _REQUESTS.validate_python(state)
        if self.missing < 0:
            raise CheckpointError(
                f"the checkpoint holds {self.groups} groups that were begun, and trainer.oversample has room for "
                f"{self.spare}: resume with the oversample and prompts_per_step of the run that wrote it"
            )


def _has_ended(rollout: Rollout) -> bool:
    return rollout.finish_reason != "aborted"


def _begun(request: RolloutRequest, rollouts: Sequence[Rollout]) -> RolloutRequest:
    """``request`` with those of ``rollouts`` that are its own, and of which something was sampled."""
    own = [rollout for rollout in rollouts if rollout.request_id == request.id]
    return replace(request, begun={each.index: each for each in own if _has_ended(each) or any(each.action_mask)})
