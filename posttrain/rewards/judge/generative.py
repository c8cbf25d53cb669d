"""A language model as judge: it is asked in one of four ways, and what it replies becomes the score."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property, partial
from itertools import groupby
from threading import Lock
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.config import component_union
from posttrain.errors import DataError
from posttrain.objectives.agreement import SelfReward
from posttrain.rewards.judge.chat_endpoint import EndpointConfig
from posttrain.rewards.judge.disk_cache import DiskCache
from posttrain.rewards.judge.judge_engine import EngineJudgeConfig, PolicyJudge, PolicyJudgeConfig
from posttrain.rewards.judge.judge_modes import Ask, Judging, pairwise, pointwise, yes_probability
from posttrain.rewards.judge.judgement import Conversation, Judge, JudgeTemplate, Reply, load_template
from posttrain.rewards.judge.referee import Referee
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Sampling

if TYPE_CHECKING:
    from posttrain.rollout.engine import RolloutEngine

TOP_TOKENS = 20  # the most that OpenAI and vLLM give


class JudgeReward(ConfiguredReward):
    """A reward that asks a language model; a subclass says what (``judging``). Neighbours of one example are a group;
    equal questions of a batch are asked once.

    Errors: ``unparseable`` for a reply outside the grammar of ``rewards.judge.judgement``; ``unavailable`` and
    ``timeout`` where the judge did not reply; ``invalid_input`` for an example that lacks what the mode or the template
    needs, or a question longer than the judge's context.
    """

    judge: component_union(EndpointConfig, EngineJudgeConfig, PolicyJudgeConfig)  # type: ignore[valid-type]
    template: str | None = Field(default=None, description="a YAML file; null: the built-in one")
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.0, max_completion_tokens=1024))
    max_candidates: int = Field(default=8, ge=1, description="of several in one question, the most completions")
    seed: int = Field(default=0, ge=0)
    cache: str | None = Field(default=None, description="SQLite file that keeps replies over runs; null: none")

    @model_validator(mode="after")
    def _the_policy_is_not_cached(self) -> "JudgeReward":
        if self.cache is not None and isinstance(self.judge, PolicyJudgeConfig):
            raise ValueError("cache: the replies of the policy change with its weights; leave cache out")
        return self

    def make(self) -> Reward:
        """Raises: JobError, where the template, the cache or the API key cannot be used."""
        _ = self._template, self._judge, self._cache
        return self

    @property
    def top(self) -> int:
        """How many of the likeliest first tokens are asked for instead of a text; 0: the text."""
        return 0

    @property
    def built_in_template(self) -> str:
        return "listwise"

    @cached_property
    def _template(self) -> JudgeTemplate:
        return load_template(self.template or self.built_in_template)

    @cached_property
    def _judge(self) -> Judge:
        judge: Judge = self.judge.build()
        return judge

    @cached_property
    def _cache(self) -> DiskCache | None:
        return DiskCache(self.cache) if self.cache is not None else None

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
        self._judge.close()

    def lend_engine(self, engine: "RolloutEngine", turn: Lock) -> None:
        """Let a ``policy`` judge use the policy's engine, whenever it gets hold of ``turn``."""
        if isinstance(self._judge, PolicyJudge):
            self._judge.lend(engine, turn)

    def judging(self, group: list[RewardInput]) -> Judging:
        """What is asked about the completions of one example."""
        raise NotImplementedError(f"{type(self).__name__} must define judging")

    def scored_together(self, group: list[RewardInput], samples: int = 1, form: SelfReward = "score") -> Judging:
        """All completions in one question or a few, in an order drawn from the seed and the texts."""
        referee = Referee(self._template, samples, self.max_candidates, form)
        return referee.judging(group, derive_seed(self.seed, *(item.completion for item in group)))

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
        sampling = Sampling(temperature=0.0, max_completion_tokens=1) if top else self.sampling
        settings = [self._judge.identity, sampling.model_dump(), self.seed, top]
        texts = [json.dumps([*settings, question], sort_keys=True) for question in questions]
        keys = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
        asked = dict(zip(keys, questions, strict=True))
        known = {} if self._cache is None else {key: _loads(text) for key, text in self._cache.get(asked).items()}
        open_keys = [key for key in asked if key not in known]
        new = self._judge.replies([asked[key] for key in open_keys], sampling, self.seed, top) if open_keys else []
        found = dict(zip(open_keys, new, strict=True))
        if self._cache is not None:
            kept = {key: [reply.text, reply.first_tokens] for key, reply in found.items() if reply.error is None}
            self._cache.put({key: json.dumps(reply) for key, reply in kept.items()})
        return [(known | found)[key] for key in keys]


class GenerativeReward(JudgeReward):
    """``{type: generative, judge: {type: endpoint, base_url: ..., model: ...}}``, asked in one of four ways."""

    type: Literal["generative"] = "generative"
    mode: Literal["pointwise", "yes_probability", "pairwise", "listwise"] = "pointwise"
    yes: tuple[str, ...] = Field(default=("yes",), min_length=1, description="yes_probability: any case and spacing")
    no: tuple[str, ...] = Field(default=("no",), min_length=1)
    min_answer_mass: float = Field(default=0.1, ge=0, le=1, description="less probability on yes and no: unparseable")
    against: Literal["reference", "group"] = Field(default="reference", description="pairwise: compared with what")
    opponents: int = Field(default=1, ge=1, description="pairwise: references, or next ones in the group")

    @property
    def name(self) -> str:
        return "judge"

    @property
    def top(self) -> int:
        return TOP_TOKENS if self.mode == "yes_probability" else 0

    @property
    def built_in_template(self) -> str:
        return self.mode

    def judging(self, group: list[RewardInput]) -> Judging:
        ask: Ask = partial(self._template.conversation, group[0].example, seed=self.seed)
        if self.mode == "pointwise":
            return pointwise(group, ask)
        if self.mode == "yes_probability":
            return yes_probability(group, ask, self.yes, self.no, self.min_answer_mass)
        if self.mode == "pairwise":
            return pairwise(group, ask, self.against, self.opponents)
        return self.scored_together(group)


class RefereeReward(JudgeReward):
    """``{type: referee, judge: {type: engine, model: RUN/model}}``: a model as it refereed in its URPO training. The
    completions of an example are scored against each other."""

    type: Literal["referee"] = "referee"
    samples: int = Field(default=1, ge=1, description="questions about each completion, in orders of their own")
    self_reward: SelfReward = Field(default="score", description="rank: only the order of the scores counts")

    def judging(self, group: list[RewardInput]) -> Judging:
        return self.scored_together(group, self.samples, self.self_reward)


def _loads(text: str) -> Reply:
    reply, first_tokens = json.loads(text)
    return Reply(reply, tuple((token, logprob) for token, logprob in first_tokens))
