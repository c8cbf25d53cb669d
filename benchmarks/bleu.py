"""Sentence BLEU of 5,000 completions in groups of 8, five references each: ours against sacrebleu's sentence score.

    python benchmarks/bleu.py [--completions 5000] [--data FILE]

The references are answers of strong models and the completions answers of weaker ones, mixtures of two included, from
alpaca_eval (``--data``): those of consecutive rows joined until there are 300 tokens. Further examples repeat the rows
with their sentences in another order, so that no two share a reference; without the file, all text is generated. One
process, one thread; the two ways take turns, group by group, with empty caches at the start. Scores must be equal
within 1e-9.
The last line is one JSON object; ``ours`` and ``peer`` are completions per second.
"""

import argparse
import gzip
import json
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sacrebleu.metrics import BLEU

from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rewards.references.bleu_tokenizer import load_tokenizer
from posttrain.rewards.reward import RewardInput
from posttrain.types import Example

# 230 words are about 300 tokens, punctuation included.
GROUP, REFERENCES, WORDS = 8, 5, 230
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "alpaca_eval" / "references.jsonl.gz"
Group = tuple[list[str], list[str]]


def mixture(first: str, second: str, chance: random.Random) -> str:
    """The beginning of one answer and the end of another."""
    words, others = first.split(" "), second.split(" ")
    return " ".join(words[: chance.randrange(len(words))] + others[chance.randrange(len(others)) :])


def joined(texts: list[str], start: int) -> str:
    """The first words of text ``start`` and of those after it, going round: about 300 tokens."""
    words: list[str] = []
    for offset in range(len(texts)):
        words += texts[(start + offset) % len(texts)].split(" ")
        if len(words) >= WORDS:
            break
    return " ".join(words[:WORDS])


def real_groups(path: Path, chance: random.Random) -> list[Group]:
    """(references, completions) of each row."""
    with gzip.open(path, "rt") as lines:
        rows = [json.loads(line) for line in lines]
    references = [[row["references"][model] for row in rows] for model in rows[0]["references"]]
    answers = [[answer["output"] for answer in row["answers"].values()] for row in rows]
    for row in answers:
        row += [mixture(*chance.sample(row, 2), chance) for _ in range(GROUP - len(row))]
    columns = list(zip(*answers, strict=True))
    return [
        ([joined(column, row) for column in references[:REFERENCES]], [joined(list(c), row) for c in columns[:GROUP]])
        for row in range(len(rows))
    ]


def generated_groups(count: int, chance: random.Random) -> list[Group]:
    """Groups of text whose words are as unevenly frequent as a language's, with shared phrases inside a group."""
    syllables = [a + b for a in "bdfgklmnprstvw" for b in ("a", "e", "i", "o", "u", "an", "er", "in")]
    vocabulary = ["".join(chance.choices(syllables, k=chance.randint(1, 4))) for _ in range(20_000)]
    frequencies = [1 / (rank + 2) for rank in range(len(vocabulary))]

    def sentences() -> list[str]:
        words = chance.choices(vocabulary, frequencies, k=12 * 40)
        return [" ".join(words[start : start + 12]).capitalize() + "." for start in range(0, len(words), 12)]

    groups = []
    for _ in range(count):
        topic = sentences()
        texts = [" ".join(chance.sample(topic, 12) + sentences()[:11]) for _ in range(REFERENCES + GROUP)]
        groups.append((texts[:REFERENCES], texts[REFERENCES:]))
    return groups


def reordered(group: Group, chance: random.Random) -> Group:
    """The same texts with their sentences in another order."""

    def shuffle(text: str) -> str:
        return ". ".join(chance.sample(parts := text.split(". "), len(parts)))

    return [shuffle(text) for text in group[0]], [shuffle(text) for text in group[1]]


def measure(groups: list[Group]) -> dict[str, float]:
    """Seconds of both ways, each group by ours and then by the peer, or the other way round."""
    ours, peer = BleuConfig(variant="sacrebleu").build(), BLEU(effective_order=True)
    seconds = {"ours": 0.0, "peer": 0.0}
    scores: dict[str, list[float]] = {}

    def score_ours(number: int, references: list[str], completions: list[str]) -> list[float]:
        example = Example(f"row {number}", "", references=references)
        outputs = ours.score([RewardInput(example, completion) for completion in completions])
        return [-1.0 if output.score is None else output.score for output in outputs]

    def score_peer(number: int, references: list[str], completions: list[str]) -> list[float]:
        return [peer.sentence_score(completion.strip(), references).score / 100 for completion in completions]

    ways = [("ours", score_ours), ("peer", score_peer)]
    for number, (references, completions) in enumerate(groups):
        for name, way in ways if number % 2 else ways[::-1]:
            start = time.perf_counter()
            scores[name] = way(number, references, completions)
            seconds[name] += time.perf_counter() - start
        for mine, theirs in zip(scores["ours"], scores["peer"], strict=True):
            if abs(mine - theirs) > 1e-9:
                raise AssertionError(f"group {number}: ours {mine}, sacrebleu {theirs}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="Sentence BLEU against sacrebleu.")
    parser.add_argument("--completions", type=int, default=5000)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    chance = random.Random(0)
    wanted = options.completions // GROUP
    real = real_groups(options.data, chance) if options.data.exists() else []
    base = real or generated_groups(wanted, chance)
    groups = [
        base[number] if number < len(base) else reordered(base[number % len(base)], chance) for number in range(wanted)
    ]
    seconds = measure(groups)
    rates = {name: len(groups) * GROUP / value for name, value in seconds.items()}
    for name, rate in rates.items():
        print(f"{name:5} {rate:8.0f} completions/s")
    tokenize = load_tokenizer("13a")
    tokens = statistics.mean(len(tokenize(text)) for group in groups for texts in group for text in texts)
    setting = {"completions": len(groups) * GROUP, "group": GROUP, "references": REFERENCES}
    setting |= {"mean_tokens": round(tokens), "texts": "alpaca_eval" if real else "generated", "processes": 1}
    result = {"name": "bleu", "ours": round(rates["ours"]), "peer": round(rates["peer"])}
    print(json.dumps({**result, "ratio": round(rates["ours"] / rates["peer"], 2), "setting": setting}))


if __name__ == "__main__":
    main()
