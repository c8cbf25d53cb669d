"""The JSON that the scoring API reads and writes: its own form, and those that other trainers already speak.

``/v1/score`` carries errors item by item. The other forms have no place for one: there a request with an item that
could not be scored fails as a whole, so that a failure never looks like a score.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from posttrain.rewards.reward import RewardOutput
from posttrain.rewards.score_item import ScoreItem, output_values
from posttrain.types import ErrorKind, FinishReason, Message

SCHEMA_VERSION = 1
LONGEST_MESSAGE = 300
PATH = re.compile(r"(?:[A-Za-z]:|~|\.{1,2})?(?:[/\\][\w.+@-]+){2,}")
# These say what is wrong with an item; the messages of the others speak of the server and stay in its log.
TOLD: dict[str, str] = {
    "timeout": "no answer before the deadline",
    "crashed": "the reward failed on this item; the server's log says how",
    "unavailable": "the reward needs something that cannot be reached",
}
# vLLM reads plain texts without an end of turn; a completion that stopped would be given one.
AS_IT_IS: FinishReason = "aborted"
SPECIAL_TOKEN = r"(?:<\|[^<>|\s]{1,40}\|>|</?s>|<(?:pad|eos|bos|unk|end_of_turn|start_of_turn)>|\[(?:PAD|CLS|SEP)\])"
SPECIAL_AT_END = re.compile(rf"(?:\s*{SPECIAL_TOKEN})+\s*$")
SPECIAL_AT_START = re.compile(rf"^(?:{SPECIAL_TOKEN}\s*)+")


def _example(**values: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [values]})


class ScoreBody(BaseModel):
    """What ``/v1/score`` is asked."""

    model_config = _example(items=[{"prompt": "What is 6 * 7?", "completion": "It is \\boxed{42}.", "answer": "42"}])

    items: list[ScoreItem]
    model: str | None = Field(default=None, description="name of a reward; null: the server's first")
    timeout_s: float | None = Field(default=None, gt=0, description="a shorter deadline than the server's")
    token_scores: bool = Field(default=False, description="also the score of each token, where the reward has them")


class ScoreResult(BaseModel):
    """A finite score, or the error that says why there is none."""

    score: float | None
    parts: dict[str, float | None] = Field(description="null: a part that is not a finite number")
    error: ErrorKind | None
    message: str | None = Field(default=None, description="of the error")
    truncated: bool = Field(description="the item was longer than the reward model reads")
    token_scores: list[float | None] | None = None


class ScoreReply(BaseModel):
    """What ``/v1/score`` answers: a result for each item, in order."""

    model_config = _example(
        results=[{"score": 1.0, "parts": {"extracted_by_boxed": 1.0}, "error": None, "truncated": False}],
        model="math",
        digest="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        schema_version=SCHEMA_VERSION,
    )

    results: list[ScoreResult]
    model: str
    digest: str = Field(description="SHA-256 of the reward's resolved config")
    schema_version: int = SCHEMA_VERSION


def result_of(output: RewardOutput, with_token_scores: bool) -> dict[str, Any]:
    """A ``ScoreResult``. Its message names neither files nor the reward's code."""
    result = output_values(output, with_token_scores)
    result["truncated"] = output.parts.get("truncated_tokens", 0.0) > 0
    if output.error is not None:
        result["message"] = message_of(output)
    return result


def message_of(output: RewardOutput) -> str:
    return TOLD.get(output.error or "") or PATH.sub("[path]", output.message)[:LONGEST_MESSAGE]


class OpenRLHFBody(BaseModel):
    """OpenRLHF's remote reward (openrlhf/cli/serve_rm.py, openrlhf/utils/agent.py)."""

    model_config = _example(query=["What is 6 * 7? \\boxed{42}</s>"], prompts=["What is 6 * 7? "], labels=["42"])

    query: list[str] = Field(description="the whole texts, with prompt and special tokens")
    prompts: list[str] | None = None
    labels: list[str | int | float | None] | None = None

    @model_validator(mode="after")
    def _equally_long(self) -> "OpenRLHFBody":
        if any(column is not None and len(column) != len(self.query) for column in (self.prompts, self.labels)):
            raise ValueError("query, prompts and labels must have the same length")
        return self

    def score_items(self) -> list[ScoreItem]:
        prompts = self.prompts or [""] * len(self.query)
        labels = self.labels or [None] * len(self.query)
        return [
            ScoreItem(prompt=prompt, completion=completion_of(query, prompt), answer=label)
            for query, prompt, label in zip(self.query, prompts, labels, strict=True)
        ]


