"""One number per weight tensor, computed alike by the trainer and by the engine that was given the tensor.

A matrix W [out, in] is multiplied by a fixed vector x: the number is the sum over rows of |W x|. Unlike a checksum it
can be had from a matrix that an engine has packed for its kernels, by running the kernel, and unlike a plain sum it
depends on where in a row a value stands. Fused tensors (q, k and v in one matrix) are rows one under another, so their
number is the sum of their parts'.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

RELATIVE_TOLERANCE = 1e-6
"""Float32 kernels agree to about 2e-8 once the rounding of some hundred rows has averaged out."""

_ROWS_AT_ONCE = 8192


def probe_vector(size: int) -> Tensor:
    """The fixed vector, float64 [size], on the CPU: values in (-1, 1) that float32 can hold, in no order."""
    return torch.cos(torch.arange(1, size + 1, dtype=torch.float64).square() * 0.7).float().double()


@torch.no_grad()
def tensor_fingerprint(tensor: Tensor) -> float:
    """The number of one tensor of any shape: a vector counts as a column, more dimensions are seen as [out, rest]."""
    return float(probe_products(tensor).abs().sum())


def probe_products(tensor: Tensor, first_column: int = 0) -> Tensor:
    """W x, float64 [rows], for the part of a matrix whose columns begin at ``first_column``; a vector as it is."""
    if tensor.ndim < 2:
        return tensor.double()
    matrix = tensor.flatten(1)
    vector = probe_vector(first_column + matrix.shape[1])[first_column:].to(tensor.device)
    # In pieces, so that the float64 copy stays small.
    return torch.cat([rows.double() @ vector for rows in matrix.split(_ROWS_AT_ONCE)])


def fingerprint_mismatches(expected: Mapping[str, float], actual: Mapping[str, float]) -> list[str]:
    """What differs, a sentence per tensor; empty when the engine holds what was sent.

    Args:
        expected: number of every tensor sent, by the trainer's name; or what another engine reports.
        actual: what the engine reports. A tensor that it has fused is keyed by the parts' names joined with "+".
    """
    problems = []
    reported: set[str] = set()
    for key, value in actual.items():
        names = [key] if key in expected else key.split("+")
        reported.update(names)
        unknown = [name for name in names if name not in expected]
        if unknown:
            problems.append(f"{', '.join(unknown)} is in the engine but was not sent")
            continue
        sent = sum(expected[name] for name in names)
        # The negation also catches a value that is not a number.
        if not abs(value - sent) <= RELATIVE_TOLERANCE * max(abs(sent), 1e-30):
            problems.append(f"{key}: the engine has {value:.9g}, the trainer sent {sent:.9g}")
    problems += [f"{name} was sent but the engine does not report it" for name in expected if name not in reported]
    return problems
