"""One rank of a sharded trainer that hands its policy to an engine of its own: run by ``test_sharded_policy.py``.

``torchrun --nproc_per_node 2 sharded_policy.py (zero3|zero3-lora|fsdp2) MODEL_FOLDER``
"""

import sys
from typing import Any

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.weight_sync import policy_buckets, sync_weights


def trained_policy(folder: str, lora: bool) -> Any:
    """The folder's model, changed alike on every rank, with an adapter that is not zero."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    if lora:
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def sharded(model: Any, mode: str) -> Any:
    if mode == "fsdp2":
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
    }
    return deepspeed.initialize(model=model, config=config)[0].module


def main(mode: str, folder: str) -> None:
    if mode == "fsdp2":
        dist.init_process_group("gloo")
    else:
        import deepspeed

        deepspeed.init_distributed("gloo")
    model = trained_policy(folder, lora=mode == "zero3-lora")
    whole = {
        name: tensor.clone() for bucket in policy_buckets(model, 1 << 30, torch.float32) for name, tensor in bucket
    }
    model = sharded(model, mode)
    assert all(not hasattr(p, "ds_id") or p.numel() == 0 for p in model.parameters()), "the parameters are not sharded"
    for bucket in policy_buckets(model, 50_000, torch.float32):
        for name, tensor in bucket:
            torch.testing.assert_close(tensor, whole.pop(name), rtol=1e-6, atol=1e-7)
    assert not whole, f"not sent: {list(whole)}"
    report = sync_weights(model, TransformersEngineConfig(device="cpu").build(folder), version=1, bucket_bytes=50_000)
    assert all(not hasattr(p, "ds_id") or p.numel() == 0 for p in model.parameters()), "shards were not let go"
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {report.tensors} tensors in {report.buckets} buckets")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
