"""What ranks that share tokens refuse, and how a micro-batch is cut (that they compute as one: ``test_layouts.py``)."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from posttrain.errors import JobError
from posttrain.training.model import load_causal_lm
from posttrain.training.model_config import ModelConfig
from posttrain.training.packing import collate
from posttrain.training.sequence_parallel import SequenceRanks
from posttrain.types import Origin, TrainingSample


def test_ranks_that_cannot_be_cut() -> None:
    accelerator: Any = SimpleNamespace(num_processes=6, process_index=0)
    with pytest.raises(JobError, match="6 ranks are no multiple of 4; take 1, 2, 3, 6"):
        SequenceRanks(4, accelerator)


def test_heads_that_cannot_be_shared(tiny_model_folder: Any) -> None:
    with pytest.raises(JobError, match="2 heads cannot be shared by 4 ranks; take 1, 2"):
        load_causal_lm(tiny_model_folder, ModelConfig(path=str(tiny_model_folder), sequence_parallel=4))


def test_attention_that_does_not_exchange() -> None:
    with pytest.raises(ValidationError, match="sequence_parallel needs attention=packed_sdpa"):
        ModelConfig(path="model", sequence_parallel=2, attention="flash_attention_2")


def sample(length: int) -> TrainingSample:
    ids, zeros = list(range(1, length + 1)), [0] * length
    return TrainingSample("", ids, [Origin.PROMPT] * length, zeros, [0.0] * length, [0.0] * length)


@pytest.mark.parametrize("rank", range(3))
def test_the_parts_of_eight_tokens(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three ranks have 3, 3 and 2 tokens; the padding is a sequence of its own."""
    monkeypatch.setattr("torch.distributed.new_group", list)
    ranks = SequenceRanks(3, SimpleNamespace(num_processes=6, process_index=3 + rank))  # type: ignore[arg-type]
    assert (ranks.rank, ranks.group) == (rank, [3, 4, 5])
    part = ranks.share(collate([sample(5), sample(3)]))
    assert part.input_ids.tolist() == [[[1, 2, 3], [4, 5, 1], [2, 3, 0]][rank]]
    assert part.position_ids.tolist() == [[[0, 1, 2], [3, 4, 0], [1, 2, 0]][rank]]
    assert part.lengths == [5, 3, 1]
