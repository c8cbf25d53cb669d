"""Which prompts of a set share a run of words with training data."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from posttrain.data.rows import Row
from posttrain.types import Example, Message

WORD = re.compile(r"\w+")
Words = tuple[str, ...]


def contaminated(examples: Sequence[Example], rows: Iterable[Row], words: int) -> set[str]:
    """The ids of the examples of which ``words`` words in a row are in a text of ``rows``; of shorter prompts, all
    their words. Case and punctuation do not count, nor does what most of the prompts have in common."""
    runs = {example.id: runs_of(example.prompt, words) for example in examples}
    frequent = Counter(run for own in runs.values() for run in own)
    wanted: dict[int, dict[Words, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name, own in runs.items():
        for run in own:
            if frequent[run] <= max(1, len(examples) / 2):
                wanted[len(run)][run].add(name)
    found: set[str] = set()
    for row in rows:
        for text in texts_of(row.values):
            spoken = WORD.findall(text.lower())
            for length, of_length in wanted.items():
                for start in range(len(spoken) - length + 1):
                    found |= of_length.get(tuple(spoken[start : start + length]), set())
    return found


def runs_of(prompt: str | Sequence[Message], words: int) -> set[Words]:
    """All runs of ``words`` words, or the one of all; none of no words."""
    text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
    spoken = WORD.findall(text.lower())
    length = min(words, len(spoken))
    return {tuple(spoken[start : start + length]) for start in range(len(spoken) - length + 1) if length}


def texts_of(value: Any) -> Iterator[str]:
    """The texts in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts_of(item)
