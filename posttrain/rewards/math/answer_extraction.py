"""Where a completion's final answer is. Strings only, in linear time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from posttrain.rewards.math.answer_form import unwrapped
from posttrain.rewards.math.units import COMPOUND, MATH_WORDS

Step = Literal["boxed", "hash", "phrase", "last_expression"]
STEPS: tuple[Step, ...] = ("boxed", "hash", "phrase", "last_expression")

_BRACE_OR_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_PHRASE = re.compile(
    r"(?<!express the )(?<!to the )(?<!multiply the )(?<![</])\banswer\b[^.\n]{0,60}?(?:\bis\b|\bare\b|\bbe\b|:|=)|"
    r"<answer>|^[ \t*_]*A[*_]*:|^[#*\s]{0,9}(?:final )?answer[*: ]*$",
    re.IGNORECASE | re.MULTILINE,
)
_LEAD_IN = re.compile(
    r"(?:[\s*_:=≈→⇒]+|<\w{1,9}>|"
    r"(?:about|approximately|exactly|equal to|simply|just|therefore|thus|option|choice)\b)*",
    re.IGNORECASE,
)
_LATEX = re.compile(
    r"\$\$([^$]{1,2000})\$\$|\\\[(.{1,2000}?)\\\]|\\\((.{1,2000}?)\\\)|(?<!\\)\$([^$\n]{1,2000})\$", re.DOTALL
)
_NUMBER = re.compile(
    rf"(?<![\w.]){COMPOUND}|(?<![\w.])\d{{1,3}}:\d\d(?![\w:])(?:\s?[ap]\.?m\b)?|"
    r"(?<![\w.])(?:[-−+](?=\s?[$€£¥]?\.?\d))?\s?(?:\\?\$|[€£¥])?-?"
    r"(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)?(?:(?<=\d)|(?=\.\d))(?:\.\d+)?"
    r"(?:\s+\d+/\d+|\s?/\s?\d+|\s?[×*x]\s?10\^\d+)?(?:\s?\\?%|\s(?:hundred|thousand|million|billion|trillion)\b)?"
)
# A choice letter, bare or in brackets. The letter A before a word is an article, unless the word gives a reason.
_CHOICE = re.compile(
    r"\W{0,4}(?:(?i:option|choice|answer)\W{1,4})?"
    r"(?:\(([A-Ja-j])\)|([A-J])(?![\w^]|-\S|\s*[=+*/(]|(?<=A) (?!(?:because|since|as|is|for|which)\b)[a-z]))"
)
_LAST_CHOICE = re.compile(
    r"\b(?:[Oo]ption|[Cc]hoice)\s+\(?([A-J])\b|\(([A-J])\)|^[^\w\n]*([A-J])[^\w\n]*$", re.MULTILINE
)
_NEXT_QUESTION = re.compile(
    r"^(?:Q|Question|Problem|Human|User|### ?Instruction):|<\|(?:endoftext|im_end|end|eot_id)\|>|</s>", re.MULTILINE
)
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_CALCULATION = re.compile(r"[^=(]{0,80}\d[^=(]{0,40}[-+*/×÷x] ?[$\d(][^=]{0,80}=(?:.*=)? ?(?=[-$\d])")
_REASON = re.compile(r"\b(?:because|since|as|where|if)\b")
_HEADING = re.compile(r"(?:step|part|case)\b|\d+[.)] |.*:$", re.IGNORECASE)
_RESULT = re.compile(r"[\d)%] *=+ *(?=[-$€£]?\.?\d)")
_RESTATED = re.compile(r"\b(?:which|meaning|so|or|i\.e|approximately|about|rounded|rounds)\b[^=]{0,99}\d|[=≈]")
_CLAUSES_END = re.compile(r"\n|</|\.(?=\s|$|\*)|;|[!?](?=\s|$)")
_SENTENCE_END = re.compile(_CLAUSES_END.pattern + r"|,\s(?=[a-z]{2,})")


@dataclass(frozen=True, slots=True)
class ExtractedAnswer:
    """The text of a final answer, and the step that found it."""

    text: str
    step: Step


def after_thinking(completion: str) -> str | None:
    """The text after the last thinking block; None where a block was opened and not closed."""
    rest = completion.rpartition("</think>")[2]
    return None if "<think>" in rest else rest


def extract_answer(text: str, expects_text: bool = False) -> ExtractedAnswer | None:
    r"""The final answer in ``text``: the last ``\boxed{...}``, else the last ``####`` line, else what follows "answer
    is", "answer:" or "A:", else the last number or expression. None if there is none of these.

    ``expects_text``: the gold answer is words or a choice letter, so a phrase may hold such.
    """
    text = _before_next_question(text)
    boxed = boxed_contents(text)
    if boxed:
        return ExtractedAnswer(boxed[-1], "boxed")
    marked = _after_hashes(text)
    if marked and (expects_text or (re.search(r"\d|\\", marked) and not _HEADING.match(marked))):
        return ExtractedAnswer(marked, "hash")
    phrase = _after_phrase(text, expects_text)
    if phrase:
        return ExtractedAnswer(phrase, "phrase")
    last = None if expects_text else _last_expression(text)
    return ExtractedAnswer(last, "last_expression") if last else None


def boxed_contents(text: str) -> list[str]:
    r"""What is in the ``\boxed{...}`` (or ``\fbox``) with balanced braces, in order of their closing; not the empty
    ones, and for nested ones what is innermost."""
    contents: list[str] = []
    openings: list[int | None] = []
    for match in _BRACE_OR_BOX.finditer(text):
        token = match.group()
        if token == "}" and openings:
            start = openings.pop()
            content = "" if start is None else text[start : match.start()].strip()
            if content and "\\boxed" not in content:
                contents.append(content)
        elif token.endswith("{") and token != "\\{":
            openings.append(match.end() if len(token) > 1 else None)
    return contents


def choice_letter(answer: str) -> str | None:
    """The letter, A to J, that an answer is or begins with: ``B``, ``(b)``, ``B. Paris``, ``option B``."""
    match = _CHOICE.match(unwrapped(answer))
    return (match[1] or match[2]).upper() if match else None


def last_words(text: str, wants_letter: bool) -> ExtractedAnswer | None:
    """Without any mark of an answer: the last choice letter that is not part of a sentence, or a last line of at most
    three words."""
    if wants_letter and (letters := _LAST_CHOICE.findall(text)):
        return ExtractedAnswer("".join(letters[-1]), "last_expression")
    last = text.rstrip().rpartition("\n")[2].strip(" *_.")
    return ExtractedAnswer(last, "last_expression") if last and len(last.split()) <= 3 else None


def gold_form(gold: str) -> str:
    r"""The answer inside a gold solution: after the last ``####`` (GSM8K), or in the last ``\boxed{...}``."""
    boxed = boxed_contents(gold)
    return _after_hashes(gold) or (boxed[-1] if boxed else gold)


