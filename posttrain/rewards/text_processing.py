"""Which part of a completion is compared with references, and in what spelling."""

import unicodedata
from typing import Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.rewards.math.answer_extraction import after_thinking


class TextProcessing(Config):
    """Applied to a completion in the order of the keys; to a reference only its Unicode form. The defaults are
    BLEUBERI's: the stripped text, or what its ``<answer>`` holds.

    What is left may be empty: an empty completion scores 0.
    """

    strip_thinking: bool = Field(default=False, description="what follows the last thinking block; nothing if unclosed")
    answer_tag: str | None = Field(
        default="answer", description="where <answer> is opened, only what it holds, closed or not; null: everything"
    )
    unicode_normalisation: Literal["NFC", "NFKC"] | None = None
    strip: bool = Field(default=True, description="leave out white space at both ends")

    def of_completion(self, text: str) -> str:
        """What of a completion is compared."""
        if self.strip_thinking:
            text = after_thinking(text) or ""
        if self.answer_tag is not None:
            _, opened, rest = text.partition(f"<{self.answer_tag}>")
            # Up to the next closing or opening tag.
            text = rest.partition(f"</{self.answer_tag}>")[0].partition(f"<{self.answer_tag}>")[0] if opened else text
        text = self.of_reference(text)
        return text.strip() if self.strip else text

    def of_reference(self, text: str) -> str:
        """What a completion is compared with."""
        return unicodedata.normalize(self.unicode_normalisation, text) if self.unicode_normalisation else text
