"""What a judge is asked, and how its reply is read: prompt templates, and the one grammar of scores and verdicts.

Nothing here asks a judge or keeps state. A reply is read strictly: text before the last closing thinking tag does not
count, only a line of its own does, and what does not fit the grammar is None, never a guess.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import exp
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import Field

from posttrain.config import Config
from posttrain.config_file import load_config
from posttrain.errors import JobError
from posttrain.rewards.math.answer_extraction import after_thinking
from posttrain.rewards.reward import RewardInput
from posttrain.rollout.seeds import derive_seed
from posttrain.types import ErrorKind, Example, Message, Sampling

Conversation = list[Message]
Winner = Literal["A", "B", "tie"]

SCORE_MIN, SCORE_MAX = 1.0, 10.0
SCORE_LINE = re.compile(r"^[ \t]*score:(.*)$", re.IGNORECASE | re.MULTILINE)
SCORES_LINE = re.compile(r"^[ \t]*scores:[ \t]*\[(.*)\][ \t\r]*$", re.IGNORECASE | re.MULTILINE)
WINNER_LINE = re.compile(r"^[ \t]*winner:(.*)$", re.IGNORECASE | re.MULTILINE)
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")

BUILT_IN_TEMPLATES = Path(__file__).parent / "judge_templates"
TEMPLATE_VARIABLES = {"prompt", "candidates", "references", "answer", "metadata", "fence"}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a judge wrote, or why it wrote nothing. ``first_tokens``: the likeliest first tokens and their natural
    log-probs, where they were asked for."""

    text: str = ""
    first_tokens: tuple[tuple[str, float], ...] = ()
    error: ErrorKind | None = None
    message: str = ""


class Judge(Protocol):
    """A language model that answers questions. ``identity`` is everything that its replies depend on besides the
    question; None: that cannot be told, so nothing may be kept."""

    identity: Mapping[str, Any] | None

    def replies(self, questions: Sequence[Conversation], sampling: Sampling, seed: int, top: int) -> list[Reply]:
        """One reply a question, in order; with the ``top`` likeliest first tokens, if that is not 0. Thread-safe."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """An answer as the judge sees it; ``cut``: it ended at its token budget."""

    text: str
    cut: bool = False

    @classmethod
    def of(cls, item: RewardInput) -> "Candidate":
        """A completion without its thinking; empty where the thinking never ended."""
        return cls(_encodable((after_thinking(item.completion) or "").strip()), item.finish_reason == "length")


# ---- questions ------------------------------------------------------------------------------------------------------


class JudgeTemplate(Config):
    """Jinja texts over ``prompt``, ``candidates`` (each with ``text`` and ``cut``), ``references``, ``answer``,
    ``metadata`` and ``fence``: six hex digits for the markers around texts that the judge must not obey."""

    system: str | None = None
    user: str = Field(min_length=1)

    def conversation(self, example: Example, candidates: Sequence[Candidate], seed: int = 0) -> Conversation:
        """The question. The fence depends on ``seed`` and the texts; where a text holds it, it is broken by a space.

        Raises:
            jinja2.TemplateError: the template needs something that the example lacks.
        """
        prompt = _encodable(prompt_text(example))
        fence = f"{derive_seed(seed, prompt, *(candidate.text for candidate in candidates)) % 16**6:06x}"

        def broken(text: str) -> str:
            return text.replace(fence, f"{fence[:3]} {fence[3:]}")

        answers = [example.answer] if isinstance(example.answer, str) else example.answer or []
        values = {
            "prompt": broken(prompt),
            "candidates": [Candidate(broken(candidate.text), candidate.cut) for candidate in candidates],
            "references": list(map(broken, example.references)),
            "answer": broken(" or ".join(answers)),
            "metadata": example.metadata,
            "fence": fence,
        }
        sources = {"system": self.system, "user": self.user}
        return [
            {"role": role, "content": _compiled(source).render(values).strip()}
            for role, source in sources.items()
            if source is not None
        ]


def question_seed(seed: int, question: Conversation) -> int:
    """A 31-bit seed of a question's own: with one for all, similar questions would get the same draw."""
    return derive_seed(seed, *(message["content"] for message in question)) % 2**31