def split_answers(answer: str) -> Iterator[str]:
    """The parts of an answer that lists several: split at commas, semicolons, "and" and "or" outside brackets."""
    depth, start = 0, 0
    text = re.sub(r"\\text\{\s*(?:and|or)\s*\}|\s(?:and|or)\s", ", ", answer.replace("{,}", ""))
    for position, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and character in ",;":
            yield text[start:position].strip()
            start = position + 1
    yield text[start:].strip()


def _before_next_question(text: str) -> str:
    """A base model goes on to the next example of a few-shot prompt: what follows its own answer does not count."""
    question = _NEXT_QUESTION.search(text)
    head = text[: question.start()] if question else text
    return head if "####" in head or "\\boxed" in head or _PHRASE.search(head) else text


def _after_hashes(text: str) -> str:
    _, found, rest = text.rpartition("####")
    return rest.strip().split("\n")[0].strip() if found else ""


def _after_phrase(text: str, expects_text: bool) -> str | None:
    """What the last phrase that introduces an answer is followed by, looking at no more than the last five."""
    for match in list(_PHRASE.finditer(text))[-5:][::-1]:
        rest = _LEAD_IN.sub("", text[match.end() : match.end() + 2000], count=1)
        answer = _leading_text(rest) if expects_text else _leading_expression(rest)
        if answer:
            return answer
    return None


def _leading_text(text: str) -> str | None:
    if letter := _CHOICE.match(re.sub(r"^(?:\$|\\\(|\\text(?:bf)?\{)+", "", text)):
        return (letter[1] or letter[2]).upper()
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0].strip(" *_$")
    return sentence if sentence and len(sentence.split()) <= 6 else None


def _leading_expression(text: str) -> str | None:
    text = re.sub(r"^\(?[A-J][):.]\s+(?=\S)", "", text)
    text = re.sub(r"^(?:negative|minus) (?=[$\d])", "-", text)
    latex = _LATEX.match(text)
    if latex and looks_like_maths(content := _latex_content(latex)):
        return content
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0].strip(" *_")
    if looks_like_maths(sentence):
        return sentence
    calculation = None if _REASON.search(sentence) else _CALCULATION.match(sentence)
    if number := _NUMBER.match(sentence, calculation.end() if calculation else 0):
        return number.group().strip()
    return _last_expression(_CLAUSES_END.split(text, maxsplit=1)[0])


def _last_expression(text: str) -> str | None:
    """A number in bold in the last line, else the result of the last sentence's last calculation (``8 * 3 = 24 pages in
    3 hours``), else the LaTeX expression or number that ends last."""
    line = text.rstrip().rpartition("\n")[2]
    for bold in reversed(_BOLD.findall(line)):
        if (number := _NUMBER.match(bold)) and not bold.endswith(":"):
            return number.group().strip()
    latex = [match for match in _LATEX.finditer(text) if looks_like_maths(_latex_content(match), needs_digit=True)]
    numbers = list(_NUMBER.finditer(text))
    if latex and (not numbers or numbers[-1].end() <= latex[-1].end()):
        return _latex_content(latex[-1])
    sentence = re.split(r"[.!?] +(?=[A-Z])", line)[-1]
    for equals in list(_RESULT.finditer(sentence))[-1:]:
        result = _NUMBER.match(sentence, equals.end())
        if result and not _RESTATED.search(sentence, result.end()):
            return result.group().strip()
    return numbers[-1].group().strip() if numbers else None


def _latex_content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()


def looks_like_maths(text: str, needs_digit: bool = False) -> bool:
    """Whether a short text is an expression rather than prose: it has no words but those of mathematics."""
    if not text or len(text) > 500 or (needs_digit and not re.search(r"\d", text)):
        return False
    bare = re.sub(r"\\(?:text|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    words = re.findall(r"[A-Za-z]{2,}", bare)
    return all(word.lower() in MATH_WORDS for word in words if len(word) > 2) and len(words) < 6
