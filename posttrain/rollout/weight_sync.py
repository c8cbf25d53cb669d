"""From the trainer's model to the engine: whole tensors, a bucket at a time, and the proof that they arrived.

Nothing goes through a disk and the model is never held whole: a bucket is gathered, handed over and let go. Every rank
must take part in every sync, since ZeRO-3 and FSDP shards are gathered by all.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from posttrain.errors import EngineError, WeightSyncError
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.fingerprint import fingerprint_mismatches, tensor_fingerprint

Bucket = list[tuple[str, Tensor]]


@dataclass(slots=True)
class SyncReport:
    """What a sync moved."""

    version: int
    tensors: int
    buckets: int
    bytes: int
    seconds: float


@dataclass(slots=True)
class _PolicyTensor:
    """A tensor to send: ``value`` computes it while ``parameters`` are whole."""

    name: str
    parameters: list[nn.Parameter]
    value: Callable[[], Tensor]

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return whole_shape(self.parameters[0]).numel()


def sync_weights(
    model: nn.Module,
    engine: RolloutEngine,
    version: int,
    deadline_s: float = 600.0,
    bucket_bytes: int = 1 << 28,
    base: dict[str, float] | None = None,
) -> SyncReport:
    """Give ``model``'s weights to ``engine`` (LoRA merged, or the adapter alone if it ``takes_adapter``) and check that
    it now runs exactly them.

    Args:
        model: the causal language model as trained: plain, PEFT, ZeRO-3 or FSDP2.
        engine: its ``dtype`` is what the tensors are cast to.
        version: stamped on every rollout from now on.
        deadline_s: seconds after which the sync is given up, checked between buckets.
        bucket_bytes: size of a bucket; a larger tensor is a bucket of its own.
        base: keeps, from one sync of an adapter to the next, the fingerprint of the base that it is on.

    Raises:
        EngineError: only an adapter can be sent, and this is none.
        WeightSyncError: a tensor did not arrive or differs, the version differs, or the deadline has passed.
    """
    started = time.perf_counter()
    report = SyncReport(version, tensors=0, buckets=0, bytes=0, seconds=0.0)
    expected = _base_fingerprint(model, engine.dtype, base) if engine.takes_adapter else {}

    def watched() -> Iterator[Bucket]:
        sent = adapter_bucket if engine.takes_adapter else partial(policy_buckets, bucket_bytes=bucket_bytes)
        for bucket in sent(model, dtype=engine.dtype):
            expected.update((name, tensor_fingerprint(tensor)) for name, tensor in bucket)
            report.bytes += sum(tensor.nbytes for _, tensor in bucket)
            report.tensors += len(bucket)
            report.buckets += 1
            last = bucket[-1][0]
            yield bucket
            del bucket  # before the next is gathered
            _check_deadline(started, deadline_s, last)

    engine.update_weights(watched(), version)
    for alias, name in tied_names(model).items():
        expected[alias] = expected[name]
    problems = fingerprint_mismatches(expected, engine.fingerprint())
    if problems:
        raise WeightSyncError(f"weights of version {version} did not arrive in the engine: " + "; ".join(problems[:5]))
    if engine.policy_version != version:
        raise WeightSyncError(f"the engine reports policy version {engine.policy_version} after a sync to {version}")
    _check_deadline(started, deadline_s, "the last tensor")
    report.seconds = time.perf_counter() - started
    return report


def _check_deadline(started: float, deadline_s: float, name: str) -> None:
    elapsed = time.perf_counter() - started
    if elapsed > deadline_s:
        raise WeightSyncError(f"the weight sync took {elapsed:.1f} s, more than {deadline_s:g} s, by {name}")


def policy_buckets(model: nn.Module, bucket_bytes: int, dtype: torch.dtype) -> Iterator[Bucket]:
    """Every tensor of the policy as (name in the plain transformers model, whole tensor of ``dtype``), in buckets.

    Tied tensors come once, under the name of the embedding. LoRA is merged: W + B A alpha / r, computed beside the
    module, which is not touched. Every rank must take every bucket.
    """
    pending: list[_PolicyTensor] = []
    size = 0
    for tensor in _policy_tensors(model, _adapted_weights(model)):
        nbytes = tensor.numel * dtype.itemsize
        if pending and size + nbytes > bucket_bytes:
            yield _whole(pending, dtype)
            pending, size = [], 0
        pending.append(tensor)
        size += nbytes
    if pending:
        yield _whole(pending, dtype)


@torch.no_grad()
def _whole(tensors: Sequence[_PolicyTensor], dtype: torch.dtype) -> Bucket:
    """Gather what is sharded, a tensor at a time, and copy it, for its shards are let go: beside the bucket at most one
    tensor is whole."""
    bucket: Bucket = []
    for tensor in tensors:
        sharded = [parameter for parameter in tensor.parameters if hasattr(parameter, "ds_id")]
        with _gathered(sharded):
            bucket.append((tensor.name, _full(tensor.value()).to(dtype, copy=bool(sharded))))
    return bucket


def whole_shape(parameter: nn.Parameter) -> torch.Size:
    """The shape of a parameter where it is whole; one of ZeRO-3 is itself empty while it is sharded."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


