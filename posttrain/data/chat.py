"""From an example's prompt to token ids, once; after this nothing is tokenized again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from posttrain.errors import DataError
from posttrain.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class EncodedText:
    """Token ids of prompt and completion, which begins at ``start``; the prompt lost ``truncated_tokens``."""

    ids: list[int]
    start: int
    truncated_tokens: int


def fitted(ids: list[int], start: int, max_length: int) -> EncodedText | None:
    """At most ``max_length`` tokens: the prompt loses its first, but not its last one; None where that is too few."""
    excess = max(0, len(ids) - max_length)
    return None if 0 < excess >= start else EncodedText(ids[excess:], start - excess, excess)


class PromptEncoder:
    """Encodes prompts: messages through the tokenizer's chat template, plain text as it is.

    Args:
        tokenizer: of the policy.
        max_prompt_tokens: longest prompt allowed, usually the model's context less the completion's budget; None: any.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", max_prompt_tokens: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens

    def prompt_ids(self, example: Example) -> list[int]:
        """Token ids of the prompt; for messages they end where the assistant's turn begins.

        Raises:
            DataError: the prompt is empty or too long, or the tokenizer has no chat template for its messages.
        """
        if isinstance(example.prompt, str):
            ids: list[int] = self.tokenizer.encode(example.prompt)
        else:
            ids = self._conversation_ids(example)
        if not ids:
            raise DataError(f"the prompt of example {example.id!r} is empty: there is nothing to continue")
        if self.max_prompt_tokens is not None and len(ids) > self.max_prompt_tokens:
            raise DataError(
                f"the prompt of example {example.id!r} has {len(ids)} tokens, more than the {self.max_prompt_tokens} "
                "that the model's context leaves for a prompt; shorten or remove it, lower max_completion_tokens, "
                "or use a model with a longer context"
            )
        return ids

    def check(self, examples: Iterable[Example]) -> None:
        """Encode every prompt, so that a bad one stops the run before it starts.

        Raises:
            DataError: as ``prompt_ids`` does, for the first bad example.
        """
        for example in examples:
            self.prompt_ids(example)

    def completion_ids(self, text: str) -> list[int]:
        """Token ids of a completion written by someone else (a demonstration), without the token that ends the turn."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def next_turn_ids(self, message: str, turn_ended: bool = True) -> list[int]:
        """Token ids between the policy's last token of a turn and the first of its next one: what ends the turn, if
        its last token did not, and ``message`` as the user's turn; without a chat template, a line of its own."""
        if not self.tokenizer.chat_template:
            return self.completion_ids(f"\n{message}\n")
        mark = "\x1f"  # of no template, and trimmed by none
        turns = [{"role": "user", "content": mark}, {"role": "assistant", "content": mark}]
        text: str = self.tokenizer.apply_chat_template(
            [*turns, {"role": "user", "content": message}], add_generation_prompt=True, tokenize=False
        )
        after = text.rsplit(mark, 1)[1]
        return self.completion_ids(after.removeprefix(self.tokenizer.eos_token) if turn_ended else after)

    def text(self, ids: Sequence[int]) -> str:
        """The text of ``ids`` with its special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def judged_ids(self, example: Example, completion: str, finished: bool = True) -> tuple[list[int], int]:
        """What a reward model reads, and the index of the completion's first token: the prompt, the completion, and
        what ends a turn. The chat template is applied once, to the whole conversation; after a plain-text prompt the
        turn ends with the EOS token. Of a completion that is not ``finished``, the last token is its own.

        Raises:
            DataError: as ``prompt_ids`` does.
        """
        prompt = self.prompt_ids(example)
        if not finished:
            return prompt + self.completion_ids(completion), len(prompt)
        if isinstance(example.prompt, str):
            return [*prompt, *self.completion_ids(completion), self.tokenizer.eos_token_id], len(prompt)
        conversation = [*example.prompt, {"role": "assistant", "content": completion}]
        ids = self._template_ids(example, conversation, add_generation_prompt=False)
        differing = (place for place, pair in enumerate(zip(prompt, ids, strict=False)) if pair[0] != pair[1])
        return ids, next(differing, len(prompt))

    def _conversation_ids(self, example: Example) -> list[int]:
        if not self.tokenizer.chat_template:
            raise DataError(
                f"example {example.id!r} is a conversation, but the tokenizer of {self.tokenizer.name_or_path!r} "
                "has no chat template; use plain-text prompts, or a model whose tokenizer has one"
            )
        return self._template_ids(example, example.prompt, add_generation_prompt=True)

    def _template_ids(self, example: Example, messages: Any, add_generation_prompt: bool) -> list[int]:
        from jinja2 import TemplateError

        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=add_generation_prompt, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses the messages of example {example.id!r}: {error}") from error
        return ids
