"""Chunked log-probs and entropies against log_softmax over the full logits, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from posttrain.objectives.logprobs import token_logprobs

TOKENS, WIDTH, VOCABULARY = 12, 5, 33


def tensors(dtype: torch.dtype = torch.float64, seed: int = 0, tokens: int = TOKENS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = 2 * torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(VOCABULARY, (tokens,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def full(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    logits = hidden @ weight.T
    all_logprobs = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)) / temperature, dim=-1)
    return all_logprobs.gather(1, targets[:, None]).squeeze(1), -(all_logprobs.exp() * all_logprobs).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 0.6, 2.5])
@pytest.mark.parametrize("chunk_size", [1, 7, TOKENS, TOKENS + 5])
def test_values_and_gradients_of_both_outputs_equal_full_softmax(chunk_size: int, temperature: float) -> None:
    hidden, weight, targets = tensors()
    ours = token_logprobs(hidden, weight, targets, temperature=temperature, chunk_size=chunk_size)
    expected = full(hidden, weight, targets, temperature)
    for mine, theirs in zip(ours, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)

    factors = torch.randn(2, TOKENS, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for used in ([0], [1], [0, 1]):
        mine = torch.autograd.grad(sum((factors[i] * ours[i]).sum() for i in used), (hidden, weight), retain_graph=True)
        theirs = torch.autograd.grad(
            sum((factors[i] * expected[i]).sum() for i in used), (hidden, weight), retain_graph=True
        )
        for a, b in zip(mine, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-11)


@pytest.mark.filterwarnings("ignore:Backwards compatibility")
@pytest.mark.parametrize("chunk_size", [2, 5])
def test_gradcheck(chunk_size: int) -> None:
    hidden, weight, targets = tensors(tokens=5)
    bias = torch.linspace(-1, 1, VOCABULARY, dtype=torch.float64).requires_grad_()

    def outputs(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(hidden, weight, targets, temperature=0.7, chunk_size=chunk_size, bias=bias)

    assert torch.autograd.gradcheck(outputs, (hidden, weight, bias))


def test_no_tokens() -> None:
    hidden, weight, targets = tensors(tokens=0)
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    assert logprobs.shape == entropy.shape == (0,)
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, WIDTH)
    assert weight.grad is not None and not weight.grad.any()


def test_bfloat16_has_a_float32_softmax() -> None:
    hidden, weight, targets = tensors(torch.bfloat16)
    ours = token_logprobs(hidden, weight, targets, chunk_size=5)
    expected = full(hidden, weight, targets)
    for mine, theirs in zip(ours, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(ours[0].sum() + ours[1].sum(), (hidden, weight))
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    exact_gradients = torch.autograd.grad(sum(t.sum() for t in full(exact[0], exact[1], targets)), exact)
    for mine, theirs in zip(gradients, exact_gradients, strict=True):
        assert mine.dtype == torch.bfloat16
        # bfloat16 keeps 8 bits: logits, their gradient and up to three partial sums are rounded
        assert (mine.double() - theirs).norm() < 4 * 2**-8 * theirs.norm()


def test_autocast_computes_products_in_its_dtype() -> None:
    hidden, weight, targets = tensors(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logprobs, _ = token_logprobs(hidden, weight, targets)
    logprobs.sum().backward()
    expected, _ = full(hidden.bfloat16(), weight.bfloat16(), targets)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)
    assert weight.grad is not None and weight.grad.dtype == torch.float32


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, weight, targets = tensors()
    weight.requires_grad_(False)
    token_logprobs(hidden, weight, targets)[0].sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_extreme_logits_stay_finite() -> None:
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0, 0]))
    assert logprobs.tolist() == [0.0, -2e4]
    assert entropy.tolist() == [0.0, 0.0]
    (logprobs.sum() + entropy.sum()).backward()
    assert hidden.grad is not None and hidden.grad.isfinite().all()


class LargestTensor(TorchDispatchMode):
    """Remembers the largest output of any operation."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.numel())
        return result


def test_full_logits_never_exist() -> None:
    hidden, weight, targets = tensors()
    with LargestTensor() as largest:
        logprobs, entropy = token_logprobs(hidden, weight, targets, chunk_size=6)
        (logprobs.sum() + entropy.sum()).backward()
    assert largest.elements == 6 * VOCABULARY
