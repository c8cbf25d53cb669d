"""How often do BLEU, other metrics and a reward model prefer the answer that a label prefers?

    python eval/bleu_agreement/run.py eval/bleu_agreement/alpaca_eval.yaml [KEY=VALUE ...]

Writes ``result.json``, ``table.md`` and ``agreement.svg`` into the config's folder. See README.md.
"""

import argparse
import itertools
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.config_file import load_config
from posttrain.data.dataset import DatasetConfig
from posttrain.data.fields import ExampleField, FieldError, example_from_values
from posttrain.data.rows import Row, read_rows
from posttrain.errors import DataError, UserError
from posttrain.evaluation.metrics import Estimate, Floats, estimate
from posttrain.report.comparison import ArmCurve, curves_picture
from posttrain.rewards.checked import score_checked
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.references.reference import ReferenceRewardConfig
from posttrain.rewards.reward import RewardInput
from posttrain.tasks.file_task import prompt_key
from posttrain.tasks.preference import PreferenceConfig
from posttrain.types import Example

LABELS = {"A": 1, "B": -1, "tie": 0, "tie (bothbad)": 0}
# 1 the first answer is better, -1 the second, 0 a tie.
Preferences = NDArray[np.int64]
# Number of references (None: uses none) -> the scores [N, 2] with each subset of that size.
BySize = dict[int | None, list[Floats]]
LONGER, RANDOM = "longer answer", "random"


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two answers to the prompt of ``example``; ``label`` is 1 where the first is better, -1 the second, 0 neither."""

    example: Example
    answers: tuple[str, str]
    label: int


class LabelledPairsConfig(DatasetConfig):
    """Rows with ``prompt``, ``answer_a``, ``answer_b``, ``label`` (A, B, tie, or tie (bothbad), as Chatbot Arena has
    it) and ``references``, a list of texts in the same order of models in every row."""

    type: Literal["pairs"] = "pairs"
    references: int = Field(default=0, ge=0, description="how many each row has at least; more are not used")

    def pairs(self) -> list[LabelledPair]:
        """The pairs of the file.

        Raises:
            DataError: there is no such file, or a row is not of this form; the message names file, line and field.
        """
        return [
            LabelledPair(
                replace(example, references=example.references[: self.references]),
                (example.metadata["answer_a"], example.metadata["answer_b"]),
                LABELS[example.metadata["label"]],
            )
            for example in self.load().examples
        ]

    def columns_of(self, rows: Sequence[Row]) -> dict[ExampleField, str]:
        return {"id": "id", "prompt": "prompt", "references": "references", **self.columns}

    def example(self, values: Mapping[str, Any], columns: Mapping[ExampleField, str], default_id: str) -> Example:
        example = example_from_values(values, columns, {"prompt"}, self.format, default_id)
        if len(example.references) < self.references:
            problem = f"has {len(example.references)} of the {self.references} texts that data.references asks for"
            raise FieldError("references", columns["references"], problem)
        return _checked(example)


def _checked(example: Example) -> Example:
    """``example``, if its further columns hold two answers and a label."""
    for column in ("answer_a", "answer_b"):
        if not isinstance(example.metadata.get(column), str):
            raise FieldError(column, column, f"is {example.metadata.get(column)!r}, not text")
    if (label := example.metadata.get("label")) not in [*LABELS]:
        raise FieldError("label", "label", f"is {label!r}, not one of {', '.join(LABELS)}")
    return example


class AlpacaEvalConfig(Config):
    """Rows with ``instruction``, ``references`` {model: text} and ``answers`` {model: {output, win rate}}; every two
    answers of a row are a pair, and the label is the one with the higher win rate."""

    type: Literal["alpaca_eval"] = "alpaca_eval"
    path: str
    references: list[str] = Field(description="the models whose texts are references, in this order")
    tie_gap: float = Field(default=0.0, ge=0, description="win rates that differ by no more are a tie")

    def pairs(self) -> list[LabelledPair]:
        return [pair for row in read_rows(self.path) for pair in self._of_row(f"{self.path}, {row.place}", row.values)]

    def _of_row(self, place: str, values: dict[str, Any]) -> Iterator[LabelledPair]:
        try:
            references = [values["references"][model] for model in self.references]
            answers = [(each["output"], each["win_rate_over_gpt4_turbo"]) for each in values["answers"].values()]
            example = Example(place, values["instruction"], references=references)
        except (KeyError, TypeError) as error:
            raise DataError(f"{place}: {error} is missing") from error
        for (first, won), (second, others) in itertools.combinations(answers, 2):
            label = 0 if abs(won - others) <= self.tie_gap else int(np.sign(won - others))
            yield LabelledPair(example, (first, second), label)


class HeldOutConfig(PreferenceConfig):
    """The held-out rows of preferences; without a held-out set, all."""

    def pairs(self) -> list[LabelledPair]:
        task = self.build()
        return [
            LabelledPair(example, pair, 1)
            for example in task.eval_examples() or task.train_examples()
            for pair in itertools.combinations(example.candidates, 2)
        ]


class StudyConfig(Config):
    """What is compared with the labels, and on which pairs."""

    data: Annotated[LabelledPairsConfig | AlpacaEvalConfig | HeldOutConfig, Field(discriminator="type")]
    rewards: dict[str, RewardConfig] = Field(description="those that compare with references: at every number of them")
    averages: list[tuple[str, str]] = Field(default=[], description="two rewards: the mean of their z-scores")
    foreign_references: int = Field(
        default=0, ge=0, description="a control: references are this many texts of other rows, one of each"
    )
    longest_ratio: float | None = Field(
        default=None,
        ge=1,
        description="leave out pairs with an answer more than this times as long as the other",
    )
    subsets: bool = Field(default=True, description="mean over all subsets of a size; false: the first ones only")
    resamples: int = Field(default=2000, ge=1)
    seed: int = 0
    folder: str

    @model_validator(mode="after")
    def _averages_are_of_rewards(self) -> "StudyConfig":
        if unknown := {name for pair in self.averages for name in pair} - set(self.rewards):
            raise ValueError(f"averages names {min(unknown)!r}, which is none of rewards: {', '.join(self.rewards)}")
        return self


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one metric with the labels; ``references`` is None where it uses none. ``above_longer``: how much larger
    ``tie_free`` is than that of preferring the longer answer, on the same pairs."""

    metric: str
    references: int | None
    with_ties: Estimate
    tie_free: Estimate | None
    above_longer: Estimate | None
    tied_picks: float


