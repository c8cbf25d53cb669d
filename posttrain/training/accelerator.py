"""The accelerate ``Accelerator``, made so that ranks find each other on GPUs and on CPU."""

import os
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.utils import DistributedType, gather_object

from posttrain.errors import JobError


def make_accelerator(trackers: list[str], folder: str, max_grad_norm: float) -> Accelerator:
    """One accelerator for the launch that this process belongs to.

    accelerate chooses no back end for DeepSpeed on CPU, and every rank then believes that it is alone: gloo is named
    there, and only there (elsewhere naming it would leave the model unwrapped).

    Raises:
        JobError: the launcher started several ranks, but they do not see each other.
    """
    use_deepspeed = os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
    on_cpu = not torch.accelerator.is_available()
    handlers: list[Any] = [InitProcessGroupKwargs(backend="gloo")] if use_deepspeed and on_cpu else []
    accelerator = Accelerator(kwargs_handlers=handlers, log_with=trackers or None, project_dir=folder)
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise JobError(
            f"the launcher started {expected} processes, but this one sees {accelerator.num_processes}: they would "
            "train apart. On CPU use a launch config from recipes/accelerate, which sets the back end."
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        settings = accelerator.state.deepspeed_plugin.deepspeed_config
        settings.update(train_micro_batch_size_per_gpu=1, train_batch_size="auto", gradient_clipping=max_grad_norm)
    return accelerator


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


def gather_lists(accelerator: Accelerator, items: list[Any]) -> list[Any]:
    """The items of all ranks, in rank order, on every rank."""
    return items if accelerator.num_processes == 1 else gather_object(items)
