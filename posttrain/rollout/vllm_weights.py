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

from posttrain.rollout.fingerprint import probe_products, probe_vector
from posttrain.rollout.vllm_split import LayerSplit


def parameter_shapes(model_path: str) -> dict[str, torch.Size]:
    """Names and shapes of the trainer's tensors, from the model's config alone; tied tensors once."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def model_summary(config: Any) -> str:
    """Kind and size of the model of a transformers config."""
    text = config.get_text_config()
    return f"{text.model_type}, {text.num_hidden_layers} layers of {text.hidden_size}, {text.vocab_size} tokens"


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
    """The number of every tensor in use, keyed by the trainer's names; those of a fused tensor joined with "+". Of one
    that is split over workers (tensor parallel) they find it together: each has to call this."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    fused = getattr(model, "packed_modules_mapping", {})
    numbers = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        split = LayerSplit(module)
        for parameter_name, parameter in module.named_parameters(recurse=False):
            packed = parameter_name == "weight" and hasattr(module, "cpu_linear")
            if packed and (parameter.numel() == 0 or isinstance(module, ParallelLMHead)):
                products = split.over_columns(_kernel_products(module, split.first_column))
            elif parameter.ndim > 1:
                products = split.over_columns(probe_products(parameter, split.first_column))
            else:
                products = probe_products(parameter)
            name = _trainer_names(module_name.removesuffix(".base_layer"), parameter_name, fused)
            numbers[name] = split.over_rows(products)
    return numbers | (_adapter_fingerprint(model.lora_manager, fused) if hasattr(model, "lora_manager") else {})


def _kernel_products(module: Any, first_column: int) -> Tensor:
    """As ``probe_products``, by running the kernel that holds the packed weight."""
    size = getattr(module, "embedding_dim", None) or getattr(module, "input_size_per_partition", None)
    size = size or module.input_size
    vector = probe_vector(first_column + size)[first_column:].float()
    product: Tensor = module.cpu_linear(vector[None], module.weight, None)[0]
    return product.double()


def _adapter_fingerprint(lora_manager: Any, fused: dict[str, list[str]]) -> dict[str, float]:
    """The numbers of the LoRA matrices of the one adapter, as its kernels hold them: padded with zeros."""
    numbers = {}
    for module_name, module in lora_manager.modules.items():
        split = LayerSplit(module.base_layer)
        names = _trainer_names(module_name, "lora_{}.weight", fused).split("+")
        for part, (name, down, up) in enumerate(zip(names, module.lora_a_stacked, module.lora_b_stacked, strict=True)):
            if down[0].any():
                down_products = split.over_columns(probe_products(down[0, 0], split.first_column))
                numbers[name.format("A")] = float(down_products.abs().sum())
                numbers[name.format("B")] = split.over_rows(probe_products(up[0, 0]) / (split.copies if part else 1))
    return numbers


def _trainer_names(module_name: str, parameter_name: str, fused: dict[str, list[str]]) -> str:
    parent, _, last = module_name.rpartition(".")
    prefix = f"{parent}." if parent else ""
    return "+".join(f"{prefix}{part}.{parameter_name}" for part in fused.get(last, [last]))
