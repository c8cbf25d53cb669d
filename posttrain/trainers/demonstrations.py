"""Demonstrations as token ids, checked once when training starts."""

import logging
import random
from collections.abc import Sequence

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Example

logger = logging.getLogger(__name__)


class Demonstrations:
    """The demonstrations of each example, as ids that continue its prompt. Nothing is tokenized again later."""

    def __init__(self, ids: dict[str, list[list[int]]]) -> None:
        self.ids = ids

    @classmethod
    def encode(
        cls,
        examples: Sequence[Example],
        encoder: PromptEncoder,
        *,
        max_tokens: int,
        stop_token_ids: Sequence[int] = (),
        fraction: float = 1.0,
        seed: int = 0,
    ) -> "Demonstrations":
        """Encode the demonstrations of a ``fraction`` of the examples, chosen by ``seed`` and id. Empty ones do not
        count; one of more than ``max_tokens`` cannot be finished in the budget and is left out with a warning.

        Raises:
            DataError: a demonstration holds a token that begins a text or ends a completion, or the tokenizer cannot
                say its text.
        """
        markers = {encoder.tokenizer.bos_token_id, encoder.tokenizer.eos_token_id, *stop_token_ids}
        ids: dict[str, list[list[int]]] = {}
        too_long = []
        for example in examples:
            if derive_seed(seed, "demonstration", example.id) / 2**63 >= fraction:
                continue
            given = example.demonstration or []
            for text in [given] if isinstance(given, str) else given:
                tokens = encoder.completion_ids(text)
                _check(example, text, tokens, markers, encoder)
                if len(tokens) > max_tokens:
                    too_long.append(example.id)
                elif tokens:
                    ids.setdefault(example.id, []).append(tokens)
        if too_long:
            logger.warning(
                "%d demonstrations have more than %d tokens and are left out (examples %s)",
                len(too_long), max_tokens, ", ".join(too_long[:3]),
            )  # fmt: skip
        return cls(ids)

    def draw(self, example: Example, rng: random.Random) -> list[int]:
        """One of the example's demonstrations; empty where it has none."""
        own = self.ids.get(example.id)
        return rng.choice(own) if own else []


def _check(example: Example, text: str, tokens: Sequence[int], markers: set[int], encoder: PromptEncoder) -> None:
    where = f"the demonstration of example {example.id!r}"
    if found := markers & set(tokens):
        name = encoder.tokenizer.convert_ids_to_tokens(min(found))
        raise DataError(
            f"{where} holds {name!r}, which begins a text or ends a completion: write it without such markers"
        )
    decoded = encoder.text(tokens)
    if decoded.lstrip() != text.lstrip():  # some tokenizers drop a leading space when they decode
        place = next((i for i, pair in enumerate(zip(decoded, text, strict=False)) if pair[0] != pair[1]), len(decoded))
        raise DataError(
            f"{where} is not what the policy's tokenizer says it is: from character {place} on it reads "
            f"{decoded[place : place + 20]!r} for {text[place : place + 20]!r}"
        )
    if not isinstance(example.prompt, str):
        start = encoder.text([*encoder.prompt_ids(example), *tokens])
        if not encoder.text(encoder.judged_ids(example, text)[0]).startswith(start):
            raise DataError(
                f"{where} does not continue its prompt under the chat template: a template that opens a thinking "
                "block, or trims what the assistant says, needs demonstrations written to match"
            )
