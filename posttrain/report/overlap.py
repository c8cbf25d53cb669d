"""Where the logged completions of a group share n-grams with the closest of its references."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, get_args

from pydantic import ValidationError

from posttrain.rewards.references.bleu_tokenizer import TokenizerName
from posttrain.rewards.references.matched_spans import closest_reference, matched_spans
from posttrain.rewards.text_processing import TextProcessing


@dataclass(frozen=True)
class Comparison:
    """How a run's reward compares: what splits the words, and what of a completion counts."""

    tokenize: TokenizerName = "13a"
    text: TextProcessing = field(default_factory=TextProcessing)

    @classmethod
    def of(cls, reward: Any) -> "Comparison":
        """As the ``reward`` section of a job says, the default where it does not say, or not in today's keys."""
        keys = reward if isinstance(reward, dict) else {}
        names: tuple[TokenizerName, ...] = get_args(TokenizerName)
        tokenize = next((name for name in names if name == keys.get("tokenize")), names[0])
        try:
            return cls(tokenize, TextProcessing.model_validate(keys.get("text") or {}))
        except ValidationError:
            return cls(tokenize)


def overlap(rollout: dict[str, Any], references: Sequence[str], how: Comparison) -> dict[str, Any]:
    """What the page shows of ``rollout`` beside the closest of ``references``; empty where there are none.

    ``reference`` is its index; ``overlap`` has the order of the longest shared n-gram of each token, 0 for none;
    ``reference_spans`` is ``[start, end, order]`` for each shared span of the reference, in characters.
    """
    if not references:
        return {}
    completion, compared = "".join(rollout["tokens"]), how.text.of_completion(rollout["text"])
    first = completion.rfind(compared)
    if first < 0:  # its spelling was changed
        first, compared = 0, completion
    closest = closest_reference(compared, references, how.tokenize)
    orders = [0] * len(completion)
    for start, end, order in matched_spans(compared, references[closest], how.tokenize):
        orders[first + start : first + end] = [order] * (end - start)
    return {
        "reference": closest,
        "overlap": [max(orders[start:end], default=0) for start, end in _places(rollout["tokens"])],
        "reference_spans": matched_spans(references[closest], compared, how.tokenize),
    }


def _places(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each token is in the joined text."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    return pairwise(ends)
