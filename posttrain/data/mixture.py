"""Several kinds of examples in one stream, each step with fixed numbers of each."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from posttrain.data.sampler import ExampleSampler
from posttrain.errors import DataError
from posttrain.types import Example

Kind = TypeVar("Kind", bound=str)


def mixed_counts(mix: Mapping[Kind, float], total: int) -> dict[Kind, int]:
    """``total`` divided by the shares of ``mix``, which sum to 1: largest remainders, ties to the earlier kind."""
    exact = {kind: total * share for kind, share in mix.items()}
    counts = {kind: math.floor(value + 1e-9) for kind, value in exact.items()}
    by_remainder = sorted(mix, key=lambda kind: round(counts[kind] - exact[kind], 9))  # a stable sort
    for kind in by_remainder[: total - sum(counts.values())]:
        counts[kind] += 1
    return counts


class MixtureSampler:
    """An ``ExampleSampler`` for each kind (``Example.task``) that ``mix`` gives a share; the kinds come in its order.

    ``mix`` may be changed between steps, to kinds of the first one.

    Raises:
        DataError: ``mix`` gives a share to a kind of which there is no example.
    """

    def __init__(self, examples: Sequence[Example], mix: Mapping[str, float], seed: int = 0) -> None:
        self.mix = dict(mix)
        self.samplers: dict[str, ExampleSampler] = {}
        for kind, share in mix.items():
            of_kind = [example for example in examples if example.task == kind]
            if share and not of_kind:
                raise DataError(
                    f"the mixture gives {kind} a share of {share:g}, but no training example is of that task; "
                    "add such data or set the share to 0"
                )
            if share:
                self.samplers[kind] = ExampleSampler(of_kind, seed)

    def next(self, count: int) -> list[Example]:
        """The next ``count`` examples."""
        counts = mixed_counts(self.mix, count)
        return [example for kind, number in counts.items() if number for example in self.samplers[kind].next(number)]

    def state_dict(self) -> dict[str, Any]:
        """Where each kind's sampler is."""
        return {kind: sampler.state_dict() for kind, sampler in self.samplers.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            DataError: the state belongs to other kinds, other examples or another seed.
        """
        if state.keys() != self.samplers.keys():
            raise DataError(
                f"the checkpoint samples {', '.join(state)}, this run {', '.join(self.samplers)}; resume with the "
                "mixture of the checkpoint, or start a new run"
            )
        for kind, sampler in self.samplers.items():
            sampler.load_state_dict(state[kind])
