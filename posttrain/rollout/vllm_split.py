"""How the workers of vLLM's tensor parallelism share a layer, and the number of a tensor over all of them."""

from typing import Any

import torch
from torch import Tensor


class LayerSplit:
    """What of ``module``, a layer of vLLM, this worker holds: some ``columns`` (inputs), some ``rows`` (outputs; where
    there are more workers than key-value heads, several hold the same rows of k and v), or all."""

    def __init__(self, module: Any) -> None:
        from vllm.model_executor.layers.linear import ColumnParallelLinear, RowParallelLinear
        from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

        is_split = getattr(module, "tp_size", 1) > 1
        self.rows = is_split and isinstance(module, ColumnParallelLinear | VocabParallelEmbedding)
        self.columns = is_split and isinstance(module, RowParallelLinear)
        self.first_column = module.tp_rank * module.input_size_per_partition if self.columns else 0
        self.copies = getattr(module, "num_kv_head_replicas", 1)
        self.query_rows = module.num_heads * module.head_size if self.copies > 1 else None

    def over_columns(self, products: Tensor) -> Tensor:
        """The products float64 [rows] of whole rows, from those of this worker's columns."""
        return _summed(products) if self.columns else products

    def over_rows(self, products: Tensor) -> float:
        """The sum of the products' sizes over the rows of all workers, each row once."""
        sizes = products.abs()
        if not self.rows:
            return float(sizes.sum())
        if self.query_rows is not None:
            sizes[self.query_rows :] /= self.copies
        return float(_summed(sizes.sum()))


def _summed(values: Tensor) -> Tensor:
    from vllm.distributed import get_tp_group

    total = values.cpu()
    torch.distributed.all_reduce(total, group=get_tp_group().cpu_group)
    return total
