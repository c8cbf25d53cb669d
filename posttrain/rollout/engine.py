"""The rollout engine protocol: token ids in, token ids and behaviour log-probs out, as they finish."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from posttrain.types import Rollout, RolloutRequest

if TYPE_CHECKING:
    import torch


class RolloutEngine(Protocol):
    """Draws rollouts from the policy whose weights it was last given.

    ``submit`` may be called at any time, also while ``finished`` is being consumed; ``finished`` ends when nothing
    that was submitted is outstanding.
    """

    policy_version: int
    dtype: "torch.dtype"  # of the weights in use
    tokenizer: Any
    continuous: bool  # whether what is submitted joins the rollouts under way, or waits until they are done
    takes_adapter: bool  # whether the tensors it is sent are those of a LoRA adapter, on a base that it holds already

    @property
    def context_length(self) -> int:
        """Most tokens of a prompt and its completion."""
        ...

    def submit(self, requests: Sequence[RolloutRequest]) -> None: ...

    def finished(self) -> Iterator[Rollout]: ...

    def abort(self) -> None:
        """End what is outstanding: ``finished`` yields it as far as it was drawn, "aborted" unless it had ended."""
        ...

    def generate(self, requests: Sequence[RolloutRequest]) -> list[Rollout]:
        """All rollouts of ``requests``, ordered by request and rollout index."""
        ...

    def next_token_logprobs(self, requests: Sequence[RolloutRequest], top: int) -> list[dict[int, float]]:
        """For each request's prompt, at least the ``top`` likeliest next tokens and their natural log-probs, before
        temperature and truncation. Nothing else may be outstanding."""
        ...

    def update_weights(self, buckets: Iterable[Sequence[tuple[str, "torch.Tensor"]]], version: int) -> None:
        """Load a whole policy, a bucket of (trainer's parameter name, full tensor) at a time."""
        ...

    def fingerprint(self) -> Mapping[str, float]:
        """Read back from the weights in use: one float64 number per tensor, keyed by the trainer's name(s)."""
        ...

    def sleep(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...
