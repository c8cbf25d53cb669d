"""Instructions to rewrite a sentence of short words, made from a seed: several references each, judged by BLEU."""

import math
import random
from collections.abc import Callable
from functools import cached_property
from typing import Literal, get_args

from pydantic import Field, model_validator

from posttrain.data.held_out import is_one_in
from posttrain.data.prompt_format import PromptFormat
from posttrain.data.rows import read_rows
from posttrain.errors import DataError
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rewards.reward import Reward
from posttrain.tasks.task import ConfiguredTask
from posttrain.types import Example

Instruction = Literal["reverse", "pairs", "riffle", "sort"]
Words = list[str]

VOCABULARY = "ant bat cat cow dog eel elk emu fox hen jay owl pig ram rat yak".split()  # noqa: SIM905
STYLES = ("{}", "so {}", "{} now")  # how a second and a third model would put the same answer
HELD_OUT_OF = 10
REWRITE: dict[Instruction, Callable[[Words], Words]] = {
    "reverse": lambda words: words[::-1],
    "pairs": lambda words: [word for start in range(0, len(words), 2) for word in words[start : start + 2][::-1]],
    "riffle": lambda words: words[::2] + words[1::2],
    "sort": sorted,
}


class RewritingConfig(ConfiguredTask):
    """The demonstrations are the references, and ``copies`` times the sentence as it was: who imitates them all follows
    the instruction in ``references`` answers of ``references + copies``, and copies the sentence in the others.

    No held-out sentence is a training sentence, also not of another seed. ``Example.metadata`` holds ``instruction``
    and ``words``, their number; ``candidates`` are an answer, and one with two words exchanged: what a reward model
    learns from."""

    type: Literal["rewriting"] = "rewriting"
    instructions: list[Instruction] = Field(default=[*get_args(Instruction)], min_length=1)
    min_words: int = Field(default=4, ge=2)
    max_words: int = Field(default=6, le=len(VOCABULARY))
    references: int = Field(default=1, ge=1, le=len(STYLES), description="of a row; each in a style of its own")
    copies: int = Field(default=0, ge=0)
    shuffled_references: bool = Field(default=False, description="training rows have those of another row: a control")
    ids_from: str | None = Field(default=None, description="JSONL whose `id`s are the only training rows")
    train_size: int = Field(default=4000, ge=2)
    eval_size: int = Field(default=200, ge=1)
    seed: int = 0
    format: PromptFormat = Field(default_factory=lambda: PromptFormat(template="{problem}\n"))

    @model_validator(mode="after")
    def _there_are_enough_sentences(self) -> "RewritingConfig":
        if self.min_words > self.max_words:
            raise ValueError(f"min_words {self.min_words} is above max_words {self.max_words}")
        enough = math.perm(len(VOCABULARY), self.max_words) // 2
        if self.train_size + HELD_OUT_OF * self.eval_size > enough:
            raise ValueError(f"train_size + {HELD_OUT_OF} eval_size is above {enough}: raise max_words")
        return self

    def train_examples(self) -> list[Example]:
        """``train_size`` rows, or those of them that ``ids_from`` names.

        Raises:
            DataError: ``ids_from`` cannot be read, or names other rows.
        """
        rows = {example.id: example for example in self._split[0]}
        if self.ids_from is None:
            return [*rows.values()]
        ids = [str(row.values.get("id")) for row in read_rows(self.ids_from)]
        if unknown := [name for name in ids if name not in rows]:
            raise DataError(f"data.ids_from: {self.ids_from} names {unknown[0]!r}, which is no training row")
        return [rows[name] for name in ids]

    def reward(self) -> Reward:
        """BLEU as BLEUBERI uses it."""
        return BleuConfig().build()

    @cached_property
    def _split(self) -> tuple[list[Example], list[Example]]:
        """The held-out rows do not depend on ``train_size``."""
        rng = random.Random(f"rewriting/{self.seed}")
        held_out = self._draw(rng, self.eval_size, held_out=True)
        train = self._draw(rng, self.train_size, held_out=False)
        if self.shuffled_references:
            references = [example.references for example in train]
            for example, others in zip(train, references[1:] + references[:1], strict=True):
                example.references = others
        return train, held_out

    def _draw(self, rng: random.Random, size: int, held_out: bool) -> list[Example]:
        sentences = dict[str, Instruction]()
        while len(sentences) < size:
            sentence = " ".join(rng.sample(VOCABULARY, rng.randint(self.min_words, self.max_words)))
            if is_held_out(sentence) == held_out:
                sentences[sentence] = rng.choice(self.instructions)
        return [self._example(instruction, sentence.split()) for sentence, instruction in sentences.items()]

    def _example(self, instruction: Instruction, words: Words) -> Example:
        sentence, answer = " ".join(words), " ".join(REWRITE[instruction](words))
        wrong, (one, other) = answer.split(), random.Random(sentence).sample(range(len(words)), 2)
        wrong[one], wrong[other] = wrong[other], wrong[one]
        references = [style.format(answer) for style in STYLES[: self.references]]
        return Example(
            id=sentence,
            prompt=self.format.prompt(f"{instruction}: {sentence}"),
            references=references,
            demonstration=[*references, *[sentence] * self.copies],
            candidates=[answer, " ".join(wrong)],
            metadata={"instruction": instruction, "words": len(words)},
        )


def is_held_out(sentence: str) -> bool:
    """Whether it is among the tenth of all sentences that no task trains on."""
    return is_one_in(HELD_OUT_OF, sentence)
