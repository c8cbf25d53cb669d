"""A rollout engine whose rollouts are episodes: for the methods, an environment is a prompt like any other."""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posttrain.agents.alternation import alternate
from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import EnvironmentPool, Position
from posttrain.agents.episodes import Episode
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.pending import in_request_order
from posttrain.types import Rollout, RolloutRequest

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class EnvironmentEngine:
    """A ``RolloutEngine`` around another one: requests of examples of task ``environment`` are played to their end in
    ``pool``, all at once; other requests go through.

    Args:
        engine: samples the turns.
        pool: says where they lead. ``Example.metadata`` names the task and the seed, and the turns that the prompt
            already holds, if there are any.
        max_turn_tokens: budget of one turn; ``sampling.max_completion_tokens`` is that of the episode.
    """

    def __init__(self, engine: RolloutEngine, pool: EnvironmentPool, max_turn_tokens: int) -> None:
        self.engine = engine
        self.pool = pool
        self.max_turn_tokens = max_turn_tokens
        self.dtype: torch.dtype = engine.dtype
        self.tokenizer: Any = engine.tokenizer
        self.continuous = engine.continuous
        self.takes_adapter = engine.takes_adapter
        self.encoder = PromptEncoder(engine.tokenizer)
        self._playing: dict[str, Episode] = {}
        self._over: list[Rollout] = []

    @property
    def policy_version(self) -> int:
        return self.engine.policy_version

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its episode."""
        return self.engine.context_length

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Begin the episodes of ``requests``."""
        turns: list[RolloutRequest] = []
        for request in requests:
            if request.example.task != "environment":
                turns.append(request)
                continue
            data = request.example.metadata
            start = Position(data["task_id"], data["seed"], tuple(data.get("turns", ())))
            turns += self._next_turns([Episode(request, index, start) for index in range(request.n)])
        self.engine.submit(turns)

    def finished(self) -> Iterator[Rollout]:
        """Rollouts as they finish. Environments step while the engine samples the turns of other episodes."""
        yield from self._ended()
        for _ in alternate(self.engine, self.pool.config.workers, self._step, self._accept):
            yield from self._ended()

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """All rollouts of ``requests``, ordered by request and index."""
        self.submit(requests)
        return in_request_order(self.finished(), requests)

    def next_token_logprobs(self, requests: Sequence[RolloutRequest], top: int) -> list[dict[int, float]]:
        """Those of the engine inside."""
        return self.engine.next_token_logprobs(requests, top)

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, "torch.Tensor"]]], version: int) -> None:
        """Load a whole policy."""
        self.engine.update_weights(buckets, version)

    def fingerprint(self) -> Mapping[str, float]:
        """That of the weights in use."""
        return self.engine.fingerprint()

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self) -> None:
        self.engine.wake()

    def close(self) -> None:
        """End the engine and the environments."""
        self.engine.close()
        self.pool.close()

    def _step(self, rollout: Rollout) -> tuple[Rollout, StepResult | None]:
        """On a thread: let the environment answer a turn. A rollout that is no turn is passed on."""
        episode = self._playing.get(rollout.request_id)
        return rollout, self.pool.at([episode.position.after(rollout.text)])[0] if episode is not None else None

    def _accept(self, answer: tuple[Rollout, StepResult | None]) -> list[RolloutRequest]:
        rollout, result = answer
        if result is None:
            self._over.append(rollout)
            return []
        episode = self._playing.pop(rollout.request_id)
        episode.take(rollout, result, self.encoder)
        if result.failed:
            logger.warning("an episode of %s has no score: %s", episode.position.task_id, result.failed)
        return self._next_turns([episode])

    def _next_turns(self, episodes: Sequence[Episode]) -> list[RolloutRequest]:
        """The next turns of ``episodes``; those that have none are over."""
        turns: list[RolloutRequest] = []
        for episode in episodes:
            turn = None
            if episode.finish_reason is None:
                turn = episode.turn_request(self.max_turn_tokens, self.context_length)
            if turn is None:
                self._over.append(episode.rollout(self.encoder))
            else:
                self._playing[turn.id] = episode
                turns.append(turn)
        return turns

    def _ended(self) -> list[Rollout]:
        over, self._over = self._over, []
        return over
