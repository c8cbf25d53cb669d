"""A reward model as its rewards use it: completions in, scores and hidden states out, in batches of like length."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from posttrain.data.chat import EncodedText, PromptEncoder, fitted
from posttrain.errors import DataError, JobError
from posttrain.rewards.learned.sequence_classifier import check_is_reward_model, load_reward_tokenizer
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

if TYPE_CHECKING:
    from posttrain.rewards.learned.learned import BaseRewardModel


@dataclass(slots=True)
class Reading:
    """What the model made of a completion; without ``score``, ``message`` says why it could not be read.

    ``states``, where asked for: last hidden states, float32 [1 + C, hidden] on the CPU, of the token before the
    completion and of its C tokens, what ends the turn included.
    """

    score: float | None
    states: Tensor | None = field(default=None, repr=False)
    truncated_tokens: int = 0
    message: str = ""

    def output(self, score: float | None = None, parts: Mapping[str, float] | None = None) -> RewardOutput:
        """As a reward's output, with ``score`` in place of the model's where given, and further ``parts``."""
        if self.score is None:
            return RewardOutput(None, error="invalid_input", message=self.message)
        value = self.score if score is None else score
        return RewardOutput(value, {"truncated_tokens": float(self.truncated_tokens), **(parts or {})})


class Classifier(Protocol):
    """What computes: each text's score and, where asked for, its states as in ``Reading``."""

    def read(self, texts: Sequence[EncodedText], with_states: bool) -> list[tuple[float, Tensor | None]]: ...

    def close(self) -> None: ...


class RewardModelScorer:
    """Encodes completions and has them read. Calls from several threads wait for one another.

    The score is read at the last token, whatever else is in the batch: padding is on the right and never read. A model
    whose config names a padding token is read before trailing ones, as transformers does.

    Raises:
        JobError: there is no such model, it is no reward model, or it has no tokenizer.
    """

    def __init__(self, config: "BaseRewardModel") -> None:
        self.config = config
        self.model_config = check_is_reward_model(config.model, config.revision)
        self.tokenizer = load_reward_tokenizer(config.model, config.revision)
        self.encoder = PromptEncoder(self.tokenizer)
        if config.text_prompts == "user_turn" and not self.tokenizer.chat_template:
            raise JobError(f"text_prompts: user_turn needs a chat template, and {config.model!r} has none; use as_is")
        self.max_length = self._longest()
        self._lock = threading.Lock()
        self._classifier: Classifier | None = config.classifier(self.max_length)

    def read(self, texts: Sequence[EncodedText | str], with_states: bool = False) -> list[Reading]:
        """One reading for each text, in order; a string is why one could not be encoded."""
        encoded = [text for text in texts if not isinstance(text, str)]
        with self._lock:
            self._classifier = self._classifier or self.config.classifier(self.max_length)
            results = iter(self._classifier.read(encoded, with_states) if encoded else [])
        return [
            Reading(None, message=text) if isinstance(text, str) else Reading(*next(results), text.truncated_tokens)
            for text in texts
        ]

    def encode(self, item: RewardInput) -> EncodedText | str:
        """The chat template once over the whole conversation, or plain text and EOS; or why it cannot be read. Of a
        text without a prompt, as classification APIs send it, the first token stands for the prompt."""
        finished = item.finish_reason == "stop"
        try:
            with self._lock:
                if item.example.prompt == "" and item.completion:
                    ids, start = [*self.tokenizer.encode(item.completion), *[self.tokenizer.eos_token_id] * finished], 1
                else:
                    ids, start = self.encoder.judged_ids(self._example(item), item.completion, finished)
        except DataError as error:
            return str(error)
        end = len(ids)
        while end > 1 and ids[end - 1] == self.model_config.pad_token_id:
            end -= 1
        return self._fitted(ids[:end], min(start, end))

    def encode_sampled(self, item: RewardInput) -> EncodedText | str:
        """As a policy samples: the prompt, then the text, and the EOS where it ended."""
        try:
            with self._lock:
                prompt = self.encoder.prompt_ids(self._example(item))
                ids = self.encoder.completion_ids(item.completion)
        except DataError as error:
            return str(error)
        ending = [self.tokenizer.eos_token_id] * (item.finish_reason == "stop")
        return self._fitted([*prompt, *ids, *ending], len(prompt))

    def _example(self, item: RewardInput) -> Example:
        example = item.example
        if isinstance(example.prompt, str) and self.config.text_prompts == "user_turn":
            return replace(example, prompt=[{"role": "user", "content": example.prompt}])
        return example

    def _fitted(self, ids: list[int], start: int) -> EncodedText | str:
        return fitted(ids, start, self.max_length) or (
            f"the completion has {len(ids) - start} tokens; of {self.max_length} one is the prompt's, at least"
        )

    def close(self) -> None:
        """Free the model; it is loaded again when it is needed."""
        with self._lock:
            classifier, self._classifier = self._classifier, None
        if classifier is not None:
            classifier.close()

    def _longest(self) -> int:
        context = getattr(self.model_config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        asked = self.config.max_length or context
        if asked > context:
            raise JobError(
                f"max_length ({asked}) is more than the {context} tokens that {self.config.model!r} can read"
            )
        return int(asked)
