"""IFEval's 25 instruction types (Zhou et al., 2023, arXiv 2311.07911): does a text follow an instruction?

Each check is a function of a text; its keyword arguments have IFEval's names. ``INSTRUCTIONS`` maps the public ids to
the checks. Keywords, forbidden words, postscript markers and section splitters are regular expressions, as in IFEval:
on some text one takes exponential time, so checks of rows that others wrote run in a worker process.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NewType, get_args

Relation = Literal["less than", "at least"]
Letter = NewType("Letter", str)
Check = Callable[..., bool]

ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _compares(count: int, relation: Relation, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def keyword_existence(text: str, *, keywords: list[str]) -> bool:
    return all(re.search(keyword, text, re.IGNORECASE) for keyword in keywords)


def keyword_frequency(text: str, *, keyword: str, frequency: int, relation: Relation) -> bool:
    return _compares(len(re.findall(keyword.strip(), text, re.IGNORECASE)), relation, frequency)


def forbidden_words(text: str, *, forbidden_words: list[str]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, *, letter: Letter, let_frequency: int, let_relation: Relation) -> bool:
    return _compares(text.lower().count(letter.lower()), let_relation, let_frequency)


def response_language(text: str, *, language: str) -> bool:
    """A text without letters passes."""
    from posttrain.rewards.instructions import instruction_text

    return instruction_text.language(text) in (language, None)


def number_sentences(text: str, *, num_sentences: int, relation: Relation) -> bool:
    from posttrain.rewards.instructions.instruction_text import sentence_count

    return _compares(sentence_count(text), relation, num_sentences)


def number_paragraphs(text: str, *, num_paragraphs: int) -> bool:
    """Between ``***``; a blank paragraph fails, but for the first and the last, which do not count."""
    paragraphs = [bool(paragraph.strip()) for paragraph in re.split(r"\s?\*{3}\s?", text)]
    return all(paragraphs[1:-1]) and sum(paragraphs) == num_paragraphs


def number_words(text: str, *, num_words: int, relation: Relation) -> bool:
    return _compares(len(re.findall(r"\w+", text)), relation, num_words)


def nth_paragraph_first_word(text: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Between blank lines; a blank paragraph does not count, yet ``nth_paragraph`` numbers it."""
    paragraphs = [paragraph.strip() for paragraph in text.split("\n\n")]
    count = len(paragraphs) - paragraphs.count("")
    if count != num_paragraphs or not 1 <= nth_paragraph <= count or not paragraphs[nth_paragraph - 1]:
        return False
    word = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


def number_placeholders(text: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, *, postscript_marker: str) -> bool:
    marker = postscript_marker.strip()
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(marker, marker.lower())
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def number_bullet_lists(text: str, *, num_bullets: int) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


def constrained_response(text: str) -> bool:
    return any(answer in text for answer in ANSWERS)


def number_highlighted_sections(text: str, *, num_highlights: int) -> bool:
    single = re.findall(r"\*([^\n*]*)\*", text)
    double = re.findall(r"\*\*([^\n*]*)\*\*", text)
    return sum(bool(content.strip()) for content in single + double) >= num_highlights


def multiple_sections(text: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.split(rf"\s?{section_spliter.strip()}\s?\d+\s?", text)) - 1 >= num_sections


def json_format(text: str) -> bool:
    """JSON that is nested more deeply than Python's parser goes fails."""
    content = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        content = content.removeprefix(fence)
    try:
        json.loads(content.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    return any(found.lstrip("<").rstrip(">").strip() for found in re.findall(r"<<[^\n]+>>", text))


def two_responses(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    responses = [part for part in parts if part]
    return all(parts[1:-1]) and len(responses) == 2 and responses[0] != responses[1]


def repeat_prompt(text: str, *, prompt_to_repeat: str) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, *, end_phrase: str) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    content = text.strip()
    return len(content) > 1 and content[0] == content[-1] == '"'


def capital_word_frequency(text: str, *, capital_frequency: int, capital_relation: Relation) -> bool:
    from posttrain.rewards.instructions.instruction_text import words

    return _compares(sum(word.isupper() for word in words(text)), capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    return text.isupper() and response_language(text, language="en")


def english_lowercase(text: str) -> bool:
    return text.islower() and response_language(text, language="en")


def no_comma(text: str) -> bool:
    return "," not in text


INSTRUCTIONS: dict[str, Check] = {
    "keywords:existence": keyword_existence,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden_words,
    "keywords:letter_frequency": letter_frequency,
    "language:response_language": response_language,
    "length_constraints:number_sentences": number_sentences,
    "length_constraints:number_paragraphs": number_paragraphs,
    "length_constraints:number_words": number_words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": number_placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": number_bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": number_highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_word_frequency,
    "change_case:english_capital": english_capital,
    "change_case:english_lowercase": english_lowercase,
    "punctuation:no_comma": no_comma,
}

# What an argument must be, by its annotation.
_KINDS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: type(value) is int and value >= 0, "a whole number, 0 or more"),
    str: (lambda value: isinstance(value, str) and bool(value.strip()), "text"),
    list[str]: (
        lambda value: isinstance(value, list) and bool(value) and all(isinstance(entry, str) for entry in value),
        "a list of texts",
    ),
    Letter: (lambda value: isinstance(value, str) and len(value) == 1, "one letter"),
    Relation: (lambda value: value in get_args(Relation), "'less than' or 'at least'"),
}


def checked_arguments(instruction_id: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``arguments`` without those that are None, if they are what the check of ``instruction_id`` takes.

    Raises:
        ValueError: the id is unknown, an argument is missing, unknown or of another kind; the message names it.
    """
    if instruction_id not in INSTRUCTIONS:
        raise ValueError(f"unknown instruction {instruction_id!r}; IFEval's are {', '.join(INSTRUCTIONS)}")
    given = {name: value for name, value in arguments.items() if value is not None}
    kinds = {n: kind for n, kind in INSTRUCTIONS[instruction_id].__annotations__.items() if n not in ("text", "return")}
    for name in [*kinds, *given]:
        if name not in given:
            raise ValueError(f"{instruction_id}: the argument {name} is missing")
        if name not in kinds:
            raise ValueError(f"{instruction_id} takes no argument {name} (it takes {', '.join(kinds) or 'none'})")
        fits, kind = _KINDS[kinds[name]]
        if not fits(given[name]):
            raise ValueError(f"{instruction_id}: {name} must be {kind}, not {given[name]!r:.200}")
    return given


def loose_variants(text: str) -> list[str]:
    """``text`` as it is, without its first line, its last, and both; and each of these without asterisks."""
    lines = text.split("\n")
    cut = ["\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])]
    return list(dict.fromkeys([text, *cut, *(variant.replace("*", "") for variant in [text, *cut])]))
