"""What an engine checks of the tensors that it is sent, before it takes them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from posttrain.errors import WeightSyncError


def checked(
    buckets: Iterable[Sequence[tuple[str, Tensor]]], shapes: Mapping[str, torch.Size]
) -> Iterator[Sequence[tuple[str, Tensor]]]:
    """Pass ``buckets`` on if they are exactly the tensors of ``shapes``, each once.

    Raises:
        WeightSyncError: a tensor is unknown, comes twice, has another shape, or is missing at the end.
    """
    missing = dict.fromkeys(shapes)
    for bucket in buckets:
        for name, tensor in bucket:
            if name not in shapes:
                raise WeightSyncError(f"the engine's model has no tensor {name}")
            if name not in missing:
                raise WeightSyncError(f"{name} was sent twice")
            if tensor.shape != shapes[name]:
                raise WeightSyncError(f"{name} has shape {tuple(tensor.shape)}, the engine's {tuple(shapes[name])}")
            del missing[name]
        yield bucket
        del bucket, tensor  # before the next bucket is gathered
    if missing:
        raise WeightSyncError(f"not sent to the engine: {', '.join(missing)}")
