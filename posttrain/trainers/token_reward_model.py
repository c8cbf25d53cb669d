"""OREAL's token-level reward model (arXiv 2502.06781): trained on outcomes, it says which tokens mattered."""

from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from posttrain.rollout.weight_sync import policy_buckets
from posttrain.training.model import at_trained_tokens, backbone_of
from posttrain.training.packing import MicroBatch


class TokenRewardModel(nn.Module):
    """A decoder with a linear map hidden -> 1 (no bias, started at zero, kept in float32) instead of the LM head.

    Args:
        causal_lm: the language model whose backbone is used; its head is left alone (it may share the embedding).
        score_position: read the score of a token from the state that predicts it, or from the state after it.
    """

    def __init__(self, causal_lm: nn.Module, score_position: str) -> None:
        super().__init__()
        self.backbone = backbone_of(causal_lm)
        self.score_position = score_position
        self.offset = 0 if score_position == "before_token" else 1
        hidden = self.backbone.get_input_embeddings().embedding_dim
        self.head = nn.Parameter(torch.zeros(hidden, dtype=torch.float32))
        if hasattr(causal_lm, "peft_config"):
            self.peft_config = causal_lm.peft_config  # the backbone has an adapter, which is merged when it is saved

    def forward(self, batch: MicroBatch) -> Tensor:
        """Scores (logits) of the trained tokens, float32 [M]."""
        (scores,) = at_trained_tokens(
            self.backbone, batch, batch.sources + self.offset, lambda hidden, _: (hidden.float() @ self.head,)
        )
        return scores

    def save(self, folder: Path, tokenizer: PreTrainedTokenizerBase, is_main: bool) -> None:
        """Write a sequence classifier with one output (adapter merged, head in float32), whose config says where a
        token's score is read: the reward ``token_reward_model`` loads it. Collective, as ``save_causal_lm`` is."""
        config = deepcopy(self.backbone.config)
        config.num_labels, config.score_position = 1, self.score_position
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
        tensors: dict[str, Tensor] = {}
        for bucket in policy_buckets(self, 1 << 28, torch.float32):
            for name, tensor in bucket:
                if name == "head":
                    tensors["score.weight"] = tensor.cpu()[None].clone()
                else:
                    name = name.replace("backbone", model.base_model_prefix, 1)
                    tensors[name] = tensor.to("cpu", self.backbone.dtype, copy=True)
        if is_main:
            model.save_pretrained(folder, state_dict=tensors)
            tokenizer.save_pretrained(folder)
