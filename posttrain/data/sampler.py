"""Which examples a step trains on: a new order every epoch, a function of the seed alone, resumable at any example."""

import hashlib
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from posttrain.errors import DataError
from posttrain.types import Example


class ExampleSampler:
    """Draws every example once an epoch, in an order that depends on ``seed`` and the epoch's number alone.

    Raises:
        DataError: ``examples`` is empty.
    """

    def __init__(self, examples: Sequence[Example], seed: int = 0) -> None:
        if not examples:
            raise DataError("there are no training examples to sample from")
        self.examples = examples
        self.seed = seed
        self.epoch = 0
        self.position = 0
        self._order = self._order_of(0)

    def next(self, count: int) -> list[Example]:
        """The next ``count`` examples; where an epoch ends, the next begins."""
        drawn: list[Example] = []
        while len(drawn) < count:
            if self.position == len(self._order):
                self.epoch += 1
                self.position = 0
                self._order = self._order_of(self.epoch)
            chosen = self._order[self.position : self.position + count - len(drawn)]
            self.position += len(chosen)
            drawn += [self.examples[index] for index in chosen]
        return drawn

    def state_dict(self) -> dict[str, Any]:
        """Where the sampler is, and a fingerprint of what it samples from."""
        return {"epoch": self.epoch, "position": self.position, "seed": self.seed, "examples": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            DataError: the state belongs to other examples or another seed.
        """
        if state["examples"] != self._fingerprint:
            raise DataError(
                "the training examples are not those of the checkpoint (their ids or order differ); "
                "resume with the same data, or start a new run"
            )
        if state["seed"] != self.seed:
            raise DataError(f"the checkpoint was sampled with seed {state['seed']}, this run has {self.seed}")
        self.epoch, self.position = state["epoch"], state["position"]
        self._order = self._order_of(self.epoch)

    def _order_of(self, epoch: int) -> list[int]:
        order = list(range(len(self.examples)))
        random.Random(f"{self.seed}/{epoch}").shuffle(order)
        return order

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for example in self.examples:
            digest.update(example.id.encode() + b"\0")
        return digest.hexdigest()
