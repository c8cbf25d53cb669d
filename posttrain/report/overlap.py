"""Where the logged completions of a group share n-grams with the closest of its references."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, get_args

from posttrain.rewards.references.bleu_tokenizer import TokenizerName
from posttrain.rewards.references.matched_spans import closest_reference, matched_spans


def reference_tokenizer(reward: Any) -> TokenizerName:
    """What splits the words of references: the ``tokenize`` of a job's ``reward`` section if it has one, else 13a."""
    named = reward.get("tokenize") if isinstance(reward, dict) else None
    return next((name for name in get_args(TokenizerName) if name == named), "13a")


def overlap(rollout: dict[str, Any], references: Sequence[str], tokenize: TokenizerName = "13a") -> dict[str, Any]:
    """What the page shows of ``rollout`` beside the closest of ``references``; empty where there are none.

    ``reference`` is its index; ``overlap`` has the order of the longest shared n-gram of each token, 0 for none;
    ``reference_spans`` is ``[start, end, order]`` for each shared span of the reference, in characters.
    """
    if not references:
        return {}
    completion = "".join(rollout["tokens"])
    closest = closest_reference(rollout["text"], references, tokenize)
    orders = [0] * len(completion)
    for start, end, order in matched_spans(completion, references[closest], tokenize):
        orders[start:end] = [order] * (end - start)
    return {
        "reference": closest,
        "overlap": [max(orders[start:end], default=0) for start, end in _places(rollout["tokens"])],
        "reference_spans": matched_spans(references[closest], completion, tokenize),
    }


def _places(tokens: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Where each token is in the joined text."""
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token))
    return pairwise(ends)
