"""What of a completion is compared."""

from typing import Any

import pytest

from posttrain.rewards.text_processing import TextProcessing


def test_the_defaults_are_bleuberis() -> None:
    keep = TextProcessing()
    assert keep.of_completion("  plain text \n") == "plain text"
    assert keep.of_completion("<think>why</think>\n<answer> 42 </answer> done") == "42"
    assert keep.of_completion("<answer> cut off by the limit") == "cut off by the limit"
    assert keep.of_completion("<answer>a</answer><answer>b</answer>") == "a"
    assert keep.of_completion("<answer>a <answer>b</answer>") == "a"
    assert keep.of_completion("</answer>a<answer>b") == "b"
    assert keep.of_completion("<answer></answer>x") == ""
    assert keep.of_completion("<think>why</think> <|im_end|> ```x``` ﬁ") == "<think>why</think> <|im_end|> ```x``` ﬁ"
    assert keep.of_reference(" <answer>as it is</answer> ") == " <answer>as it is</answer> "


@pytest.mark.parametrize(
    ("keys", "text", "kept"),
    [
        ({"answer_tag": None}, "<answer>42</answer>", "<answer>42</answer>"),
        ({"answer_tag": "final"}, "<answer>42</answer><final>43</final>", "43"),
        ({"strip": False}, " <answer> 42\n</answer>", " 42\n"),
        ({"strip_thinking": True}, "<think>why</think> because", "because"),
        ({"strip_thinking": True}, "opened in the prompt</think> because", "because"),
        ({"strip_thinking": True}, "<think>why</think> so <think>but", ""),
        ({"strip_thinking": True}, "<think>a <answer>7</answer></think><answer>8</answer>", "8"),
        ({"strip_thinking": True}, "no block", "no block"),
        ({"unicode_normalisation": "NFC"}, "e\u0301 ﬁ", "\u00e9 ﬁ"),
        ({"unicode_normalisation": "NFKC"}, "e\u0301 ﬁ １", "\u00e9 fi 1"),
    ],
)
def test_options(keys: dict[str, Any], text: str, kept: str) -> None:
    assert TextProcessing(**keys).of_completion(text) == kept


def test_references_get_the_same_spelling() -> None:
    text = TextProcessing(unicode_normalisation="NFC")
    assert text.of_reference("e\u0301\n") == "\u00e9\n"
