"""Where the logged completions of a group share n-grams with the closest of its references."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from posttrain.rewards.references.bleu_tokenizer import TokenizerName
from posttrain.rewards.references.matched_spans import closest_reference, matched_spans
from posttrain.rewards.text_processing import TextProcessing


class Comparison(BaseModel):
    """How a run's reward compares: what splits the words, and what of a completion counts."""

    tokenize: TokenizerName = "13a"
    text: TextProcessing = Field(default_factory=TextProcessing)

    @classmethod
    def of(cls, reward: Any) -> "Comparison":
        """As the ``reward`` section of a job says, the default where it does not say, or not in today's keys."""
        try:
            return cls.model_validate(reward)
        except ValidationError:
            return cls()


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
    places = pairwise(accumulate(map(len, rollout["tokens"]), initial=0))  # of each token in the joined text
    closest = closest_reference(compared, references, how.tokenize)
    orders = [0] * len(completion)
    for start, end, order in matched_spans(compared, references[closest], how.tokenize):
        orders[first + start : first + end] = [order] * (end - start)
    return {
        "reference": closest,
        "overlap": [max(orders[start:end], default=0) for start, end in places],
        "reference_spans": matched_spans(references[closest], compared, how.tokenize),
    }
