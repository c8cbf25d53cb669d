"""Which tensors a trainer's model sends, under which names."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from posttrain.errors import EngineError
from posttrain.rollout.fingerprint import fingerprint_mismatches, tensor_fingerprint
from posttrain.rollout.weight_sync import policy_buckets, tied_names


def sent(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    pairs = [pair for bucket in policy_buckets(model, 1 << 20, dtype) for pair in bucket]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_tied_tensors_are_sent_once(policy: Any) -> None:
    tensors = sent(policy)
    assert set(tensors) == {name for name, _ in policy.named_parameters()}
    assert "lm_head.weight" not in tensors
    assert tied_names(policy) == {"lm_head.weight": "model.embed_tokens.weight"}


def test_an_adapted_model_sends_the_names_of_the_plain_one(policy: Any) -> None:
    plain = {name: tensor.clone() for name, tensor in sent(policy).items()}
    adapted = get_peft_model(policy, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    assert list(sent(adapted)) == list(plain)
    assert tied_names(adapted) == {"lm_head.weight": "model.embed_tokens.weight"}
    layer = adapted.base_model.model.model.layers[1].self_attn.q_proj
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    merged = layer.base_layer.weight + layer.scaling["default"] * (
        layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    )
    tensors = sent(adapted)
    torch.testing.assert_close(tensors["model.layers.1.self_attn.q_proj.weight"], merged)
    torch.testing.assert_close(tensors["model.layers.1.self_attn.q_proj.bias"], layer.base_layer.bias.data)
    changed = [name for name in plain if not torch.equal(plain[name], tensors[name])]
    assert changed == ["model.layers.1.self_attn.q_proj.weight"]


def test_modules_that_are_trained_whole_beside_an_adapter(policy: Any) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"], task_type="CAUSAL_LM")
    adapted = get_peft_model(policy, config)
    with torch.no_grad():
        adapted.base_model.model.model.norm.modules_to_save["default"].weight.fill_(3)
    tensors = sent(adapted)
    assert tensors["model.norm.weight"].eq(3).all()
    assert not any("modules_to_save" in name or "original_module" in name for name in tensors)


def test_buckets_are_bounded_and_cast(policy: Any) -> None:
    largest = max(parameter.numel() * 2 for parameter in policy.parameters())
    buckets = list(policy_buckets(policy, largest, torch.bfloat16))
    assert len(buckets) > 2
    assert all(sum(tensor.nbytes for _, tensor in bucket) <= largest for bucket in buckets)
    assert all(tensor.dtype == torch.bfloat16 for bucket in buckets for _, tensor in bucket)


def test_a_fingerprint_adds_over_rows_and_sees_columns() -> None:
    matrix = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
    parts = [tensor_fingerprint(part) for part in matrix.split([100, 8_900, 11_000])]
    assert abs(sum(parts) / tensor_fingerprint(matrix) - 1) < 1e-12
    assert abs(tensor_fingerprint(matrix[:, [1, 0, 2]]) / tensor_fingerprint(matrix) - 1) > 1e-3


def test_mismatches_name_the_tensor_and_both_numbers() -> None:
    sent_numbers = {"q": 1.0, "k": 2.0, "norm": 5.0}
    assert fingerprint_mismatches(sent_numbers, {"q+k": 3.0, "norm": 5.0}) == []
    assert fingerprint_mismatches(sent_numbers, {"q+k": 3.1, "norm": 5.0}) == [
        "q+k: the engine has 3.1, the trainer sent 3"
    ]
    assert fingerprint_mismatches(sent_numbers, {"q+k": 3.0}) == ["norm was sent but the engine does not report it"]
    assert fingerprint_mismatches(sent_numbers, {"q+k": 3.0, "norm": 5.0, "v": 1.0}) == [
        "v is in the engine but was not sent"
    ]


def test_an_untied_head_is_sent(policy: Any) -> None:
    policy.lm_head.weight = torch.nn.Parameter(policy.lm_head.weight.detach() + 1)
    assert torch.equal(sent(policy)["lm_head.weight"], policy.lm_head.weight)
    assert tied_names(policy) == {}


def test_an_adapter_that_cannot_be_merged_is_refused(policy: Any) -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], use_dora=True, task_type="CAUSAL_LM")
    with pytest.raises(EngineError, match=r"layers\.0\.self_attn\.q_proj\.weight has a DoRA adapter"):
        sent(get_peft_model(policy, config))
