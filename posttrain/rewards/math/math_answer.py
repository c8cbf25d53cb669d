"""Is the final answer of a completion right? math-verify in worker processes, with a hard time limit a sample."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from pydantic import Field

from posttrain.rewards.math.answer_extraction import (
    STEPS,
    ExtractedAnswer,
    after_thinking,
    boxed_contents,
    choice_letter,
    extract_answer,
    gold_form,
    last_words,
    looks_like_maths,
    split_answers,
)
from posttrain.rewards.math.answer_form import is_text, plain_form, units_differ
from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.workers.worker_pool import WorkerPool, WorkerResult

# Gold answer, answer, relative tolerance.
Pair = tuple[str, str, float | None]
# Whether they are equal, or why that could not be told.
Verdict = bool | RewardOutput

CHOICE = re.compile("[A-J]")
# Characters of an answer that a message quotes.
SHOWN = 80
MOST_CACHED = 65536  # verdicts that are kept


class MathAnswerReward(ConfiguredReward):
    r"""1 for a right final answer, 0 for a wrong one and for none.

    The answer is the last ``\boxed{...}``, else the last ``####`` line, else what follows "answer is", "answer:" or
    "A:", else the last number or expression (the last calculation's result, where the text goes on after it); never
    text in an unclosed thinking block. The parts ``extracted_by_*`` say which of them it was (all 0: no answer). Equal
    plain forms are right without asking math-verify; nothing is wrong without asking it, but for words and choice
    letters, which are compared as text.

    Errors: ``invalid_input`` for an example without a gold answer, or with one that cannot be read as mathematics;
    ``timeout`` and ``crashed`` for a comparison that the worker did not survive. A relative tolerance of a row's own
    is read from ``example.metadata["tolerance"]``; the choices of a multiple-choice row from its ``options`` or
    ``choices`` (a list, letters with texts, or columns ``label`` and ``text``), so that a letter and its text are one.
    """

    type: Literal["math_answer"] = "math_answer"
    gold_match: Literal["any", "all"] = Field(
        default="any", description="of several gold answers: one is enough, or the completion must give them all"
    )
    timeout_s: float = Field(default=5.0, gt=0, description="wall-clock seconds of one comparison")
    workers: int = Field(default=2, ge=1, description="processes that compare")

    @cached_property
    def _cache(self) -> dict[Pair, bool]:
        return {}

    @cached_property
    def _pool(self) -> WorkerPool:
        judge = "posttrain.rewards.math.math_equivalence:judge"
        return WorkerPool(judge, workers=self.workers, timeout_s=self.timeout_s)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        questions = [self._question(item) for item in inputs]
        verdicts = self._verdicts(pair for question in questions for pairs in question.needed for pair in pairs)
        return [question.output(verdicts) for question in questions]

    def _question(self, item: RewardInput) -> "_Question":
        golds = _golds(item)
        if not golds:
            return _Question([], RewardOutput(None, error="invalid_input", message="the example has no gold answer"))
        text = after_thinking(item.completion)
        found = None if text is None else _found(text, golds)
        parts = {f"extracted_by_{step}": float(found is not None and found.step == step) for step in STEPS}
        if text is None or found is None:
            return _Question([], RewardOutput(0.0, parts, message="no answer was found"))
        options = _options(item)
        tolerance = item.example.metadata.get("tolerance")
        if self.gold_match == "any":
            answers = _readings(found.text, golds, options)
            golds = list(dict.fromkeys(golds + [options[gold] for gold in golds if gold in options]))
            return _Question([[(g, a, tolerance) for g in golds for a in answers]], RewardOutput(1.0, parts))
        answers = _all_answers(text, found, len(golds))
        by_gold = [[(gold, answer, tolerance) for answer in answers] for gold in golds]
        by_answer = [[(gold, answer, tolerance) for gold in golds] for answer in answers]
        return _Question(by_gold + by_answer, RewardOutput(1.0, parts))

    def _verdicts(self, pairs: Iterable[Pair]) -> dict[Pair, Verdict]:
        """The verdict of each pair; equal pairs are compared once."""
        if len(self._cache) > MOST_CACHED:
            self._cache.clear()
        verdicts: dict[Pair, Verdict] = {}
        unknown: list[Pair] = []
        for pair in dict.fromkeys(pairs):
            known = _without_mathematics(pair)
            known = self._cache.get(pair) if known is None else known
            if known is None:
                unknown.append(pair)
            else:
                verdicts[pair] = known
        items = [{"gold": gold, "answer": answer, "tolerance": tolerance} for gold, answer, tolerance in unknown]
        for pair, result in zip(unknown, self._pool.map(items), strict=True):
            verdicts[pair] = verdict = _verdict(pair, result)
            if isinstance(verdict, bool):
                self._cache[pair] = verdict
        return verdicts

    def close(self) -> None:
        self._pool.close()


@dataclass(frozen=True, slots=True)
class _Question:
    """A completion is right, and gets ``if_right``, if each of ``needed`` holds an equal pair."""

    needed: list[list[Pair]]
    if_right: RewardOutput

    def output(self, verdicts: Mapping[Pair, Verdict]) -> RewardOutput:
        failure: RewardOutput | None = None
        for pairs in self.needed:
            found = [verdicts[pair] for pair in pairs]
            if True in found:
                continue
            failed = [verdict for verdict in found if isinstance(verdict, RewardOutput)]
            if not failed:
                return replace(self.if_right, score=0.0)
            failure = failed[0]
        if failure is not None:
            return replace(failure, parts=self.if_right.parts)
        return self.if_right


def _golds(item: RewardInput) -> list[str]:
    answer = item.example.answer
    answers = [answer] if isinstance(answer, str) else answer or []
    golds = [gold_form(gold) for gold in answers if gold.strip()]
    return [plain_form(gold) if CHOICE.fullmatch(plain_form(gold)) else gold for gold in golds]


def _found(text: str, golds: Sequence[str]) -> ExtractedAnswer | None:
    wants_words = all(is_text(gold) or not looks_like_maths(plain_form(gold)) for gold in golds)
    found = extract_answer(text, expects_text=wants_words)
    if found is None and wants_words:
        return last_words(text, wants_letter=all(map(CHOICE.fullmatch, golds)))
    return found


def _options(item: RewardInput) -> dict[str, str]:
    """Letter and text of the choices that a row offers, in any of their usual columns and forms."""
    options = item.example.metadata.get("options") or item.example.metadata.get("choices") or {}
    if isinstance(options, Mapping) and {"label", "text"} <= set(options):
        return dict(zip(options["label"], options["text"], strict=False))
    if isinstance(options, Mapping):
        return {str(letter): str(text) for letter, text in options.items()}
    return dict(zip("ABCDEFGHIJ", map(str, options), strict=False))


def _readings(answer: str, golds: Sequence[str], options: Mapping[str, str]) -> list[str]:
    """An answer, or the letter that it names where a letter is asked for or offered, with that letter's text."""
    asked = bool(options) or any(map(CHOICE.fullmatch, golds))
    letter = choice_letter(answer) if asked else None
    if letter is None:
        return [answer]
    return [letter, options[letter]] if letter in options else [letter]


def _all_answers(text: str, found: ExtractedAnswer, wanted: int) -> list[str]:
    """The answers of a completion that must give ``wanted`` of them: listed in one place, or each in its own box."""
    listed = [part for part in split_answers(found.text) if part]
    if len(listed) == 1 and found.step == "boxed":
        return list(dict.fromkeys(boxed_contents(text)))[-wanted:]
    return listed


def _without_mathematics(pair: Pair) -> bool | None:
    """True for equal plain forms; False only for different words; None: math-verify must say."""
    gold, answer, _ = pair
    if plain_form(gold) == plain_form(answer) and plain_form(gold) and not units_differ(gold, answer):
        return True
    return False if is_text(gold) else None


def _verdict(pair: Pair, result: WorkerResult) -> Verdict:
    gold, answer, _ = pair
    if result.error is not None:
        message = f"comparing {answer[:SHOWN]!r} with {gold[:SHOWN]!r}: {result.message}"
        return RewardOutput(None, error=result.error, message=message)
    if result.value.get("invalid_gold"):
        message = f"the gold answer {gold[:SHOWN]!r} cannot be read as mathematics"
        return RewardOutput(None, error="invalid_input", message=message)
    return bool(result.value["equal"])
