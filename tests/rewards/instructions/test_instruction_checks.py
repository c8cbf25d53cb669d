"""IFEval's 25 instruction types: each with texts that follow it, texts that do not, and texts at the boundary."""

from typing import Any

import pytest

from posttrain.rewards.instructions.instruction_checks import INSTRUCTIONS, checked_arguments, loose_variants

ENGLISH = "The weather is lovely today and we are going to walk along the river with our friends."
FRENCH = "Le temps est magnifique aujourd'hui et nous allons nous promener au bord de la rivière avec nos amis."

Case = tuple[dict[str, Any], list[str], list[str]]
LESS_3 = {"relation": "less than"}
LEAST_3 = {"relation": "at least"}

# id: [(arguments, texts that follow, texts that do not)]. The boundary is between the last of one and the first of the
# other, wherever there is a number.
CASES: dict[str, list[Case]] = {
    "keywords:existence": [
        ({"keywords": ["river", "boat"]}, ["A boat on a River.", "riverboat"], ["A boat.", "rive boat", ""]),
        ({"keywords": ["colou?r"]}, ["color", "COLOUR"], ["colouur", "colou?"]),
    ],
    "keywords:frequency": [
        ({"keyword": "war", "frequency": 2, **LEAST_3}, ["War, war, war", "War and warm"], ["war", ""]),
        ({"keyword": " war ", "frequency": 2, **LESS_3}, ["peace", "war"], ["war and WAR", "warwar"]),
    ],
    "keywords:forbidden_words": [
        ({"forbidden_words": ["rock", "roll"]}, ["Rocks and rolling", "rock_"], ["A Rock.", "roll", "on-roll"]),
    ],
    "keywords:letter_frequency": [
        ({"letter": "Q", "let_frequency": 2, "let_relation": "at least"}, ["qqq", "Qq"], ["q", ""]),
        ({"letter": "#", "let_frequency": 2, "let_relation": "less than"}, ["", "#"], ["##", "# # #"]),
    ],
    "language:response_language": [
        ({"language": "fr"}, [FRENCH, "123 456"], [ENGLISH]),
        ({"language": "zh-cn"}, ["今天天气很好，我们去公园散步吧。"], [FRENCH]),
    ],
    "length_constraints:number_sentences": [
        ({"num_sentences": 2, **LEAST_3}, ["One. Two! Three?", "Mr. Fox ran. He fell."], ["Dr. Who ran off.", ""]),
        ({"num_sentences": 2, **LESS_3}, ["One.", "No full stop"], ["One. Two.", "Really? Yes. Fine."]),
    ],
    "length_constraints:number_paragraphs": [
        (
            {"num_paragraphs": 2},
            ["a\n***\nb", "***a *** b***", "a***b\n\n***\n"],
            ["a", "a *** b *** c", "a *** *** b", "a\n\nb", "a ** b"],
        ),
    ],
    "length_constraints:number_words": [
        ({"num_words": 3, **LEAST_3}, ["one two three four", "well-known fact"], ["one two", ""]),
        ({"num_words": 3, **LESS_3}, ["", "one, two."], ["one two three", "it's one"]),
    ],
    "length_constraints:nth_paragraph_first_word": [
        (
            {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Weekend"},
            ["a\n\nweekend b", 'a\n\n"Weekend', "a\n\n'\"weekend's end", "a\n\nWEEKEND, b", "a\n\nweekend\n\n"],
            [
                "weekend\n\na",
                "a\n\nweekends",
                "a\n\n\"'weekend",
                "a\n\nweekend\n\nb",
                "a\nweekend",
                "a\n\n \n\nweekend",
                'a\n\n""',
                "",
            ],
        ),
        ({"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}, [], ["a", "a\n\na"]),
    ],
    "detectable_content:number_placeholders": [
        ({"num_placeholders": 2}, ["[a] [b] [c]", "[a][]"], ["[a]", "[a\nb] [c]", "[[a]", "a] [b"]),
    ],
    "detectable_content:postscript": [
        ({"postscript_marker": "P.S."}, ["Bye.\nP.S. more", "p. s. more", "text p.s."], ["PS: more", "P.S more", ""]),
        ({"postscript_marker": "P.P.S"}, ["P.P.S more", "p. p. s. more", "P.P.S."], ["P.S. more", "PPS"]),
        ({"postscript_marker": "Note:"}, ["x\n NOTE: y"], ["notes", "note y"]),
    ],
    "detectable_format:number_bullet_lists": [
        (
            {"num_bullets": 2},
            ["* a\n* b", "- a\n  * b", "*a\n-b\ntext", "* a\n** b\n- c"],
            ["* a", "* a\n* b\n- c", "** a\n** b", "+ a\n+ b", "x * a\nx - b"],
        ),
    ],
    "detectable_format:constrained_response": [
        (
            {},
            ["My answer is yes.", "Well: My answer is no. So there.", "My answer is maybe."],
            ["My answer is yes", "my answer is no.", "My answer is perhaps.", "yes"],
        ),
    ],
    "detectable_format:number_highlighted_sections": [
        ({"num_highlights": 2}, ["*a* and *b*", "*a* **b**", "*a* b *c* d"], ["*a*", "* * *a*", "*a\nb* *c*", "****"]),
        ({"num_highlights": 1}, ["*a*", "**a**"], ["a", "* *", "**", "** **"]),
    ],
    "detectable_format:multiple_sections": [
        (
            {"section_spliter": "SECTION", "num_sections": 2},
            ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION2", "SECTION 1 SECTION 2 SECTION 3"],
            ["SECTION 1\na", "Section 1\nSection 2", "SECTION one SECTION two", "SECTION  1 SECTION  2"],
        ),
    ],
    "detectable_format:json_format": [
        (
            {},
            ['{"a": [1, null]}', '```json\n{"a": 1}\n```', "```\n[]\n```", " 3 ", '"text"', "```JSON\n{}```"],
            ["{'a': 1}", '{"a": 1', 'Here: {"a": 1}', "```python\n{}\n```", "[" * 100_000, "", "```json```"],
        ),
    ],
    "detectable_format:title": [
        ({}, ["<<Joy>>", "text <<poem of joy>> text", "<<<a>>>"], ["<Joy>", "<<>>", "<< >>", "<<a\nb>>", "<<a", ""]),
    ],
    "combination:two_responses": [
        (
            {},
            ["a\n******\nb", "******a******b", "a******b****** "],
            ["a", "a******a", "a ****** b ****** c", "a****** ******b", "a***b", "******", "a***** *b"],
        ),
    ],
    "combination:repeat_prompt": [
        (
            {"prompt_to_repeat": "Write a poem. "},
            ["Write a poem.", " WRITE A POEM. Roses are red", "write a poem.s"],
            ["Write a poem", "Sure! Write a poem.", "Write  a poem.", ""],
        ),
    ],
    "startend:end_checker": [
        (
            {"end_phrase": "Any other questions?"},
            [
                "Done. Any other questions?",
                '"... any OTHER questions?" ',
                "Many other questions? Any other questions?\n",
            ],
            ["Any other questions? No.", "Any other questions", "Any other questions?'", ""],
        ),
    ],
    "startend:quotation": [
        ({}, ['"text"', ' "a\nb" \n', '""', '"a" and "b"'], ['"', '"text', 'text"', "'text'", "“text”", '"text".', ""]),
    ],
    "change_case:capital_word_frequency": [
        ({"capital_frequency": 2, "capital_relation": "at least"}, ["A B c", "NASA-ESA, (UN)!"], ["NASA", "Nasa Esa"]),
        ({"capital_frequency": 2, "capital_relation": "less than"}, ["a b 12", "I am"], ["I AM", "NASA, UN; ESA"]),
    ],
    "change_case:english_capital": [
        ({}, [ENGLISH.upper()], [ENGLISH, ENGLISH.upper() + " a", FRENCH.upper(), "123", ""]),
    ],
    "change_case:english_lowercase": [
        ({}, [ENGLISH.lower()], [ENGLISH, ENGLISH.lower() + " A", FRENCH.lower(), "123", ""]),
    ],
    "punctuation:no_comma": [({}, ["One; two.", "、", ""], ["One, two.", ","])],
}
FLAT = [(name, *case) for name, cases in CASES.items() for case in cases]


def test_there_are_25_types_and_each_has_cases() -> None:
    assert len(INSTRUCTIONS) == 25
    assert CASES.keys() == INSTRUCTIONS.keys()
    assert all(any(case[1] for case in cases) and any(case[2] for case in cases) for cases in CASES.values())


@pytest.mark.parametrize(("name", "arguments", "following", "failing"), FLAT, ids=[f"{case[0]}" for case in FLAT])
def test_checks(name: str, arguments: dict[str, Any], following: list[str], failing: list[str]) -> None:
    check = INSTRUCTIONS[name]
    assert checked_arguments(name, {**arguments, "none_is_ignored": None}) == arguments
    assert [text for text in following if check(text, **arguments) is not True] == []
    assert [text for text in failing if check(text, **arguments) is not False] == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("keywords:existance", {}, "unknown instruction 'keywords:existance'"),
        ("keywords:existence", {}, "keywords:existence: the argument keywords is missing"),
        ("keywords:existence", {"keywords": None}, "keywords is missing"),
        ("keywords:existence", {"keywords": "river"}, "keywords must be a list of texts, not 'river'"),
        ("keywords:existence", {"keywords": []}, "a list of texts"),
        ("keywords:frequency", {"keyword": " ", "frequency": 1, "relation": "at least"}, "keyword must be text"),
        ("length_constraints:number_words", {"num_words": 3}, "the argument relation is missing"),
        ("length_constraints:number_words", {"num_words": -1, "relation": "at least"}, "0 or more, not -1"),
        ("length_constraints:number_words", {"num_words": "3", "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "a whole number"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}, "'less than' or 'at least'"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": "at least"}, "one letter"),
        ("punctuation:no_comma", {"num_words": 3}, r"takes no argument num_words \(it takes none\)"),
        ("detectable_format:title", {"title": "x"}, "takes no argument title"),
    ],
)
def test_wrong_arguments_are_named(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_arguments(name, arguments)


def test_loose_variants() -> None:
    assert loose_variants("Sure!\n*a*\n b \nBye.") == [
        "Sure!\n*a*\n b \nBye.",
        "*a*\n b \nBye.",
        "Sure!\n*a*\n b",
        "*a*\n b",
        "Sure!\na\n b \nBye.",
        "a\n b \nBye.",
        "Sure!\na\n b",
        "a\n b",
    ]
    assert loose_variants("one line") == ["one line", ""]
