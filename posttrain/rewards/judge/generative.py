"""A language model as judge: it is asked in one of four ways, and what it replies becomes the score."""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from posttrain.config import component_union
from posttrain.errors import DataError
from posttrain.objectives.agreement import SelfReward
from posttrain.rewards.judge.chat_endpoint import EndpointConfig
from posttrain.rewards.judge.judge_engine import EngineJudgeConfig, PolicyJudge, PolicyJudgeConfig
from posttrain.rewards.judge.judge_modes import Ask, Judging, pairwise, pointwise, yes_probability
from posttrain.rewards.judge.judgement import Conversation, Judge, Reply, load_template
from posttrain.rewards.judge.referee import Referee
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Sampling

if TYPE_CHECKING:
    from posttrain.rollout.engine import RolloutEngine

TOP_TOKENS = 20  # the most that OpenAI and vLLM give


class JudgeConfig(BaseRewardConfig):
    """What every reward that asks a language model is told: whom, how, and what becomes of the replies."""

    judge: component_union(EndpointConfig, EngineJudgeConfig, PolicyJudgeConfig)  # type: ignore[valid-type]
    template: str | None = Field(default=None, description="a YAML file; null: the built-in one")
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.0, max_completion_tokens=1024))
    max_candidates: int = Field(default=8, ge=1, description="of several in one question, the most completions")
    seed: int = Field(default=0, ge=0)
    cache: str | None = Field(default=None, description="SQLite file that keeps replies over runs; null: none")

    @model_validator(mode="after")
    def _the_policy_is_not_cached(self) -> "JudgeConfig":
        if self.cache is not None and isinstance(self.judge, PolicyJudgeConfig):
            raise ValueError("cache: the replies of the policy change with its weights; leave cache out")
        return self


class GenerativeConfig(JudgeConfig):
    """``{type: generative, judge: {type: endpoint, base_url: ..., model: ...}}``."""

    type: Literal["generative"] = "generative"
    mode: Literal["pointwise", "yes_probability", "pairwise", "listwise"] = "pointwise"
    yes: tuple[str, ...] = Field(default=("yes",), min_length=1, description="yes_probability: any case and spacing")
    no: tuple[str, ...] = Field(default=("no",), min_length=1)
    min_answer_mass: float = Field(default=0.1, ge=0, le=1, description="less probability on yes and no: unparseable")
    against: Literal["reference", "group"] = Field(default="reference", description="pairwise: compared with what")
    opponents: int = Field(default=1, ge=1, description="pairwise: references, or next ones in the group")

    def make(self) -> Reward:
        return GenerativeReward(self)


class RefereeConfig(JudgeConfig):
    """``{type: referee, judge: {type: engine, model: RUN/model}}``: a model as it refereed in its URPO training."""

    type: Literal["referee"] = "referee"
    samples: int = Field(default=1, ge=1, description="questions about each completion, in orders of their own")
    self_reward: SelfReward = Field(default="score", description="rank: only the order of the scores counts")

    def make(self) -> Reward:
        return RefereeReward(self)


