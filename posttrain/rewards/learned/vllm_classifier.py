"""A sequence classifier on vLLM's pooling runner, in this process."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from posttrain.data.chat import EncodedText
from posttrain.errors import EngineError
from posttrain.rollout.vllm_engine import process_state_kept, set_environment

if TYPE_CHECKING:
    from posttrain.rewards.learned.learned import LearnedReward


class VLLMClassifier:
    """vLLM reads the last token's score, without an activation; it batches and pads nothing.

    Raises:
        EngineError: vLLM is missing, or cannot be started on this model.
    """

    def __init__(self, config: "LearnedReward", max_length: int) -> None:
        try:
            with process_state_kept():
                self.llm = _start(config, max_length)
        except (ImportError, OSError, ValueError, RuntimeError) as error:
            raise EngineError(f"vLLM could not be started on reward model {config.model!r}: {error}") from error

    def read(self, texts: Sequence[EncodedText], with_states: bool) -> list[tuple[float, Tensor | None]]:
        """The scores of ``texts``, in their order; hidden states are for the other backend."""
        prompts = [{"prompt_token_ids": text.ids} for text in texts]
        outputs = self.llm.encode(prompts, pooling_task="classify", use_tqdm=False)
        return [(float(output.outputs.data[0]), None) for output in outputs]

    def close(self) -> None:
        """End vLLM and free its memory."""
        self.llm.llm_engine.engine_core.shutdown()


def _start(config: "LearnedReward", max_length: int) -> Any:
    set_environment()
    from vllm import LLM
    from vllm.config import PoolerConfig
    from vllm.platforms import current_platform

    memory = (
        {"kv_cache_memory_bytes": 1 << 30}
        if current_platform.is_cpu()
        else {"gpu_memory_utilization": config.gpu_memory_utilization}
    )
    return LLM(
        model=config.model,
        revision=config.revision,
        runner="pooling",
        pooler_config=PoolerConfig(task="classify", use_activation=False),
        dtype=config.dtype,
        max_model_len=max_length,
        enforce_eager=current_platform.is_cpu(),
        disable_log_stats=True,
        **memory,
    )