def load_template(name: str) -> JudgeTemplate:
    """The template in the YAML file ``name``, or the built-in one of that name.

    Raises:
        JobError: there is no such file, it is not Jinja, or it names a variable that is not given.
    """
    from jinja2 import TemplateError, meta

    built_in = BUILT_IN_TEMPLATES / f"{name}.yaml"
    template = load_config(JudgeTemplate, built_in if built_in.is_file() else name)
    for source in (template.system or "", template.user):
        try:
            unknown = meta.find_undeclared_variables(_environment().parse(source)) - TEMPLATE_VARIABLES
        except TemplateError as error:
            raise JobError(f"{name}: not a Jinja template: {error}") from error
        if unknown:
            known = ", ".join(sorted(TEMPLATE_VARIABLES))
            raise JobError(f"{name}: unknown {', '.join(sorted(unknown))}; a judge template is given {known}")
    return template


def prompt_text(example: Example) -> str:
    """The prompt as one text; of a conversation, each message under its role."""
    if isinstance(example.prompt, str):
        return example.prompt
    if len(example.prompt) == 1:
        return example.prompt[0]["content"]
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in example.prompt)


def _encodable(text: str) -> str:
    """``text`` with "?" for half surrogate pairs, which no encoding takes."""
    return text.encode(errors="replace").decode()


@cache
def _environment() -> Any:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return ImmutableSandboxedEnvironment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


@cache
def _compiled(source: str) -> Any:
    return _environment().from_string(source)


# ---- replies --------------------------------------------------------------------------------------------------------


def parse_score(text: str) -> float | None:
    """The number of the last line ``Score: 7``, from 1 to 10, decimals allowed."""
    found = _last(SCORE_LINE, text)
    return None if found is None else _score(found)


def parse_scores(text: str, number: int) -> list[float] | None:
    """The ``number`` numbers of the last line ``Scores: [7, 3.5, 9]``, each from 1 to 10."""
    found = _last(SCORES_LINE, text)
    scores = [] if found is None else [_score(part) for part in found.split(",")]
    whole = [score for score in scores if score is not None]
    return whole if len(whole) == len(scores) == number else None


def parse_winner(text: str) -> Winner | None:
    """The verdict of the last line ``Winner: A``, ``Winner: B`` or ``Winner: tie``."""
    verdicts: dict[str, Winner] = {"a": "A", "b": "B", "tie": "tie"}
    return verdicts.get((_last(WINNER_LINE, text) or "").strip().lower())


def unit_score(score: float) -> float:
    """A score from 1 to 10 as one from 0 to 1."""
    return (score - SCORE_MIN) / (SCORE_MAX - SCORE_MIN)


def answer_probability(
    first_tokens: Sequence[tuple[str, float]], yes: Sequence[str], no: Sequence[str]
) -> tuple[float, float]:
    """P(yes) / (P(yes) + P(no)) of an answer's first token, and the divisor: how much of the probability answers.

    Each is the sum over the word's variants among ``first_tokens``: with a leading space, in any case. (0.0, 0.0)
    where none of them is there.
    """
    mass = {True: 0.0, False: 0.0}
    for token, logprob in first_tokens:
        word = token.strip().lstrip("▁Ġ").casefold()
        if word in yes or word in no:
            mass[word in yes] += exp(logprob)
    both = mass[True] + mass[False]
    return (mass[True] / both, both) if both > 0 else (0.0, 0.0)


def _last(line: re.Pattern[str], text: str) -> str | None:
    found = line.findall(after_thinking(text) or "")
    return found[-1] if found else None


def _score(text: str) -> float | None:
    number = text.strip(" \t\r")
    score = float(number) if NUMBER.fullmatch(number) else None
    return score if score is not None and SCORE_MIN <= score <= SCORE_MAX else None
