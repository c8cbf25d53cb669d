"""The policy as the trainer holds it: a causal language model that returns log-probs and entropy, never logits."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from posttrain.errors import JobError
from posttrain.objectives.logprobs import token_logprobs
from posttrain.rollout.head_shares import head_shares
from posttrain.rollout.weight_sync import policy_buckets, whole_adapter
from posttrain.training.accelerator import loading_shards
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.packed_attention import enable_packed_attention, packed_arguments
from posttrain.training.packing import MicroBatch


class PolicyModel(nn.Module):
    """``causal_lm`` with a forward pass from a micro-batch to the statistics of its trained tokens.

    The language-model head is applied only to the hidden states that predict a trained token, ``chunk_size`` at a
    time, so the full logits never exist.
    """

    def __init__(self, causal_lm: nn.Module, temperature: float, chunk_size: int) -> None:
        super().__init__()
        self.causal_lm: Any = causal_lm
        self.temperature = temperature
        self.chunk_size = chunk_size

    def forward(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Log-probs and entropies (nats, float32 [M]) of the trained tokens, at the sampling temperature."""
        head = base_model_of(self.causal_lm).get_output_embeddings()

        def statistics(hidden: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return token_logprobs(
                hidden, head.weight, targets, temperature=self.temperature, chunk_size=self.chunk_size, bias=head.bias
            )

        return at_trained_tokens(backbone_of(self.causal_lm), batch, batch.sources, statistics)


def at_trained_tokens(
    backbone: nn.Module, batch: MicroBatch, index: Tensor, values: Callable[[Tensor, Tensor], Any]
) -> Any:
    """What ``values`` (of [m, hidden] and targets [m] some [m]) gives for the last hidden states of the packed tokens
    ``index`` [M]; of ranks that share the tokens, each computes its own, and gets all."""
    hidden, ranks = packed_hidden_states(backbone, batch), batch.sequence_ranks
    if ranks is None:
        return values(hidden[index], batch.targets)
    counts = torch.bincount(index // len(hidden), minlength=ranks.size).tolist()
    own = index.split(counts)[ranks.rank] - ranks.rank * len(hidden)
    found = values(hidden[own], batch.targets.split(counts)[ranks.rank])
    return tuple(ranks.gather(each, counts) for each in found)


def packed_hidden_states(backbone: nn.Module, batch: MicroBatch) -> Tensor:
    """Last hidden states [T, hidden] of a packed micro-batch (of this rank's part); no token sees another sample."""
    output = backbone(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        sequence_ranks=batch.sequence_ranks,
        **packed_arguments(batch.lengths, batch.input_ids.device),
    )
    return output.last_hidden_state[0]


def base_model_of(causal_lm: Any) -> Any:
    """The transformers model inside a PEFT model, or the model itself."""
    return causal_lm.get_base_model() if hasattr(causal_lm, "get_base_model") else causal_lm


def backbone_of(causal_lm: nn.Module) -> Any:
    """The decoder below the language-model head."""
    base = base_model_of(causal_lm)
    return getattr(base, base.base_model_prefix)


def load_tokenizer(path: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub id.

    Raises:
        JobError: there is no such model.
    """
    try:
        return AutoTokenizer.from_pretrained(str(path), revision=revision)
    except (OSError, ValueError) as error:
        raise JobError(f"model.path: cannot load the tokenizer of {str(path)!r}: {error}") from error


def load_causal_lm(path: str | Path, config: ModelConfig) -> nn.Module:
    """Load a causal language model for training, with attention for packed sequences.

    Raises:
        JobError: there is no such model.
    """
    try:
        with loading_shards():
            model = AutoModelForCausalLM.from_pretrained(
                str(path), revision=config.revision, dtype=getattr(torch, config.dtype)
            )
    except OSError as error:
        raise JobError(f"model.path: cannot load {str(path)!r}: {error}") from error
    size = config.sequence_parallel
    if size > 1 and size not in (fitting := head_shares(model.config)):
        raise JobError(
            f"model.sequence_parallel: the model's {model.config.num_attention_heads} heads cannot be shared by {size} "
            f"ranks; take {', '.join(map(str, fitting))}"
        )
    if config.attention == "packed_sdpa":
        enable_packed_attention(model)
    else:
        model.set_attn_implementation(config.attention)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # the policy that is updated must be the policy that sampled
    return model


def add_adapter(causal_lm: Any, config: LoRAConfig, task_type: str = "CAUSAL_LM") -> nn.Module:
    """Wrap ``causal_lm`` in a PEFT LoRA adapter; only the adapter is trained (and the head of a "SEQ_CLS" model)."""
    from peft import LoraConfig, get_peft_model

    if hasattr(causal_lm, "enable_input_require_grads"):
        causal_lm.enable_input_require_grads()
    return get_peft_model(
        causal_lm,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=config.target_modules,
            task_type=task_type,
        ),
    )


def reference_logprobs(model: Any, batch: MicroBatch) -> Tensor:
    """The frozen model's log-probs of the trained tokens, float32 [M]; of a LoRA policy, with its adapter off.

    ``model`` is a ``PolicyModel``, in the wrapper of training if it has one: ZeRO-3 gathers weights only there.
    """
    causal_lm = getattr(model, "module", model).causal_lm
    with torch.no_grad(), causal_lm.disable_adapter() if hasattr(causal_lm, "disable_adapter") else nullcontext():
        logprobs: Tensor = model(batch)[0]
    return logprobs


def save_causal_lm(causal_lm: Any, tokenizer: PreTrainedTokenizerBase, folder: Path, is_main: bool = True) -> None:
    """Write a folder that transformers and vLLM load: full weights, or the base with its LoRA adapter merged in (the
    adapter itself then lies in ``folder / "adapter"``). Collective: sharded weights are gathered by all ranks."""
    dtype = base_model_of(causal_lm).dtype
    tensors: dict[str, Tensor] = {}
    for bucket in policy_buckets(causal_lm, 1 << 28, dtype):
        tensors |= {name: tensor.cpu().clone() for name, tensor in bucket} if is_main else {}
    adapter = whole_adapter(causal_lm) if hasattr(causal_lm, "get_base_model") else None
    if not is_main:
        return
    base_model_of(causal_lm).save_pretrained(folder, state_dict=tensors)
    tokenizer.save_pretrained(folder)
    if adapter is not None:
        causal_lm.save_pretrained(folder / "adapter", state_dict=adapter)
