"""Which part of a completion is compared with references, and in what spelling."""

import re
import unicodedata
from typing import Literal

from pydantic import Field

from posttrain.config import Config
from posttrain.rewards.math.answer_extraction import after_thinking

_ROLE = r"(?:assistant|model|user|system|tool)"
# Special tokens of the common chat templates (ChatML, Llama 2 to 4, Gemma, Mistral, Phi, OLMo).
_MARKER = re.compile(r"<\|[A-Za-z][A-Za-z0-9_ ]*\|>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>|\[/?INST\]")
_OPENING = re.compile(
    rf"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<\|startoftext\|>|\[/INST\]|<\|{_ROLE}\|>|"
    rf"<\|start_header_id\|>{_ROLE}<\|end_header_id\|>|<\|header_start\|>{_ROLE}<\|header_end\|>|"
    rf"(?:<\|im_start\|>|<start_of_turn>){_ROLE}\b)"
)
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[^`\n]*(?:\n|\Z)", re.MULTILINE)


class TextProcessing(Config):
    """Applied to a completion in the order of the keys; to a reference only what concerns its spelling (code fences
    and Unicode). The defaults are BLEUBERI's: the stripped text, or what its ``<answer>`` holds.

    What is left may be empty: an empty completion scores 0.
    """

    strip_chat_markers: bool = Field(
        default=False, description="leave out a role header, and end at the next special token of a chat template"
    )
    strip_thinking: bool = Field(default=False, description="what follows the last thinking block; nothing if unclosed")
    thinking_tags: tuple[str, str] = ("<think>", "</think>")
    answer_tag: str | None = Field(
        default="answer", description="where <answer> is opened, only what it holds, closed or not; null: everything"
    )
    unwrap_code_fences: bool = Field(default=False, description="leave out the ``` lines, keep the code")
    unicode_normalisation: Literal["NFC", "NFKC"] | None = None
    strip: bool = Field(default=True, description="leave out white space at both ends")

    def of_completion(self, text: str) -> str:
        """What of a completion is compared."""
        if self.strip_chat_markers:
            text = _within_markers(text)
        if self.strip_thinking:
            text = after_thinking(text, self.thinking_tags) or ""
        if self.answer_tag is not None:
            text = _within_tag(text, self.answer_tag)
        text = self.of_reference(text)
        return text.strip() if self.strip else text

    def of_reference(self, text: str) -> str:
        """What a completion is compared with."""
        if self.unwrap_code_fences:
            text = _FENCE.sub("", text)
        return unicodedata.normalize(self.unicode_normalisation, text) if self.unicode_normalisation else text


def _within_markers(text: str) -> str:
    start = 0
    while opening := _OPENING.match(text, start):
        start = opening.end()
    end = _MARKER.search(text, start)
    return text[start : end.start() if end else None]


def _within_tag(text: str, tag: str) -> str:
    """What the first ``<tag>`` holds, up to the next opening or closing one; ``text`` where it is never opened."""
    _, opened, rest = text.partition(f"<{tag}>")
    return rest.partition(f"</{tag}>")[0].partition(f"<{tag}>")[0] if opened else text
