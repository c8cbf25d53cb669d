"""OREAL's token-level reward model (arXiv 2502.06781): trained on outcomes, it says which tokens mattered."""

import torch
from torch import Tensor, nn

from posttrain.training.model import backbone_of, packed_hidden_states
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
        self.offset = 0 if score_position == "before_token" else 1
        hidden = self.backbone.get_input_embeddings().embedding_dim
        self.head = nn.Parameter(torch.zeros(hidden, dtype=torch.float32))

    def forward(self, batch: MicroBatch) -> Tensor:
        """Scores (logits) of the trained tokens, float32 [M]."""
        hidden = packed_hidden_states(self.backbone, batch)
        return hidden[batch.sources + self.offset].float() @ self.head