def similar_lengths(pairs: Sequence[LabelledPair], longest_ratio: float | None) -> list[LabelledPair]:
    """The pairs whose longer answer has at most ``longest_ratio`` times the characters of the other; all where None.

    Raises:
        UserError: there is none.
    """
    lengths = [sorted(map(len, pair.answers)) for pair in pairs]
    kept = [p for p, (short, long) in zip(pairs, lengths, strict=True) if long <= short * (longest_ratio or np.inf)]
    if not kept:
        raise UserError(f"longest_ratio: {longest_ratio} leaves none of the {len(pairs)} pairs")
    return kept


def with_foreign_references(pairs: Sequence[LabelledPair], count: int, seed: int) -> list[LabelledPair]:
    """``pairs`` with references of other prompts: the first of the next prompt in a random order, the second of the one
    after it, and so on. A row without references gives its better answer."""
    own = {prompt_key(p.example): p.example.references or [p.answers[p.label < 0]] for p in pairs}
    if count >= len(own):
        raise UserError(f"foreign_references: {count} texts of other prompts, and there are {len(own)} prompts in all")
    order = [*own]
    random.Random(seed).shuffle(order)
    after = {key: [order[(at + step) % len(order)] for step in range(1, count + 1)] for at, key in enumerate(order)}

    def example(given: Example) -> Example:
        others = [own[key] for key in after[prompt_key(given)]]
        return replace(given, references=[texts[i % len(texts)] for i, texts in enumerate(others)])

    return [replace(pair, example=example(pair.example)) for pair in pairs]


