"""Tiny models: an ordinary folder that is the same for every reader."""

import math
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from posttrain.data.tiny_model import END_TOKEN, TinyModelConfig, create_tiny_model
from posttrain.errors import JobError

TEXTS = [
    "12+345=357",
    "two  spaces   three",
    "line\n\nnext\r\n\ttab",
    "café naïve Ångström 東京 🙂",
    "cafe\u0301",
    "It's 3.14; you'll (see) [x]^2 {y}_1 \\boxed{-7}",
    " leading and trailing ",
    "<|user|>hello<|end|>",
    "",
]


@pytest.fixture(scope="module")
def bpe_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    corpus = folder / "corpus.txt"
    corpus.write_text("the sum of twelve and thirty is forty-two\nthe answer is 42\n" * 20, encoding="utf-8")
    config = TinyModelConfig(
        hidden_size=32,
        heads=1,
        key_value_heads=1,
        layers=1,
        vocabulary="bpe",
        vocabulary_size=320,
        corpus_file=str(corpus),
    )
    return create_tiny_model(folder / "model", config)


@pytest.fixture(params=["characters", "bpe"])
def folder(request: pytest.FixtureRequest) -> Path:
    name = {"characters": "tiny_model_folder", "bpe": "bpe_folder"}[request.param]
    return request.getfixturevalue(name)


@pytest.mark.parametrize("text", TEXTS)
def test_saved_and_loaded_tokenizers_agree_and_round_trip(folder: Path, text: str) -> None:
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    loaded = AutoTokenizer.from_pretrained(folder)
    ids = loaded.encode(text, add_special_tokens=False)
    assert saved.encode(text, add_special_tokens=False).ids == ids
    assert loaded.decode(ids) == text.replace("e\u0301", "é")


def test_characters_are_one_token_each(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    printable = "".join(map(chr, range(32, 127))) + "\n\t"
    assert [len(tokenizer.encode(character)) for character in printable] == [1] * len(printable)
    assert len(tokenizer.encode(printable)) == len(printable)


def test_bpe_learns_merges(bpe_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(bpe_folder)
    assert len(tokenizer.encode("the answer")) < len("the answer") / 2
    assert 261 < len(tokenizer) <= 320


def test_every_id_of_the_model_has_a_token(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == len(set(tokenizer.get_vocab().values()))
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tokenizer.eos_token == END_TOKEN
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    generation = GenerationConfig.from_pretrained(folder)
    assert (generation.eos_token_id, generation.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)


def test_chat_template(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": " Add. "}, {"role": "user", "content": "1+2="}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert prompt == "<|system|> Add. <|end|><|user|>1+2=<|end|><|assistant|>"
    answered = [*messages, {"role": "assistant", "content": "3"}]
    assert tokenizer.apply_chat_template(answered, tokenize=False) == prompt + "3<|end|>"
    ids = tokenizer.apply_chat_template(answered, return_dict=True, return_assistant_tokens_mask=True)
    assert (
        tokenizer.decode([i for i, m in zip(ids["input_ids"], ids["assistant_masks"], strict=True) if m]) == "3<|end|>"
    )


def test_weights_depend_on_the_seed_alone_and_leave_the_global_state(tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> dict[str, torch.Tensor]:
        config = TinyModelConfig(hidden_size=32, heads=1, key_value_heads=1, layers=1, seed=seed)
        return AutoModelForCausalLM.from_pretrained(create_tiny_model(tmp_path / name, config)).state_dict()

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = weights("first", seed=1)
    torch.manual_seed(6)
    again = weights("again", seed=1)
    torch.manual_seed(5)
    create_tiny_model(tmp_path / "unused", TinyModelConfig(hidden_size=32, heads=1, key_value_heads=1, layers=1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights("other", seed=2)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_first_weights_spread_as_told(tmp_path: Path) -> None:
    config = TinyModelConfig(hidden_size=64, heads=2, layers=1, initializer_range=0.1)
    model = AutoModelForCausalLM.from_pretrained(create_tiny_model(tmp_path, config))
    weights = model.model.layers[0].mlp.up_proj.weight  # 49,152 of them: the error of their deviation is 0.0003
    assert float(weights.std()) == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"hidden_size": 64, "heads": 4}, "divided by heads 4 must be a multiple of 16 and at least 32"),
        ({"hidden_size": 80, "heads": 2}, "divided by heads 2 must be a multiple of 16 and at least 32"),
        ({"heads": 4, "key_value_heads": 3}, "multiple of key_value_heads"),
        ({"vocabulary": "bpe"}, "needs a corpus_file"),
        ({"corpus_file": "a.txt"}, "characters has none"),
    ],
)
def test_impossible_shapes_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TinyModelConfig.model_validate(keys)


def test_missing_corpus_is_named(tmp_path: Path) -> None:
    config = TinyModelConfig(vocabulary="bpe", corpus_file=str(tmp_path / "none.txt"))
    with pytest.raises(JobError, match=r"corpus_file: cannot read .*none\.txt"):
        create_tiny_model(tmp_path / "model", config)


def test_the_config_imports_without_torch() -> None:
    code = "import sys, posttrain.data.tiny_model; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trl_trains_it_on_assistant_turns_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    """The generation block of the chat template is what TRL's assistant-only loss needs."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
        from trl import SFTConfig, SFTTrainer
    messages = [{"role": "user", "content": "1+2="}, {"role": "assistant", "content": "3"}]
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        assistant_only_loss=True,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )
    dataset = Dataset.from_list([{"messages": messages}] * 2)
    trainer = SFTTrainer(str(tiny_model_folder), args=arguments, train_dataset=dataset)
    batch = next(iter(trainer.get_train_dataloader()))
    trained = batch["labels"][batch["labels"] != -100]
    assert trainer.processing_class.decode(trained) == "3<|end|>" * 2
    assert math.isfinite(trainer.train().training_loss)
