"""A sequence classifier with one output, on transformers: any architecture that has one."""

from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from posttrain.data.chat import EncodedText
from posttrain.errors import JobError

if TYPE_CHECKING:
    from posttrain.rewards.learned.learned import BaseRewardModel

HEADS = ("score", "classifier")  # what transformers calls the layer that makes the score


class SequenceClassifier:
    """Reads texts in batches of like length, at most ``tokens_per_batch`` tokens each, padded on the right."""

    def __init__(self, config: "BaseRewardModel") -> None:
        self.tokens_per_batch = config.tokens_per_batch
        self.model = _load(config.model, config.revision, getattr(torch, config.dtype), config.fp32_head)
        accelerator = torch.accelerator.current_accelerator()
        self.device = torch.device(config.device or accelerator or "cpu")
        self.model.to(self.device)
        self._last_hidden: Tensor | None = None
        self.model.base_model.register_forward_hook(self._keep_last_hidden)

    @torch.inference_mode()
    def read(self, texts: Sequence[EncodedText], with_states: bool) -> list[tuple[float, Tensor | None]]:
        """Scores and, where asked for, states of ``texts``, in their order."""
        results: dict[int, tuple[float, Tensor | None]] = {}
        for chosen in length_batches([len(text.ids) for text in texts], self.tokens_per_batch):
            results.update(zip(chosen, self._forward([texts[index] for index in chosen], with_states), strict=True))
        return [results[index] for index in range(len(texts))]

    def states(self, hidden: Tensor) -> Tensor:
        """What is handed out of last hidden states [1 + C, hidden]."""
        return hidden.float().cpu()

    def close(self) -> None:
        """The model goes with the last reference to it."""

    def _forward(self, texts: Sequence[EncodedText], with_states: bool) -> list[tuple[float, Tensor | None]]:
        """transformers reads the score at the last id that is not the padding: so pad with an id that ends no text."""
        endings = {text.ids[-1] for text in texts}
        pad = next(token for token in count() if token not in endings)
        self.model.config.get_text_config().pad_token_id = pad
        width = max(len(text.ids) for text in texts)
        ids = torch.tensor([text.ids + [pad] * (width - len(text.ids)) for text in texts], device=self.device)
        lengths = torch.tensor([len(text.ids) for text in texts], device=self.device)
        mask = (torch.arange(width, device=self.device) < lengths[:, None]).long()
        scores = self.model(input_ids=ids, attention_mask=mask).logits[:, 0].float().tolist()
        hidden, self._last_hidden = self._last_hidden, None
        if not with_states or hidden is None:
            return [(score, None) for score in scores]
        states = [self.states(hidden[row, text.start - 1 : len(text.ids)]) for row, text in enumerate(texts)]
        return list(zip(scores, states, strict=True))

    def _keep_last_hidden(self, _module: Any, _inputs: Any, output: Any) -> None:
        """Asking transformers for hidden states would keep those of every layer."""
        self._last_hidden = output[0]


class TokenClassifier(SequenceClassifier):
    """Its states are the head's scores of the tokens, float32 [1 + C]; only those leave the device."""

    def states(self, hidden: Tensor) -> Tensor:
        return self.model.score(hidden)[:, 0].float().cpu()


def length_batches(lengths: Sequence[int], tokens_per_batch: int) -> Iterator[list[int]]:
    """Indices of texts, longest first, in batches whose count times longest is within the budget (or one alone)."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        size = max(1, tokens_per_batch // lengths[order[start]])
        yield order[start : start + size]
        start += size


def check_is_reward_model(path: str, revision: str | None) -> Any:
    """The text config of the model at ``path``, a folder or hub id.

    Raises:
        JobError: there is no model, or it is not a sequence classifier with one output.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise _cannot_load(path, error) from error
    kinds = config.architectures or []
    if not any(kind.endswith("ForSequenceClassification") for kind in kinds):
        raise JobError(
            f"reward model {path!r} is a {', '.join(kinds) or config.model_type}, not a sequence classifier. Train one "
            "from it with method: reward_model, or name a model that scores"
        )
    if config.num_labels != 1:
        raise JobError(
            f"reward model {path!r} has num_labels {config.num_labels}: it tells classes apart. A reward model has one "
            "output, the score"
        )
    return config.get_text_config()


def load_reward_tokenizer(path: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer beside the model.

    Raises:
        JobError: there is none, or it has no token that ends a text.
    """
    missing = f"reward model {path!r} has no tokenizer that loads; save the one it was trained with into its folder"
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, revision=revision)
    except (OSError, ValueError) as error:
        raise JobError(f"{missing} ({_first_line(error)})") from error
    if not tokenizer.encode("text", add_special_tokens=False):  # what transformers makes up where there are no files
        raise JobError(missing)
    if tokenizer.eos_token_id is None:
        raise JobError(f"the tokenizer of reward model {path!r} has no eos_token, which ends a completion; set one")
    return tokenizer


def _load(path: str, revision: str | None, dtype: torch.dtype, fp32_head: bool) -> Any:
    loaded_as = torch.float32 if fp32_head else dtype  # a head to keep in float32 must not go through bfloat16 first
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, revision=revision, dtype=loaded_as, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise _cannot_load(path, error) from error
    if report["missing_keys"]:
        missing = ", ".join(sorted(report["missing_keys"])[:3])
        raise JobError(f"reward model {path!r} lacks weights ({missing}), so it would score at random; train it first")
    if fp32_head:
        _cast_all_but_head(model, dtype, path)
    model.config.get_text_config().use_cache = False
    return model.eval()


def _cast_all_but_head(model: Any, dtype: torch.dtype, path: str) -> None:
    """Parameters only: positions are computed from buffers that stay in float32."""
    head = next((getattr(model, name) for name in HEADS if hasattr(model, name)), None)
    if head is None:
        raise JobError(f"fp32_head: the head of reward model {path!r}, a {type(model).__name__}, is not known; drop it")
    kept = set(map(id, head.parameters()))
    for parameter in model.parameters():
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
    head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


def _cannot_load(path: str, error: Exception) -> JobError:
    missing = "" if Path(path).is_dir() else "there is no such folder here, and as a hub id: "
    return JobError(
        f"cannot load reward model {path!r}: {missing}{_first_line(error)}. Give a folder with config.json, weights "
        "and tokenizer, or a hub id that is in the cache or can be reached (not with HF_HUB_OFFLINE=1)"
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].rstrip(".")