def scores(config: RewardConfig, pairs: Sequence[LabelledPair], chosen: Sequence[int]) -> Floats:
    """The scores of both answers of each pair [N, 2], NaN where one could not be judged; by the ``chosen`` of the
    references. An answer that is in several pairs is judged once."""
    inputs: dict[Any, RewardInput] = {}
    rows = []
    for pair in pairs:
        example = replace(pair.example, references=[pair.example.references[number] for number in chosen])
        keys = [(prompt_key(example), *example.references, answer) for answer in pair.answers]
        inputs |= {key: RewardInput(example, answer) for key, answer in zip(keys, pair.answers, strict=True)}
        rows.append(keys)
    with closing(config.build()) as reward:
        outputs = dict(zip(inputs, score_checked(reward, [*inputs.values()]), strict=True))
    return np.array([[outputs[key].score for key in keys] for keys in rows], dtype=np.float64)


def judge(config: StudyConfig, pairs: Sequence[LabelledPair]) -> tuple[list[LabelledPair], dict[str, BySize]]:
    """The pairs whose answers every reward could judge, so that all are compared on the same, and their scores.

    Raises:
        UserError: there is none.
    """
    sizes = subsets(len(pairs[0].example.references), config.subsets)
    found: dict[str, BySize] = {}
    for name, reward in config.rewards.items():
        if isinstance(reward, ReferenceRewardConfig):
            found[name] = {size: [scores(reward, pairs, each) for each in every] for size, every in sizes.items()}
        else:
            found[name] = {None: [scores(reward, pairs, ())]}
    judged = np.ones(len(pairs), dtype=bool)
    for name, by_size in found.items():
        for values in itertools.chain(*by_size.values()):
            judged &= ~np.isnan(values).any(axis=1)
        if not judged.any():
            raise UserError(f"{name} can judge no pair; on_error: stop on it tells why")
    kept = {name: {size: [v[judged] for v in every] for size, every in by.items()} for name, by in found.items()}
    return [pair for pair, whole in zip(pairs, judged, strict=True) if whole], kept


def preferred(first: Floats, second: Floats) -> Preferences:
    """The preferences of a metric that gives these scores: the higher one is better, equal scores are a tie."""
    return np.sign(first - second).astype(np.int64)


def credit(picks: Preferences, labels: Preferences) -> Floats:
    """1 where the pick is the label, else 0. Its mean is agreement with ties in the denominator, as BLEUBERI's study
    reports it (arXiv 2505.11080): a tied label is met by a tied pick alone, which few metrics ever give."""
    return (picks == labels).astype(np.float64)


def tie_free_credit(picks: Preferences, labels: Preferences) -> Floats:
    """The same of the pairs that have a better answer, NaN for the others; a tied pick counts half, as a coin would."""
    return np.where(labels == 0, np.nan, (1 + picks * labels) / 2)


def study(config: StudyConfig, pairs: Sequence[LabelledPair], scored: Mapping[str, BySize]) -> list[Agreement]:
    """The agreement of every reward, average and baseline."""
    labels = np.array([pair.label for pair in pairs])
    groups = [prompt_key(pair.example) for pair in pairs]
    lengths = np.array([[len(text) for text in pair.answers] for pair in pairs], dtype=np.float64)
    longer = tie_free_credit(preferred(*lengths.T), labels)

    def agreement(name: str, references: int | None, of_subsets: Sequence[Floats]) -> Agreement:
        picks = [preferred(*both.T) for both in of_subsets]
        tie_free = np.mean([tie_free_credit(pick, labels) for pick in picks], axis=0)

        def interval(values: Floats) -> Estimate | None:
            return estimate(values, groups, config.resamples, config.seed)

        with_ties = interval(np.mean([credit(pick, labels) for pick in picks], axis=0))
        assert with_ties is not None
        tied = float(np.mean([pick == 0 for pick in picks]))
        return Agreement(name, references, with_ties, interval(tie_free), interval(tie_free - longer), tied)

    found = dict(scored)
    for first, second in config.averages:
        found[f"{first} + {second}"] = averaged(found[first], found[second])
    found |= {LONGER: {None: [lengths]}, RANDOM: {None: [np.random.default_rng(config.seed).random(lengths.shape)]}}
    return [agreement(name, size, every) for name, by_size in found.items() for size, every in by_size.items()]


