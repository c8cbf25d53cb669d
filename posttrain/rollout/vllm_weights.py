"""The weights inside a running vLLM model: replaced in buckets, and read back.

On a CPU, vLLM packs each linear weight for its kernel and leaves an empty parameter behind. So a plain
``load_weights`` fails, a checksum sees nothing, and the head of a model with tied embeddings keeps a packed copy that
no reload refreshes.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from posttrain.rollout.fingerprint import probe_vector, tensor_fingerprint


def parameter_shapes(model_path: str) -> dict[str, torch.Size]:
    """Names and shapes of the trainer's tensors, from the model's config alone; tied tensors once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


@torch.no_grad()
def replace_weights(model: Any, vllm_config: Any, buckets: Iterable[Sequence[tuple[str, Tensor]]]) -> None:
    """Load ``buckets`` into a vLLM model; a layer's tensors are held until the layer is complete."""
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(vllm_config), _layerwise_reload(model, vllm_config.model_config):
        for bucket in buckets:
            model.load_weights(iter(bucket))
            del bucket  # before the next is gathered
    if hasattr(getattr(model, "lm_head", None), "cpu_linear"):
        _repack_head(model)


@contextmanager
def _layerwise_reload(model: Any, model_config: Any) -> Iterator[None]:
    """Also ended after an error, so that the next reload starts afresh."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

    with torch.device(next(model.parameters()).device):
        initialize_layerwise_reload(model)
        try:
            yield
        finally:
            finalize_layerwise_reload(model, model_config)


def _repack_head(model: Any) -> None:
    """Pack the head's kernel copy anew from the embedding that it is tied to."""
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
        dispatch_cpu_unquantized_gemm(model.lm_head, remove_weight=False)


@torch.no_grad()
def weights_fingerprint(model: Any) -> dict[str, float]:
    """The number of every tensor in use, keyed by the trainer's names; those of a fused tensor joined with "+"."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    fused = getattr(model, "packed_modules_mapping", {})
    numbers = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for parameter_name, parameter in module.named_parameters(recurse=False):
            packed = parameter_name == "weight" and hasattr(module, "cpu_linear")
            if packed and (parameter.numel() == 0 or isinstance(module, ParallelLMHead)):
                number = _kernel_fingerprint(module)
            else:
                number = tensor_fingerprint(parameter)
            numbers[_trainer_names(module_name, parameter_name, fused)] = number
    return numbers


def _kernel_fingerprint(module: Any) -> float:
    """As ``tensor_fingerprint``, by running the kernel that holds the packed weight."""
    size = module.embedding_dim if hasattr(module, "embedding_dim") else module.input_size
    product = module.cpu_linear(probe_vector(size).float()[None], module.weight, None)
    return float(product.double().abs().sum())


def _trainer_names(module_name: str, parameter_name: str, fused: dict[str, list[str]]) -> str:
    parent, _, last = module_name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    return "+".join(f"{prefix}{part}.{parameter_name}" for part in fused.get(last, [last]))
