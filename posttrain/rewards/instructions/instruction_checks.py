"""IFEval's 25 instruction types (Zhou et al., 2023, arXiv 2311.07911): does a text follow an instruction?

``INSTRUCTIONS`` maps the public ids to checks: functions of a text and of arguments that have IFEval's names. Keywords,
forbidden words, postscript markers and section splitters are regular expressions, as in IFEval: on some text one takes
exponential time, so checks of rows that others wrote run in a worker process.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

Relation = Literal["less than", "at least"]
Check = Callable[..., bool]

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _compares(count: int, relation: Relation, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _count(pattern: str, text: str, flags: int = 0) -> int:
    return len(re.findall(pattern, text, flags))


def _is_in(text: str, language: str) -> bool:
    """A text without letters is in every language."""
    from posttrain.rewards.instructions import instruction_worker

    return instruction_worker.language(text) in (language, None)


def _number_sentences(text: str, num_sentences: int, relation: Relation) -> bool:
    from posttrain.rewards.instructions.instruction_worker import sentence_count

    return _compares(sentence_count(text), relation, num_sentences)


def _capital_words(text: str, capital_frequency: int, capital_relation: Relation) -> bool:
    from posttrain.rewards.instructions.instruction_worker import words

    return _compares(sum(word.isupper() for word in words(text)), capital_relation, capital_frequency)


def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Between ``***``; a blank paragraph fails, but for the first and the last, which do not count."""
    paragraphs = [bool(paragraph.strip()) for paragraph in re.split(r"\s?\*{3}\s?", text)]
    return all(paragraphs[1:-1]) and sum(paragraphs) == num_paragraphs


def _nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Between blank lines; a blank paragraph does not count, yet ``nth_paragraph`` numbers it."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    count = len(paragraphs) - paragraphs.count("")
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not paragraphs[nth_paragraph - 1]:
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def _postscript(text: str, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def _number_bullet_lists(text: str, num_bullets: int) -> bool:
    stars = _count(r"^\s*\*[^*].*$", text, re.MULTILINE)
    return stars + _count(r"^\s*-.*$", text, re.MULTILINE) == num_bullets


def _number_highlighted_sections(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*([^\n*]*)\*", text) + re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(content.strip()) for content in found) >= num_highlights


def _json_format(text: str) -> bool:
    """JSON that is nested more deeply than Python's parser goes fails."""
    content = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        content = content.removeprefix(fence)
    try:
        json.loads(content.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def _quotation(text: str) -> bool:
    content = text.strip()
    return len(content) > 1 and content[0] == content[-1] == '"'


INSTRUCTIONS: dict[str, Check] = {
    "keywords:existence": lambda text, keywords: all(re.search(keyword, text, re.IGNORECASE) for keyword in keywords),
    "keywords:frequency": lambda text, keyword, frequency, relation: _compares(
        _count(keyword.strip(), text, re.IGNORECASE), relation, frequency
    ),
    "keywords:forbidden_words": lambda text, forbidden_words: (
        not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)
    ),
    "keywords:letter_frequency": lambda text, letter, let_frequency, let_relation: _compares(
        text.lower().count(letter.lower()), let_relation, let_frequency
    ),
    "language:response_language": _is_in,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": lambda text, num_words, relation: _compares(
        _count(r"\w+", text), relation, num_words
    ),
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": lambda text, num_placeholders: (
        _count(r"\[.*?\]", text) >= num_placeholders
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _number_bullet_lists,
    "detectable_format:constrained_response": lambda text: any(answer in text for answer in ANSWERS),
    "detectable_format:number_highlighted_sections": _number_highlighted_sections,
    "detectable_format:multiple_sections": lambda text, section_spliter, num_sections: (
        len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections
    ),
    "detectable_format:json_format": _json_format,
    "detectable_format:title": lambda text: any(
        found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text)
    ),
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, prompt_to_repeat: (
        text.strip().lower().startswith(prompt_to_repeat.strip().lower())
    ),
    "startend:end_checker": lambda text, end_phrase: (
        text.strip().strip('"').lower().endswith(end_phrase.strip().lower())
    ),
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text: text.isupper() and _is_in(text, "en"),
    "change_case:english_lowercase": lambda text: text.islower() and _is_in(text, "en"),
    "punctuation:no_comma": lambda text: "," not in text,
}

# What an argument must be, by its name; the others are numbers.
Kind = tuple[Callable[[Any], bool], str]
_NUMBER: Kind = (lambda value: type(value) is int and value >= 0, "a whole number, 0 or more")
_TEXT: Kind = (lambda value: isinstance(value, str) and bool(value.strip()), "text")
_TEXTS: Kind = (
    lambda value: isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value),
    "a list of texts",
)
_RELATION: Kind = (lambda value: value in get_args(Relation), "'less than' or 'at least'")
_KINDS: dict[str, Kind] = {
    "letter": (lambda value: isinstance(value, str) and len(value) == 1, "one letter"),
    **dict.fromkeys(("keywords", "forbidden_words"), _TEXTS),
    **dict.fromkeys(("relation", "let_relation", "capital_relation"), _RELATION),
    **dict.fromkeys(("keyword", "language", "first_word", "postscript_marker"), _TEXT),
    **dict.fromkeys(("section_spliter", "prompt_to_repeat", "end_phrase"), _TEXT),
}


def checked_arguments(instruction_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` without those that are None, if they are what the check of ``instruction_id`` takes.

    Raises:
        ValueError: the id is unknown, an argument is missing, unknown or of another kind; the message names it.
    """
    if instruction_id not in INSTRUCTIONS:
        raise ValueError(f"unknown instruction {instruction_id!r}; IFEval's are {', '.join(INSTRUCTIONS)}")
    given = {name: value for name, value in arguments.items() if value is not None}
    taken = list(inspect.signature(INSTRUCTIONS[instruction_id]).parameters)[1:]
    for name in [*taken, *given]:
        if name not in given:
            raise ValueError(f"{instruction_id}: the argument {name} is missing")
        if name not in taken:
            raise ValueError(f"{instruction_id} takes no argument {name} (it takes {', '.join(taken) or 'none'})")
        fits, kind = _KINDS.get(name, _NUMBER)
        if not fits(given[name]):
            raise ValueError(f"{instruction_id}: {name} must be {kind}, not {given[name]!r:.200}")
    return given


def loose_variants(text: str) -> list[str]:
    """``text`` as it is, without its first line, its last, and both; and each of these without asterisks."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return list(dict.fromkeys([text, *cut, *(variant.replace("*", "") for variant in [text, *cut])]))
