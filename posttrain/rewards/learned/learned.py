"""Learned reward models: the scalar that a sequence classifier gives a prompt with its completion."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from posttrain.rewards.on_error import ConfiguredReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput

if TYPE_CHECKING:
    from posttrain.rewards.learned.reward_scorer import Classifier, RewardModelScorer


class BaseRewardModel(ConfiguredReward):
    """Which model, and how it reads: the keys that every reward made of a reward model shares."""

    model: str = Field(description="folder or hub id of a sequence classifier with one output, and its tokenizer")
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32", description="in bfloat16 a score changes with its batch, by up to about 1e-2"
    )
    fp32_head: bool = Field(default=False, description="of bfloat16: the head, which makes the score, in float32")
    device: str | None = Field(default=None, description="for example cuda:1; null: an accelerator where there is one")
    tokens_per_batch: int = Field(default=16384, ge=1, description="of a forward pass, padding included")
    max_length: int | None = Field(
        default=None, ge=2, description="tokens; null: the model's context. Longer prompts lose their beginning"
    )
    text_prompts: Literal["as_is", "user_turn"] = Field(
        default="as_is", description="a prompt that is text: continued as it is, or a user's turn in the chat template"
    )

    def make(self) -> Reward:
        """Raises: JobError, where there is no such model, it is no reward model, or it has no tokenizer."""
        assert self.scorer is not None  # loaded here
        return self

    @cached_property
    def scorer(self) -> "RewardModelScorer":
        """The model, loaded."""
        from posttrain.rewards.learned.reward_scorer import RewardModelScorer

        return RewardModelScorer(self)

    def close(self) -> None:
        if "scorer" in self.__dict__:
            self.scorer.close()

    def classifier(self, max_length: int) -> "Classifier":
        """What computes the scores of texts of at most ``max_length`` tokens."""
        from posttrain.rewards.learned.sequence_classifier import SequenceClassifier

        return SequenceClassifier(self)


class LearnedReward(BaseRewardModel):
    """``{type: learned, model: FOLDER}``: any such model of transformers, and those of method ``reward_model``.

    The score is the model's; ``parts["truncated_tokens"]`` is what the prompt lost, 0 where all was read. A prompt that
    cannot be encoded and a completion that does not fit are ``invalid_input``.
    """

    type: Literal["learned"] = "learned"
    backend: Literal["transformers", "vllm"] = Field(
        default="transformers", description="vllm: its pooling runner in this process, which batches by itself"
    )
    gpu_memory_utilization: float = Field(default=0.3, gt=0, le=1, description="of vllm: its share of the GPU")

    @model_validator(mode="after")
    def _vllm_places_the_model(self) -> "LearnedReward":
        if self.backend == "vllm" and self.device is not None:
            raise ValueError("device is for backend transformers; vllm runs on the devices of CUDA_VISIBLE_DEVICES")
        return self

    def classifier(self, max_length: int) -> "Classifier":
        if self.backend == "transformers":
            return super().classifier(max_length)
        from posttrain.rewards.learned.vllm_classifier import VLLMClassifier

        return VLLMClassifier(self, max_length)

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        texts = [self.scorer.encode(item) for item in inputs]
        return [reading.output() for reading in self.scorer.read(texts)]
