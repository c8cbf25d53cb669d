"""Prompts become token ids once, and a prompt that cannot is named."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from posttrain.data.chat import PromptEncoder
from posttrain.data.prompt_format import PromptFormat
from posttrain.errors import DataError
from posttrain.types import Example


@pytest.fixture
def tokenizer(tiny_model_folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_model_folder)


def conversation(*turns: tuple[str, str]) -> Example:
    return Example(id="e1", prompt=[{"role": role, "content": content} for role, content in turns])


def test_plain_text_is_encoded_as_it_is(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = PromptEncoder(tokenizer).prompt_ids(Example(id="e1", prompt="12+34="))
    assert len(ids) == 6
    assert tokenizer.decode(ids) == "12+34="


def test_messages_end_where_the_assistant_begins(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = PromptEncoder(tokenizer).prompt_ids(conversation(("system", "Add."), ("user", "1+2=")))
    assert tokenizer.decode(ids) == "<|system|>Add.<|end|><|user|>1+2=<|end|><|assistant|>"
    assert len(ids) == 13


def test_completion_follows_the_prompt_as_the_template_would_write_it(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = PromptEncoder(tokenizer)
    messages = [{"role": "user", "content": "1+2="}]
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": " 3\n"}], return_dict=False)
    parts = encoder.prompt_ids(Example(id="e1", prompt=messages)) + encoder.completion_ids(" 3\n")
    assert [*parts, tokenizer.eos_token_id] == whole


def test_no_chat_template(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.chat_template = None
    with pytest.raises(
        DataError, match=r"example 'e1' is a conversation, but the tokenizer of .* has no chat template"
    ):
        PromptEncoder(tokenizer).prompt_ids(conversation(("user", "hello")))


def test_role_that_the_template_does_not_know(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="messages of example 'e1': unknown role judge"):
        PromptEncoder(tokenizer).prompt_ids(conversation(("judge", "hello")))


def test_prompt_longer_than_the_context(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = PromptEncoder(tokenizer, max_prompt_tokens=6)
    fits, too_long = Example(id="fits", prompt="12+34="), Example(id="long", prompt="12+345=")
    encoder.check([fits])
    with pytest.raises(
        DataError, match="prompt of example 'long' has 7 tokens, more than the 6 that the model's context"
    ):
        encoder.check([fits, too_long])


def test_empty_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    with pytest.raises(DataError, match="prompt of example 'e1' is empty"):
        PromptEncoder(tokenizer).prompt_ids(Example(id="e1", prompt=""))


def test_prompt_format() -> None:
    assert PromptFormat().prompt("1+1=") == "1+1="
    assert PromptFormat(template="Q: {problem} \\frac{a}{b}").prompt("x") == "Q: x \\frac{a}{b}"
    assert PromptFormat(chat=True, system="Add.").prompt("1+1=") == [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1="},
    ]


@pytest.mark.parametrize(
    ("keys", "message"), [({"template": "Q:"}, r"must contain \{problem\}"), ({"system": "Add."}, "needs chat: true")]
)
def test_prompt_format_that_cannot_be(keys: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptFormat.model_validate(keys)


def test_a_reward_model_reads_the_template_once_and_knows_where_the_completion_starts(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    encoder, example = PromptEncoder(tokenizer), conversation(("user", "1+2="))
    ids, start = encoder.judged_ids(example, "3")
    assert tokenizer.decode(ids) == "<|user|>1+2=<|end|><|assistant|>3<|end|>"
    assert tokenizer.decode(ids[start:]) == "3<|end|>"
    partial, start = encoder.judged_ids(example, "3", finished=False)
    assert (partial, tokenizer.decode(partial[start:])) == (ids[:-1], "3")


def test_a_reward_model_reads_plain_text_and_the_end(tokenizer: PreTrainedTokenizerBase) -> None:
    ids, start = PromptEncoder(tokenizer).judged_ids(Example(id="e1", prompt="1+2="), "3")
    assert (tokenizer.decode(ids), start) == ("1+2=3<|end|>", 4)