def subsets(references: int, every: bool) -> dict[int, list[tuple[int, ...]]]:
    """The sets of references of each size: all, or the first ones."""
    numbers, sizes = range(references), range(1, references + 1)
    return {size: list(itertools.combinations(numbers, size)) if every else [tuple(range(size))] for size in sizes}


def averaged(first: BySize, second: BySize) -> BySize:
    """The mean of the z-scores, at each number of references of the one that uses some."""
    sizes = first if None in second else second

    def at(scored: BySize, size: int | None) -> list[Floats]:
        return scored.get(size) or scored[None] * len(sizes[size])

    return {
        size: [(z_scores(a) + z_scores(b)) / 2 for a, b in zip(at(first, size), at(second, size), strict=True)]
        for size in sizes
    }


def z_scores(values: Floats) -> Floats:
    """``values`` with mean 0 and standard deviation 1; zeros where all are equal."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros_like(values)


def table(found: Sequence[Agreement]) -> str:
    """The agreements as a Markdown table."""
    rows = [
        "| metric | references | with ties | tie-free | minus longer answer | tied picks |",
        "|---|---|---|---|---|---|",
    ]
    for each in found:
        numbers = " | ".join(map(_shown, (each.with_ties, each.tie_free, each.above_longer)))
        rows.append(f"| {each.metric} | {each.references or '–'} | {numbers} | {each.tied_picks:.3f} |")
    return "\n".join(rows) + "\n"


def _shown(value: Estimate | None) -> str:
    return "–" if value is None else f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def picture(found: Sequence[Agreement], title: str) -> str:
    """Agreement by number of references, with intervals; what uses none is a line across."""
    most = max((each.references or 1 for each in found), default=1)
    curves: dict[str, dict[int, Estimate]] = {}
    for each in found:
        if each.tie_free is not None:
            sizes = (1, max(most, 2)) if each.references is None else (each.references,)
            curves.setdefault(each.metric, {}).update(dict.fromkeys(sizes, each.tie_free))
    arms = [
        ArmCurve(
            name,
            tuple(map(float, points)),
            mean=tuple(at.value for at in points.values()),
            lowest=tuple(at.low for at in points.values()),
            highest=tuple(at.high for at in points.values()),
        )
        for name, points in curves.items()
    ]
    note = "share of labelled pairs without ties; band: 95 % interval over prompts"
    return curves_picture(arms, title, note, "references", f"Agreement of {', '.join(curves)} by number of references")


def run(config: StudyConfig) -> list[Agreement]:
    """Do the study and write what it found."""
    given = similar_lengths(config.data.pairs(), config.longest_ratio)
    if config.foreign_references:
        given = with_foreign_references(given, config.foreign_references, config.seed)
    pairs, scored = judge(config, given)
    found = study(config, pairs, scored)
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts = {
        "pairs": len(pairs),
        "unjudged_pairs": len(given) - len(pairs),
        "prompts": len({prompt_key(pair.example) for pair in pairs}),
        "tied_labels": sum(pair.label == 0 for pair in pairs),
    }
    result = {**counts, "config": config.model_dump(mode="json"), "agreement": [asdict(each) for each in found]}
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (folder / "table.md").write_text(table(found), encoding="utf-8")
    (folder / "agreement.svg").write_text(picture(found, f"Agreement with the label: {folder.name}"), encoding="utf-8")
    print(", ".join(f"{value} {name}" for name, value in counts.items()), table(found), sep="\n\n", end="")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the config")
    arguments = parser.parse_args()
    try:
        run(load_config(StudyConfig, arguments.config, arguments.overrides))
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
