"""From an example's prompt to token ids, once; after this nothing is tokenized again."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from posttrain.errors import DataError
from posttrain.types import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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

    def _conversation_ids(self, example: Example) -> list[int]:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise DataError(
                f"example {example.id!r} is a conversation, but the tokenizer of {self.tokenizer.name_or_path!r} "
                "has no chat template; use plain-text prompts, or a model whose tokenizer has one"
            )
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                example.prompt, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except TemplateError as error:
            raise DataError(f"the chat template refuses the messages of example {example.id!r}: {error}") from error
        return ids
