"""One rank of a sharded trainer that hands its policy to an engine of its own: run by ``test_sharded_policy.py``.

``torchrun --nproc_per_node 2 sharded_policy.py (zero3|zero3-lora|fsdp2) MODEL_FOLDER``
"""

import gc
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


def live_bytes() -> int:
    """Bytes of all tensors that Python holds, each storage once."""
    storages = (t.untyped_storage() for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter))
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def peak_while_sending(model: Any, engine: Any, bucket_bytes: int) -> tuple[int, int]:
    """Bytes above those at the start, the most seen when a parameter had just been gathered; and how often one was."""
    import deepspeed

    sync_weights(model, engine, version=1, bucket_bytes=bucket_bytes)  # what is allocated once is allocated now
    start, seen = live_bytes(), []

    class Watched(deepspeed.zero.GatheredParameters):  # type: ignore[misc]
        def __exit__(self, *error: object) -> None:
            seen.append(live_bytes() - start)
            super().__exit__(*error)

    real, deepspeed.zero.GatheredParameters = deepspeed.zero.GatheredParameters, Watched
    sync_weights(model, engine, version=2, bucket_bytes=bucket_bytes)
    deepspeed.zero.GatheredParameters = real
    return max(seen), len(seen)


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
    engine = TransformersEngineConfig(device="cpu").build(folder)
    if mode == "zero3":
        largest = max(parameter.ds_numel for parameter in model.parameters()) * 4
        peak, gathers = peak_while_sending(model, engine, bucket_bytes=300_000)
        assert gathers == len(list(model.parameters()))
        assert largest < peak <= 300_000 + largest, (peak, largest)
        print(f"gathered with {peak} bytes, the largest parameter has {largest}")
    report = sync_weights(model, engine, version=3, bucket_bytes=50_000)
    assert all(not hasattr(p, "ds_id") or p.numel() == 0 for p in model.parameters()), "shards were not let go"
    print(f"rank {dist.get_rank()} of {dist.get_world_size()}: {report.tensors} tensors in {report.buckets} buckets")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