class JudgeReward:
    """A reward that asks; a subclass says what (``judging``). Neighbours of one example are a group, as trainers score
    them; equal questions of a batch are asked once.

    Errors: ``unparseable`` for a reply outside the grammar of ``rewards.judge.judgement``; ``unavailable`` and
    ``timeout`` where the judge did not reply; ``invalid_input`` for an example that lacks what the mode or the template
    needs, or a question longer than the judge's context.

    Raises:
        JobError: the template, the cache or the API key cannot be used.
    """

    name = "judge"
    top = 0  # likeliest first tokens that are asked for instead of a text

    def __init__(self, config: JudgeConfig, template: str) -> None:
        from posttrain.rewards.judge.disk_cache import DiskCache

        self.config = config
        self.template = load_template(config.template or template)
        self.judge: Judge = config.judge.build()
        self.cache = DiskCache(config.cache) if config.cache is not None else None

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        groups = [list(group) for _, group in groupby(inputs, key=lambda item: item.example.id)]
        judgings = [self._judging(group) for group in groups]
        replies = self._replies([question for judging in judgings for question in judging.questions])
        outputs: list[RewardOutput] = []
        for judging in judgings:
            asked, replies = replies[: len(judging.questions)], replies[len(judging.questions) :]
            outputs += judging.outputs(asked)
        return outputs

    def close(self) -> None:
        self.judge.close()

    def lend_engine(self, engine: "RolloutEngine", turn: Lock) -> None:
        """Let a ``policy`` judge use the policy's engine, whenever it gets hold of ``turn``."""
        if isinstance(self.judge, PolicyJudge):
            self.judge.lend(engine, turn)

    def judging(self, group: list[RewardInput]) -> Judging:
        """What is asked about the completions of one example."""
        raise NotImplementedError(f"{type(self).__name__} must define judging")

    def scored_together(self, group: list[RewardInput], samples: int = 1, form: SelfReward = "score") -> Judging:
        """All completions in one question or a few, in an order drawn from the seed and the texts."""
        referee = Referee(self.template, samples, self.config.max_candidates, form)
        return referee.judging(group, derive_seed(self.config.seed, *(item.completion for item in group)))

    def _judging(self, group: list[RewardInput]) -> Judging:
        from jinja2 import TemplateError

        try:
            return self.judging(group)
        except (TemplateError, DataError) as error:
            message = f"the judge's template cannot be filled: {error}"
            return Judging([], lambda _: [RewardOutput(None, error="invalid_input", message=message) for _ in group])

    def _replies(self, questions: Sequence[Conversation]) -> list[Reply]:
        """A reply for each question; those in the cache are not asked, and those without an error go into it."""
        top = self.top
        sampling = Sampling(temperature=0.0, max_completion_tokens=1) if top else self.config.sampling
        settings = [self.judge.identity, sampling.model_dump(), self.config.seed, top]
        keys = [_digest([*settings, question]) for question in questions]
        asked = dict(zip(keys, questions, strict=True))
        known = {} if self.cache is None else {key: _loads(text) for key, text in self.cache.get(asked).items()}
        open_keys = [key for key in asked if key not in known]
        new = (
            self.judge.replies([asked[key] for key in open_keys], sampling, self.config.seed, top) if open_keys else []
        )
        found = dict(zip(open_keys, new, strict=True))
        if self.cache is not None:
            self.cache.put({key: _dumps(reply) for key, reply in found.items() if reply.error is None})
        return [(known | found)[key] for key in keys]


class GenerativeReward(JudgeReward):
    """A judge that is asked in one of four ways."""

    config: GenerativeConfig

    def __init__(self, config: GenerativeConfig) -> None:
        super().__init__(config, config.mode)
        self.top = TOP_TOKENS if config.mode == "yes_probability" else 0

    def judging(self, group: list[RewardInput]) -> Judging:
        config = self.config
        ask: Ask = partial(self.template.conversation, group[0].example, seed=config.seed)
        if config.mode == "pointwise":
            return pointwise(group, ask)
        if config.mode == "yes_probability":
            return yes_probability(group, ask, config.yes, config.no, config.min_answer_mass)
        if config.mode == "pairwise":
            return pairwise(group, ask, config.against, config.opponents)
        return self.scored_together(group)


class RefereeReward(JudgeReward):
    """The completions of an example, scored against each other by the model that was trained for it."""

    name = "referee"
    config: RefereeConfig

    def __init__(self, config: RefereeConfig) -> None:
        super().__init__(config, "listwise")

    def judging(self, group: list[RewardInput]) -> Judging:
        return self.scored_together(group, self.config.samples, self.config.self_reward)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _dumps(reply: Reply) -> str:
    return json.dumps([reply.text, reply.first_tokens])


def _loads(text: str) -> Reply:
    reply, first_tokens = json.loads(text)
    return Reply(reply, tuple((token, logprob) for token, logprob in first_tokens))
