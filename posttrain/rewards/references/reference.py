"""Rewards that compare a completion with an example's references; of several references the best one counts."""

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, cached_property, lru_cache
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from pydantic import Field

from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.references.bleu_tokenizer import Tokenizer, TokenizerName, load_tokenizer
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.text_processing import TextProcessing
from posttrain.types import Example

# Judges completions by the references that it was prepared for.
Judge = Callable[[Sequence[str]], list[RewardOutput]]
RougeTokenizerName = Literal["rouge"] | TokenizerName

_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


class UnusableReference(ValueError):
    """There is nothing to compare with."""


class ReferenceRewardConfig(ConfiguredReward):
    """A score from 0 to 1 by the judge that ``prepare`` makes of an example's references, once for all completions; of
    its answers, where it has no references and ``or_answer``. ``invalid_input`` where they are unusable."""

    or_answer: ClassVar[bool] = False

    text: TextProcessing = Field(default_factory=TextProcessing, description="what of a completion is compared")
    cached_examples: int = Field(
        default=256, ge=0, description="examples whose references stay counted; 0.15 MB for BLEU, five of 300 tokens"
    )

    @abstractmethod
    def prepare(self, references: Sequence[str]) -> Judge:
        """Raises: UnusableReference."""

    @cached_property
    def _judge_of(self) -> Callable[[tuple[str, ...]], Judge]:
        return lru_cache(maxsize=self.cached_examples)(self._usable)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        groups: dict[tuple[str, ...], list[int]] = {}
        for row, item in enumerate(inputs):
            groups.setdefault(self._references(item.example), []).append(row)
        outputs: dict[int, RewardOutput] = {}
        for references, rows in groups.items():
            judged = self._judge_of(references)([self.text.of_completion(inputs[row].completion) for row in rows])
            outputs.update(zip(rows, judged, strict=True))
        for row, output in outputs.items():
            if output.error:
                outputs[row] = replace(output, message=f"example {inputs[row].example.id!r}: {output.message}")
        return [outputs[row] for row in range(len(inputs))]

    def _references(self, example: Example) -> tuple[str, ...]:
        if example.references or not self.or_answer or example.answer is None:
            return tuple(example.references)
        return (example.answer,) if isinstance(example.answer, str) else tuple(example.answer)

    def _usable(self, references: tuple[str, ...]) -> Judge:
        try:
            if not references:
                raise UnusableReference("there is neither reference nor answer" if self.or_answer else "no reference")
            return self.prepare([self.text.of_reference(reference) for reference in references])
        except UnusableReference as error:
            failure = RewardOutput(None, error="invalid_input", message=str(error))
            return lambda completions: [failure] * len(completions)


def tokenized(references: Sequence[str], tokenize: Tokenizer = str.split) -> list[list[str]]:
    """The tokens of each reference; raises UnusableReference where one has none."""
    tokens = [tokenize(reference) for reference in references]
    for number, (reference, found) in enumerate(zip(references, tokens, strict=True), start=1):
        if not found:
            raise UnusableReference(f"reference {number} of {len(tokens)} has no words to compare: {reference[:80]!r}")
    return tokens


class ChrfConfig(ReferenceRewardConfig):
    """chrF (Popović, 2015, W15-3049) by sacrebleu, over 100. It needs no words, so it serves every language."""

    type: Literal["chrf"] = "chrf"
    char_order: int = Field(default=6, ge=1, description="longest n-gram of characters")
    word_order: int = Field(default=0, ge=0, description="longest n-gram of words; 2 is chrF++")
    beta: int = Field(default=2, ge=1, description="weight of recall against precision")
    lowercase: bool = False

    def prepare(self, references: Sequence[str]) -> Judge:
        from sacrebleu.metrics import CHRF

        tokenized(references)
        keys = self.model_dump(include={"char_order", "word_order", "beta", "lowercase"})
        chrf = CHRF(**keys, references=[[reference] for reference in references])
        return lambda texts: [RewardOutput(chrf.corpus_score([text], None).score / 100) for text in texts]


class RougeLConfig(ReferenceRewardConfig):
    """ROUGE-L (Lin, 2004, W04-1013) by the rouge-score library: F1 of the longest common subsequence of tokens, with
    the parts ``precision`` and ``recall``."""

    type: Literal["rouge_l"] = "rouge_l"
    tokenize: RougeTokenizerName = Field(
        default="rouge", description="rouge: lower-cased a-z and 0-9 only, as the library does; else one of BLEU's"
    )

    def prepare(self, references: Sequence[str]) -> Judge:
        return rouge_l_judge(references, self.tokenize)


def rouge_l_judge(references: Sequence[str], tokenizer: RougeTokenizerName = "rouge") -> Judge:
    """ROUGE-L against the best of ``references``."""
    tokenize, scorer = _rouge_l(tokenizer)
    tokenized(references, tokenize)

    def judged(completion: str) -> RewardOutput:
        best = scorer.score_multi(references, completion)["rougeL"]
        return RewardOutput(float(best.fmeasure), {"precision": best.precision, "recall": best.recall})

    return lambda completions: [judged(completion) for completion in completions]


@cache
def _rouge_l(tokenizer: RougeTokenizerName) -> tuple[Tokenizer, Any]:
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    tokenize: Tokenizer = DefaultTokenizer().tokenize if tokenizer == "rouge" else load_tokenizer(tokenizer)
    return tokenize, RougeScorer(["rougeL"], tokenizer=SimpleNamespace(tokenize=tokenize))


class WordsConfig(ReferenceRewardConfig):
    """Of rewards that compare words, with the answers where there are no references."""

    or_answer: ClassVar[bool] = True

    normalise: Literal["none", "squad"] = Field(default="none", description="squad: no case, punctuation, articles")

    def words(self, text: str) -> list[str]:
        """The words of ``text`` as they are compared."""
        if self.normalise == "squad":
            text = _ARTICLE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION))
        return text.split()


class ExactMatchConfig(WordsConfig):
    """1 where the completion is one of the references, whatever the white space between words; else 0."""

    type: Literal["exact_match"] = "exact_match"

    def prepare(self, references: Sequence[str]) -> Judge:
        wanted = tokenized(references, self.words)
        return lambda completions: [RewardOutput(float(self.words(text) in wanted)) for text in completions]


class TokenF1Config(WordsConfig):
    """F1 of the words shared with a reference, as SQuAD measures it (arXiv 1606.05250, section 6.1), with the parts
    ``precision`` and ``recall``."""

    type: Literal["token_f1"] = "token_f1"
    normalise: Literal["none", "squad"] = "squad"

    def prepare(self, references: Sequence[str]) -> Judge:
        wanted = [Counter(words) for words in tokenized(references, self.words)]
        return lambda completions: [_best_f1(Counter(self.words(text)), wanted) for text in completions]


def _best_f1(found: Counter[str], references: Sequence[Counter[str]]) -> RewardOutput:
    measured = []
    for wanted in references:
        shared = (found & wanted).total()
        f1 = 2 * shared / (found.total() + wanted.total())
        measured.append((f1, shared / max(found.total(), 1), shared / wanted.total()))
    f1, precision, recall = max(measured)
    return RewardOutput(f1, {"precision": precision, "recall": recall})
