"""IFEval's own checker and ours: the same verdicts on the same texts.

The verdicts of the reference are kept as text: it needs a download. They were made by the checker in lm-eval 0.4.13
(``lm_eval/tasks/ifeval``, Google's own code), with langdetect's seed 0. Left out are the number of sentences, for which
the reference has a trained model, and the frequency of a letter that is none, which it replaces by a random one;
capital words are counted without first splitting the text into sentences.
"""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.rewards.instructions.instruction_checks import INSTRUCTIONS, checked_arguments
from posttrain.rewards.instructions.instruction_worker import judge

DATA = Path(__file__).parents[4] / "shared" / "data"
VERDICTS = Path(__file__).with_name("reference_verdicts.txt")
GREETINGS = {
    "de": "Guten Morgen, wir freuen uns sehr über Ihren Besuch in unserer kleinen Stadt.",
    "it": "Buongiorno, siamo molto felici della vostra visita nella nostra piccola città.",
    "ru": "Доброе утро, мы очень рады вашему приезду в наш маленький город.",
    "ko": "좋은 아침입니다, 우리 작은 도시에 오신 것을 진심으로 환영합니다.",
    "hi": "सुप्रभात, हमारे छोटे शहर में आपका हार्दिक स्वागत है।",
}
SENTENCES = "length_constraints:number_sentences"


def read(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip(f"{name} is not beside the checkout")
    with gzip.open(path, "rt") as file:
        return [json.loads(line) for line in file]


def responses(row: dict[str, Any], text: str) -> list[str]:
    """A model's answer to something else, and the same made to meet one instruction or another."""
    keys = {name: value for each in row["kwargs"] for name, value in (each or {}).items()}
    if "first_word" in keys:
        text = "\n\n".join([f"{keys['first_word']} it is, and so on."] * keys["num_paragraphs"])
    arguments = [str(value) for each in row["kwargs"] for value in (each or {}).values()]
    return [
        text,
        f"{row['prompt']}\n\n{text.replace(',', '')}\n\nP.S. bye [name] [place] [time]".lower(),
        f'"{text.upper()}"',
        f"<<Title>>\n* {text.replace('- ', '* ')}\n******\nMy answer is yes.",
        GREETINGS.get(keys.get("language", ""), '```json\n{"answer": 1}\n```'),
        f"SECTION 1\n{text[:300]}\n***\nSection 2\n*{arguments[0] if arguments else ''}*\n\n{' '.join(arguments)}",
    ]


def compared(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The instructions of a row that are compared."""
    pairs = zip(row["instruction_id_list"], (each or {} for each in row["kwargs"]), strict=True)
    return [(name, keys) for name, keys in pairs if name != SENTENCES and keys.get("letter", "a").isalpha()]


def cases() -> list[tuple[dict[str, Any], str]]:
    """A row of IFEval and a text, for every second row and each of its texts."""
    texts = [next(iter(row["references"].values())) for row in read("alpaca_eval/references.jsonl.gz")]
    rows = read("ifeval/prompts.jsonl.gz")[::2]
    return [(row, text) for place, row in enumerate(rows) for text in responses(row, texts[place % len(texts)])]


@pytest.mark.slow
def test_every_verdict_is_the_references() -> None:
    asked = cases()
    told, differing, seen = VERDICTS.read_text().split(), Counter[str](), dict[str, set[str]]()
    assert len(told) == len(asked) == 271 * 6
    for (row, text), verdicts in zip(asked, told, strict=True):
        kept = [(name, checked_arguments(name, keys)) for name, keys in compared(row)]
        found = judge({"text": text, "instructions": kept})
        own = [str(strict + loose) for strict, loose in zip(found["strict"], found["loose"], strict=True)]
        for (name, _), ours, theirs in zip(kept, own, verdicts.strip("-"), strict=True):
            seen.setdefault(name, set()).add(theirs)
            differing[name] += ours != theirs
    assert +differing == Counter()
    always = {name: verdicts for name, each in seen.items() if (verdicts := "".join(sorted(each))) not in ("02", "012")}
    assert always == {}, "every type is followed and not followed somewhere"
    assert seen.keys() == INSTRUCTIONS.keys() - {SENTENCES}
