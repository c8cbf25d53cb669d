"""The accelerate ``Accelerator``, made so that ranks find each other on GPUs and on CPU, and what ranks do together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, gather_object
from torch import nn

from posttrain.errors import JobError


def make_accelerator(trackers: list[str], folder: str, max_grad_norm: float) -> Accelerator:
    """One accelerator for the launch that this process belongs to.

    accelerate chooses no back end on CPU, and every rank then believes that it is alone: it is told of the CPU, and
    with DeepSpeed of gloo (which without DeepSpeed would leave the model unwrapped).

    Raises:
        JobError: the launcher started several ranks, but they do not see each other; or FSDP on CPU.
    """
    use_deepspeed, on_cpu = _asked_for("ACCELERATE_USE_DEEPSPEED"), not torch.accelerator.is_available()
    if on_cpu and _asked_for("ACCELERATE_USE_FSDP"):
        raise JobError(
            "FSDP needs GPUs: accelerate sets it up on none, and on CPU the processes would train apart. There use "
            "recipes/accelerate/zero3.yaml, which splits the weights too"
        )
    if on_cpu:
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"  # a CPU gains nothing by it; TRL reads it here too
    accelerator = Accelerator(
        cpu=on_cpu and not use_deepspeed,
        kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")] if use_deepspeed and on_cpu else [],
        log_with=trackers or None,
        project_dir=folder,
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise JobError(
            f"the launcher started {expected} processes, but this one sees {accelerator.num_processes}: they would "
            "train apart. Use a launch config from recipes/accelerate"
        )
    if zero_stage(accelerator) is not None:
        set_max_grad_norm(accelerator, max_grad_norm)
        _load_whole_models()
    return accelerator


def set_max_grad_norm(accelerator: Accelerator, max_grad_norm: float) -> None:
    """DeepSpeed clips by itself: what it is told before a model is prepared."""
    accelerator.state.deepspeed_plugin.deepspeed_config.update(
        train_micro_batch_size_per_gpu=1, train_batch_size="auto", gradient_clipping=max_grad_norm
    )


def zero_stage(accelerator: Accelerator) -> int | None:
    """DeepSpeed's ZeRO stage, None without DeepSpeed. In stage 3 a rank holds a part of every weight."""
    if accelerator.distributed_type != DistributedType.DEEPSPEED:
        return None
    return int(accelerator.state.deepspeed_plugin.zero_stage)


def sharded_if_zero3(accelerator: Accelerator, model: nn.Module) -> Any:
    """A model that is never trained: whole on this rank's device, or under ZeRO-3 a part of it on each rank."""
    if zero_stage(accelerator) == 3:
        return Accelerator().prepare(model)  # its own, because an accelerator drives one DeepSpeed engine
    return model.to(accelerator.device)


@contextmanager
def loading_shards() -> Iterator[None]:
    """A model that is loaded in the block to be prepared. Under ZeRO-3 with ``zero3_init_flag`` it is split as it is
    made, and never whole on a rank. Models loaded elsewhere (the engine's, a reward's) are whole."""
    if not _asked_for("ACCELERATE_USE_DEEPSPEED") or not AcceleratorState().deepspeed_plugin.is_zero3_init_enabled():
        yield
        return
    AcceleratorState().deepspeed_plugin.set_deepspeed_weakref()
    try:
        yield
    finally:
        _load_whole_models()


def _load_whole_models() -> None:
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _asked_for(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


def leave_process_group() -> None:
    """End the communication with the other ranks, if there are any. Its threads abort a process that ends first."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def any_rank(accelerator: Accelerator, flag: bool) -> bool:
    """Whether ``flag`` is set on any rank. Every rank calls it."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")
    return bool(total > 0)


def is_lost_rank(error: RuntimeError) -> bool:
    """Whether ``error`` is what a collective operation raises when another rank has ended."""
    said = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or ("gloo" in said and "connection" in said)


def gather_lists(accelerator: Accelerator, items: list[Any], group: Any = None) -> list[Any]:
    """The items of all ranks, in rank order, on every rank. A thread beside the one that updates needs a process
    ``group`` of its own (``group_for_a_thread``): in a common one, operations meet in the order in which ranks begin
    them."""
    if accelerator.num_processes == 1:
        return items
    if group is None:
        return gather_object(items)
    parts: list[list[Any]] = [[]] * accelerator.num_processes
    torch.distributed.all_gather_object(parts, items, group=group)
    return [item for part in parts for item in part]


def group_for_a_thread(accelerator: Accelerator) -> Any:
    """A process group of all ranks that one thread alone talks in, on the CPU; None for one process. Collective."""
    return torch.distributed.new_group(backend="gloo") if accelerator.num_processes > 1 else None