def completion_of(query: str, prompt: str) -> str:
    """What follows ``prompt`` in ``query``, without special tokens at its ends (padding, end of text)."""
    if not query.startswith(prompt):
        query = SPECIAL_AT_START.sub("", query)
        prompt = SPECIAL_AT_START.sub("", prompt)
    return SPECIAL_AT_START.sub("", SPECIAL_AT_END.sub("", query.removeprefix(prompt)))


class OpenRLHFReply(BaseModel):
    rewards: list[float]
    scores: list[float]
    extra_logs: dict[str, list[float]] = Field(description="the parts that every item has")


def openrlhf_reply(outputs: Sequence[RewardOutput]) -> OpenRLHFReply:
    scores = [output.score for output in outputs if output.score is not None]
    names = set.intersection(*(set(output.parts) for output in outputs)) if outputs else set()
    columns = {name: [output.parts[name] for output in outputs] for name in sorted(names)}
    finite = {name: column for name, column in columns.items() if all(map(math.isfinite, column))}
    return OpenRLHFReply(rewards=scores, scores=scores, extra_logs=finite)


class SlimeBody(BaseModel):
    """slime's remote reward: one sample, whose reward is the whole answer."""

    model_config = _example(prompt="What is 6 * 7?", response="\\boxed{42}", label="42")

    prompt: str | list[Message] = ""
    response: str
    label: str | int | float | None = None

    def score_items(self) -> list[ScoreItem]:
        return [ScoreItem(prompt=self.prompt, completion=self.response, answer=self.label)]


class VLLMBody(BaseModel):
    """What vLLM's pooling requests share; further fields of theirs are read over."""

    model: str | None = None
    use_activation: bool | None = Field(default=None, description="true: the logistic function of the score")


class VLLMScoreBody(VLLMBody):
    """vLLM's ``/score``: prompts and completions, one to one or one to many, under any of vLLM's names."""

    model_config = _example(queries="What is 6 * 7?", documents=["\\boxed{42}", "\\boxed{41}"])

    queries: str | list[str]
    documents: str | list[str]

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for first, second in (("text_1", "text_2"), ("data_1", "data_2"), ("queries", "items")):
            if first in values and second in values:
                return values | {"queries": values[first], "documents": values[second]}
        return values

    @model_validator(mode="after")
    def _lengths_fit(self) -> "VLLMScoreBody":
        queries, documents = _listed(self.queries), _listed(self.documents)
        if not queries or not documents or len(queries) not in (1, len(documents)):
            raise ValueError("one query for all documents, or one for each")
        return self

    def score_items(self) -> list[ScoreItem]:
        queries, documents = _listed(self.queries), _listed(self.documents)
        queries = queries * len(documents) if len(queries) == 1 else queries
        pairs = zip(queries, documents, strict=True)
        return [ScoreItem(prompt=query, completion=text, finish_reason=AS_IT_IS) for query, text in pairs]


class VLLMPoolingBody(VLLMBody):
    """vLLM's ``/classify`` and ``/pooling``: texts, or a conversation that ends with the completion."""

    model_config = _example(input=["6 * 7 = \\boxed{42}"])

    input: str | list[str] | None = None
    messages: list[Message] | None = None
    task: Literal["classify", "token_classify"] | None = None
    encoding_format: Literal["float"] = "float"

    @model_validator(mode="after")
    def _one_of_both(self) -> "VLLMPoolingBody":
        if (self.input is None) == (self.messages is None) or not (self.input or self.messages):
            raise ValueError("give input, one or several texts, or messages")
        if self.messages and "content" not in self.messages[-1]:
            raise ValueError("the last message has no content")
        return self

    def score_items(self) -> list[ScoreItem]:
        if self.messages:
            return [ScoreItem(prompt=self.messages[:-1], completion=self.messages[-1]["content"])]
        return [ScoreItem(completion=text, finish_reason=AS_IT_IS) for text in _listed(self.input or [])]


class VLLMReply(BaseModel):
    id: str
    object: str = "list"
    created: int
    model: str
    data: list[dict[str, Any]]
    usage: dict[str, int | None] = Field(description="tokens, estimated from the length of the texts")


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