def _gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    if not parameters:
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=None)


def _full(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def _policy_tensors(model: nn.Module, adapted: Mapping[str, _PolicyTensor]) -> Iterator[_PolicyTensor]:
    """The tensors in the order of the modules, each once; ``adapted`` stand for parameters of their names."""
    for name, parameter in model.named_parameters():
        if name in adapted:
            yield adapted[name]
        elif not _is_adapter_part(name):
            yield _PolicyTensor(plain_name(name), [parameter], partial(torch.Tensor.detach, parameter))


def _adapted_weights(model: nn.Module) -> dict[str, _PolicyTensor]:
    """The merged weight of every layer with a LoRA adapter, by the name of its base parameter in ``model``."""
    if not hasattr(model, "peft_config"):
        return {}
    from peft.tuners.lora import LoraLayer

    adapted = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and not module.merged:
            weight_name = f"{name}.base_layer.weight"
            adapted[weight_name] = _merged(plain_name(weight_name), module)
    return adapted


def _merged(name: str, layer: Any) -> _PolicyTensor:
    if any(layer.use_dora.get(adapter, False) for adapter in layer.active_adapters):
        raise EngineError(f"{name} has a DoRA adapter, which is not a sum of weights; train with plain LoRA")

    def value() -> Tensor:
        delta = sum(_full(layer.get_delta_weight(adapter)) for adapter in layer.active_adapters)
        return _full(layer.base_layer.weight) + delta

    return _PolicyTensor(name, [layer.base_layer.weight, *_adapter_parameters(layer)], value)


def _adapter_parameters(layer: Any) -> list[nn.Parameter]:
    return [p for part in layer.adapter_layer_names for p in getattr(layer, part, nn.Module()).parameters()]


@torch.no_grad()
def whole_adapter(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters of a PEFT model, whole and on the CPU, by their name in it. Collective."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    with _gathered([parameter for _, parameter in trained if hasattr(parameter, "ds_id")]):
        return {name: _full(parameter).to("cpu", copy=True) for name, parameter in trained}


def adapter_bucket(model: nn.Module, dtype: torch.dtype) -> Iterator[Bucket]:
    """The LoRA matrices of ``model`` as (name in the plain transformers model, whole tensor of ``dtype``), in one
    bucket; lora_B is multiplied by alpha / r.

    Raises:
        EngineError: something else is trained.
    """
    from peft.tuners.lora import LoraLayer

    scales: dict[str, float] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.active_adapters
            scales |= {
                f"{name}.lora_A.{adapter}.weight": 1.0,
                f"{name}.lora_B.{adapter}.weight": module.scaling[adapter],
            }
    tensors = whole_adapter(model)
    if others := [name for name in tensors if name not in scales]:
        raise EngineError(
            f"{plain_name(others[0])} is trained, and is no part of a LoRA adapter of linear layers: without "
            "engine.max_lora_rank the weights go over merged"
        )
    yield [(_adapter_name(name), (tensor * scales[name]).to(dtype)) for name, tensor in tensors.items()]


def _adapter_name(name: str) -> str:
    *module, part, _, weight = plain_name(name).split(".")
    return ".".join([*module, part, weight])


def _base_fingerprint(model: nn.Module, dtype: torch.dtype, kept: dict[str, float] | None) -> dict[str, float]:
    """The numbers of everything but the adapter, computed unless they are ``kept``. Collective."""
    numbers = {} if kept is None else kept
    if not numbers:
        tensors = (pair for tensor in _policy_tensors(model, {}) for pair in _whole([tensor], dtype))
        numbers.update((name, tensor_fingerprint(value)) for name, value in tensors)
    return dict(numbers)


def _is_adapter_part(name: str) -> bool:
    return ".lora_" in name or ".original_module." in name


def plain_name(name: str) -> str:
    """The name that a parameter of a PEFT model has in the transformers model inside it."""
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".modules_to_save.default.", ".")


def tied_names(model: nn.Module) -> dict[str, str]:
    """Names under which a tensor is used but not sent, and the name that it was sent under."""
    first: dict[int, str] = {}
    tied = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if _is_adapter_part(name):
            continue
        sent_as = first.setdefault(id(parameter), plain_name(name))
        if sent_as != plain_name(name):
            tied[plain_name(name)] = sent_as
    return tied
