"""Judges that run in an engine of this process: one of their own, or the policy's."""

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError, JobError
from posttrain.rewards.judge.judgement import Conversation, Reply, question_seed
from posttrain.rollout.config import EngineConfig, TransformersEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.types import Example, RolloutRequest, Sampling


class EngineJudgeConfig(Config):
    """``{type: engine, model: FOLDER, engine: {type: vllm}}``."""

    type: Literal["engine"] = "engine"
    model: str = Field(description="folder or hub id of the judge")
    engine: EngineConfig = Field(default_factory=TransformersEngineConfig)

    def build(self) -> "EngineJudge":
        return EngineJudge(self)


class PolicyJudgeConfig(Config):
    """``{type: policy}``: the policy being trained judges its own completions, with its weights of that step."""

    type: Literal["policy"] = "policy"

    def build(self) -> "PolicyJudge":
        return PolicyJudge()


def model_files(model: str) -> list[tuple[str, int, int]]:
    """What tells the models that were in one folder apart: names, sizes and dates; nothing of a hub id."""
    files = ((file.name, file.stat()) for file in sorted(Path(model).glob("*")))
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]


class EngineJudge:
    """A ``Judge``; the model is loaded with the first question."""

    def __init__(self, config: EngineJudgeConfig) -> None:
        self.config = config
        self.identity: Mapping[str, Any] | None = {**config.model_dump(mode="json"), "files": model_files(config.model)}
        self._lock = threading.Lock()
        self._engine: RolloutEngine | None = None

    def replies(self, questions: Sequence[Conversation], sampling: Sampling, seed: int, top: int) -> list[Reply]:
        with self._lock:
            if self._engine is None:
                self._engine = self.config.engine.build(model_path=self.config.model)
            return engine_replies(self._engine, questions, sampling, seed, top)

    def close(self) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.close()
            self._engine = None


class PolicyJudge:
    """A ``Judge`` with an engine that is lent to it. It waits for its ``turn``: whoever draws rollouts from the engine
    on another thread holds the lock meanwhile."""

    identity: Mapping[str, Any] | None = None  # its weights change with every step

    def __init__(self) -> None:
        self._lent: tuple[RolloutEngine, threading.Lock] | None = None

    def lend(self, engine: RolloutEngine, turn: threading.Lock) -> None:
        self._lent = (engine, turn)

    def replies(self, questions: Sequence[Conversation], sampling: Sampling, seed: int, top: int) -> list[Reply]:
        if self._lent is None:
            raise JobError("judge.type is policy, but there is no policy outside training; name an endpoint or engine")
        engine, turn = self._lent
        with turn:
            return engine_replies(engine, questions, sampling, seed, top)

    def close(self) -> None:
        """The engine is its owner's to end."""


def engine_replies(
    engine: RolloutEngine, questions: Sequence[Conversation], sampling: Sampling, seed: int, top: int
) -> list[Reply]:
    """One reply a question; ``invalid_input`` for a question that, with its budget, is longer than the context. With
    ``top``, only the likeliest first tokens."""
    encoder = PromptEncoder(engine.tokenizer, engine.context_length - sampling.max_completion_tokens)
    replies: dict[str, Reply] = {}
    requests: list[RolloutRequest] = []
    for number, question in enumerate(questions):
        example = Example(f"judgement {number}", question)
        try:
            ids = encoder.prompt_ids(example)
        except DataError as error:
            replies[example.id] = Reply(error="invalid_input", message=str(error))
        else:
            request = RolloutRequest(example.id, example, ids, sampling, question_seed(seed, question), role="judge")
            requests.append(request)
    if top:
        for request, logprobs in zip(requests, engine.next_token_logprobs(requests, top), strict=True):
            tokens = tuple((engine.tokenizer.decode([token]), logprob) for token, logprob in logprobs.items())
            replies[request.id] = Reply(first_tokens=tokens)
    else:
        replies |= {rollout.request_id: Reply(rollout.text) for rollout in engine.generate(requests)}
    return [replies[f"judgement {number}"] for number in range(len(questions))]
