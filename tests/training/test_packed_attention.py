"""Packed sequences give the log-probs and gradients that each sequence gives alone."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen2Config, Qwen2ForCausalLM

from posttrain.training.packed_attention import enable_packed_attention, packed_arguments

# Sums of a few hundred float32 terms of order 1, in another order: some units in the last place (6e-8 each).
TOLERANCE = 1e-6
SKEWED = [97, 97, 64, 33, 33, 33, 5, 2, 1, 1]
SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}


def make_model(heads: int = 4, key_value_heads: int = 2, kind: str = "qwen2") -> nn.Module:
    torch.manual_seed(0)
    shape = SHAPE | {"num_attention_heads": heads, "num_key_value_heads": key_value_heads}
    match kind:
        case "qwen2":
            return Qwen2ForCausalLM(Qwen2Config(**shape))
        case "llama":
            return LlamaForCausalLM(LlamaConfig(**shape))
        case "sliding window":
            return MistralForCausalLM(MistralConfig(**shape, sliding_window=16))
    raise AssertionError(kind)


def make_sequences(lengths: list[int]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, SHAPE["vocab_size"], (length,), generator=generator) for length in lengths]


def next_token_logprobs(logits: Tensor, ids: Tensor) -> Tensor:
    return logits[:-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]


def alone(model: nn.Module, sequences: list[Tensor]) -> list[Tensor]:
    return [next_token_logprobs(model(input_ids=ids[None], use_cache=False).logits[0], ids) for ids in sequences]


def packed(model: nn.Module, sequences: list[Tensor], **overrides: object) -> list[Tensor]:
    lengths = [len(ids) for ids in sequences]
    arguments = {
        "input_ids": torch.cat(sequences)[None],
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "use_cache": False,
        **packed_arguments(lengths, torch.device("cpu")),
    }
    logits = model(**(arguments | overrides)).logits[0]
    return [next_token_logprobs(part, ids) for part, ids in zip(logits.split(lengths), sequences, strict=True)]


def gradients(model: nn.Module, logprobs: list[Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum(part.sin().sum() for part in logprobs).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def largest_difference(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True) if len(a))


def assert_equal_gradients(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, gradient in theirs.items():
        difference = (ours[name] - gradient).norm() / gradient.norm().clamp(min=1e-3)
        assert difference < TOLERANCE, f"{name}: {difference:.1e}"


@pytest.mark.parametrize(
    ("heads", "key_value_heads", "kind"),
    [(4, 2, "qwen2"), (4, 4, "qwen2"), (4, 1, "llama"), (4, 2, "sliding window")],
)
def test_logprobs_and_gradients_equal_those_of_each_sequence_alone(heads: int, key_value_heads: int, kind: str) -> None:
    model, sequences = make_model(heads, key_value_heads, kind), make_sequences(SKEWED)
    expected = alone(model, sequences)
    expected_gradients = gradients(model, expected)
    enable_packed_attention(model)
    actual = packed(model, sequences)
    assert largest_difference(actual, expected) < TOLERANCE
    assert_equal_gradients(gradients(model, actual), expected_gradients)


@pytest.mark.parametrize("lengths", [SKEWED[::-1], [40], [7] * 12, [3, 9, 3, 9]], ids=str)
def test_any_order_of_lengths(lengths: list[int]) -> None:
    model, sequences = make_model(), make_sequences(lengths)
    expected = alone(model, sequences)
    enable_packed_attention(model)
    assert largest_difference(packed(model, sequences), expected) < TOLERANCE


@pytest.mark.parametrize(
    "overrides",
    [{"use_cache": True}, {"attention_mask": torch.ones(1, sum(SKEWED))}],
    ids=["use_cache", "attention_mask"],
)
def test_nothing_else_the_model_is_given_lets_sequences_see_each_other(overrides: dict[str, object]) -> None:
    """With sdpa, transformers takes either argument as word that the row is one sequence: the error is about 1."""
    model, sequences = make_model(), make_sequences(SKEWED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)  # a random model hardly attends; make what a token sees matter
        expected = alone(model, sequences)
        assert largest_difference(packed(model, sequences, **overrides), expected) > 0.1
        enable_packed_attention(model)
        assert largest_difference(packed(model, sequences, **overrides), expected) < 1e-4


def test_gradient_checkpointing_changes_nothing() -> None:
    model, sequences = make_model().train(), make_sequences(SKEWED)
    enable_packed_attention(model)
    plain = packed(model, sequences)
    plain_gradients = gradients(model, plain)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    recomputed = packed(model, sequences)
    assert largest_difference(recomputed, plain) == 0
    assert_equal_gradients(gradients(model, recomputed), plain_gradients)


def test_no_mask_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sequences = make_model(), make_sequences(SKEWED)
    enable_packed_attention(model)
    masks: list[object] = []
    for layer in model.model.layers:
        layer.register_forward_pre_hook(
            lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )
    packed(model, sequences)
    assert masks == [None] * SHAPE["num_hidden_layers"]


def test_the_arguments_are_flash_attentions() -> None:
    arguments = packed_arguments([5, 5, 3], torch.device("cpu"))
    assert arguments["cu_seq_lens_q"].tolist() == list(accumulate([0, 5, 5, 3]))
    assert arguments["cu_seq_lens_q"].dtype == torch.int32
    assert arguments["max_length_k"] == 5
    assert arguments["packed_runs"] == [(2, 5), (1, 3)]


def test_a_call_without_the_runs_is_refused() -> None:
    model = make_model()
    enable_packed_attention(model)
    with pytest.raises(ValueError, match="packed_arguments"):
        model(input_ids=torch.zeros(1, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="packed_arguments"):
        packed(model, make_sequences([4, 4]), packed_runs=[(1, 4)])
