"""Prompts that share words with training data, and those that only look like it."""

import pytest

from posttrain.data.rows import Row
from posttrain.evaluation.contamination import contaminated
from posttrain.types import Example

PROMPTS = {
    "shared": "Solve it. A train leaves the old station at nine and arrives at noon.",
    "edited": "Solve it. A train leaves the new station at nine and arrives at noon.",
    "short": "Seven plus eight?",
    "other": "Solve it. Twelve eggs are broken.",
}
EXAMPLES = [Example(name, prompt) for name, prompt in PROMPTS.items()]


def rows(*texts: str) -> list[Row]:
    return [Row(f"line {number}", number, {"turns": [{"content": text}]}) for number, text in enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("He said: a TRAIN leaves, the old station at nine...", 8, {"shared"}),
        ("He said: a TRAIN leaves, the old station at nine...", 9, set()),
        ("leaves the new station at nine and arrives at noon", 6, {"edited", "shared"}),
        ("is seven plus, eight fifteen", 8, {"short"}),
        ("seven plus nine", 8, set()),
        ("Solve it.", 2, set()),
        ("", 1, set()),
    ],
)
def test_runs_of_words(text: str, words: int, found: set[str]) -> None:
    """What most prompts begin with is no sign, and a prompt shorter than the run counts as a whole."""
    assert contaminated(EXAMPLES, rows("nothing of it", text), words) == found


def test_messages_count_as_they_are_said() -> None:
    chat = Example("chat", [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who are you?"}])
    assert contaminated([chat], rows("so, who are you"), 3) == {"chat"}
