"""BLEU's tokenizers, which are sacrebleu's."""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from typing import Any, Literal

TokenizerName = Literal["13a", "intl", "char", "zh", "none"]
Tokenizer = Callable[[str], list[str]]

WORDS_KEPT = 2**15


@cache
def load_tokenizer(name: TokenizerName) -> Tokenizer:
    """sacrebleu's tokenizer ``name``, as a function from text to tokens.

    sacrebleu keeps the last 65,536 texts and their tokens, half a gigabyte of long answers; this one keeps words. Safe
    to call from several threads.
    """
    from sacrebleu.metrics import BLEU

    tokenizer = BLEU(tokenize=name).tokenizer
    rules = getattr(tokenizer, "_post_tokenizer", None)
    if rules is not None:
        tokenizer._post_tokenizer = _word_by_word(_uncached(rules)) if name == "13a" else _uncached(rules)
    spaced = _uncached(tokenizer)
    return lambda text: spaced(text).split()


def _uncached(tokenizer: Any) -> Callable[[str], str]:
    call = type(tokenizer).__call__
    return partial(getattr(call, "__wrapped__", call), tokenizer)


def _word_by_word(rules: Callable[[str], str]) -> Callable[[str], str]:
    """13a's ``rules`` of a line, which never look past white space, applied once to each distinct word."""

    @lru_cache(maxsize=WORDS_KEPT)
    def apart(word: str) -> str:
        return word if word.isalnum() else rules(f" {word} ")

    return lambda line: " ".join(map(apart, line.split()))
