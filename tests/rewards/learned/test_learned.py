"""Learned reward models: scores that are transformers' own, whatever else is in the batch; and mistakes, named."""

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from posttrain.data.chat import EncodedText
from posttrain.errors import JobError, UserError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.learned.learned import LearnedReward
from posttrain.rewards.learned.sequence_classifier import length_batches
from posttrain.rewards.reward import RewardInput
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.types import Example

REWARD_MODELS = Path(__file__).parents[3] / "reward_models"
TOLERANCE = 1e-4  # what float32 promises; measured differences are about 1e-7


def write_reward_model(folder: Path, causal_lm: Path, num_labels: int = 1, pad: str | None = "<|pad|>") -> Path:
    """The tiny language model with a random head. ``pad`` is the padding token that its config names."""
    torch.manual_seed(7)
    tokenizer = AutoTokenizer.from_pretrained(causal_lm)
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(causal_lm, num_labels=num_labels)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.config.pad_token_id = None if pad is None else tokenizer.convert_tokens_to_ids(pad)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def items(count: int = 12, prompt: str = "How many?") -> list[RewardInput]:
    """Conversations of many lengths, none a multiple of another."""
    return [
        RewardInput(
            Example(f"row{n}", [{"role": "user", "content": prompt + " and more" * (n % 3)}]), "so " * n + f"it is {n}."
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    return write_reward_model(tmp_path_factory.mktemp("reward_model"), tiny_model_folder)


def learned(folder: Path, **keys: Any) -> LearnedReward:
    reward = LearnedReward(model=str(folder), **keys).build()
    assert isinstance(reward, LearnedReward)
    return reward


def scores_of(reward: LearnedReward, inputs: list[RewardInput]) -> list[float]:
    outputs = score_checked(reward, inputs)
    assert [output.message for output in outputs if output.error] == []
    return [float(output.score) for output in outputs if output.score is not None]


def reference(folder: Path, texts: list[str]) -> list[float]:
    """One text at a time, without padding: what the model's own code gives."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return [
            model.eval()(torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])).logits.item()
            for text in texts
        ]


def conversation(item: RewardInput) -> str:
    return f"<|user|>{item.example.prompt[0]['content']}<|end|><|assistant|>{item.completion}<|end|>"  # type: ignore[index]


def test_scores_are_those_of_the_model_read_alone(folder: Path) -> None:
    expected = reference(folder, [conversation(item) for item in items()])
    assert torch.tensor(expected).std() > 0.05, "the reference must tell these completions apart"
    for budget in (1, 100, 400, 10_000):
        assert scores_of(learned(folder, tokens_per_batch=budget), items()) == pytest.approx(expected, abs=TOLERANCE)


def test_a_score_depends_on_no_neighbour_and_no_order(folder: Path) -> None:
    reward = learned(folder)
    alone = [scores_of(reward, [item])[0] for item in items(5)]
    for order in list(permutations(range(5)))[::17]:
        mixed = scores_of(reward, [items(5)[index] for index in order])
        assert mixed == pytest.approx([alone[index] for index in order], abs=TOLERANCE)
    assert scores_of(reward, items(5) + items(12))[:5] == pytest.approx(alone, abs=TOLERANCE)


def test_the_padding_side_of_the_tokenizer_changes_nothing(folder: Path, tmp_path: Path) -> None:
    expected = scores_of(learned(folder), items())
    for side in ("left", "right"):
        other = Path(shutil.copytree(folder, tmp_path / side))
        tokenizer = AutoTokenizer.from_pretrained(other, padding_side=side)
        tokenizer.save_pretrained(other)
        assert scores_of(learned(other), items()) == pytest.approx(expected, abs=TOLERANCE)
        # and transformers, padding on that side, gives the same
        model = AutoModelForSequenceClassification.from_pretrained(other).eval()
        batch = tokenizer([conversation(item) for item in items()], padding=True, return_tensors="pt")
        with torch.no_grad():
            padded = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
        assert padded.tolist() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("pad", [None, "<|end|>"])
def test_models_without_a_padding_token_of_their_own(tmp_path: Path, tiny_model_folder: Path, pad: str | None) -> None:
    """Named by no config: the last token is read. Named as EOS: the token before it, as transformers does."""
    folder = write_reward_model(tmp_path, tiny_model_folder, pad=pad)
    expected = reference(folder, [conversation(item) for item in items()])
    before_the_end = reference(folder, [conversation(item).removesuffix("<|end|>") for item in items()])
    assert (expected == pytest.approx(before_the_end, abs=TOLERANCE)) is (pad is not None)
    assert scores_of(learned(folder), items()) == pytest.approx(expected, abs=TOLERANCE)


def test_text_prompts_as_they_are_or_as_a_users_turn(folder: Path) -> None:
    item = RewardInput(Example("row", "How many?"), " 7")
    unfinished = replace(item, finish_reason="length")
    for keys, items_, text in [
        ({}, item, "How many? 7<|end|>"),
        ({}, unfinished, "How many? 7"),
        ({"text_prompts": "user_turn"}, item, "<|user|>How many?<|end|><|assistant|> 7<|end|>"),
        ({"text_prompts": "user_turn"}, unfinished, "<|user|>How many?<|end|><|assistant|> 7"),
    ]:
        assert scores_of(learned(folder, **keys), [items_]) == pytest.approx(reference(folder, [text]), abs=TOLERANCE)


def test_special_tokens_come_once(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that begins every text with a token of its own: the template has it already, plain text has not."""
    other = Path(shutil.copytree(folder, tmp_path / "begins"))
    tokenizer = AutoTokenizer.from_pretrained(other)
    from tokenizers.processors import TemplateProcessing

    begin = tokenizer.convert_tokens_to_ids("<|system|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|system|> $A", special_tokens=[("<|system|>", begin)]
    )
    tokenizer.chat_template = "<|system|>" + tokenizer.chat_template
    tokenizer.save_pretrained(other)
    saved = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(saved | {"tokenizer_class": "PreTrainedTokenizerFast"}))
    reward = learned(other)
    chat, plain = items(1)[0], RewardInput(Example("row", "How"), "!")
    for item, text in [(chat, conversation(chat)), (plain, "How!<|end|>")]:
        encoded = reward.scorer.encode(item)
        assert isinstance(encoded, EncodedText)
        expected = [begin, *AutoTokenizer.from_pretrained(folder)(text)["input_ids"]]
        assert encoded.ids == expected


def test_a_long_prompt_loses_its_beginning_and_says_so(folder: Path) -> None:
    short, long = items(2, "How many?")[1], items(2, "How many? " * 40)[1]
    outputs = score_checked(learned(folder), [long, short])
    tokens = len(AutoTokenizer.from_pretrained(folder)(conversation(long))["input_ids"])
    assert tokens > 256
    assert [output.parts for output in outputs] == [{"truncated_tokens": tokens - 256.0}, {"truncated_tokens": 0.0}]
    kept = AutoTokenizer.from_pretrained(folder)(conversation(long))["input_ids"][-256:]
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        assert outputs[0].score == pytest.approx(model(torch.tensor([kept])).logits.item(), abs=TOLERANCE)


def test_max_length_cuts_the_prompt_but_never_the_completion(folder: Path) -> None:
    # <|user|> How many? <|end|> <|assistant|> and then "so it is 1." <|end|>: 12 + 12 tokens
    item = items(2, "How many?")[1]
    item.example.prompt = [{"role": "user", "content": "How many?"}]
    for max_length, truncated in [(24, 0), (20, 4), (13, 11)]:
        output = score_checked(learned(folder, max_length=max_length), [item])[0]
        assert output.parts == {"truncated_tokens": truncated}
    output = score_checked(learned(folder, max_length=12), [item])[0]
    assert (output.score, output.error) == (None, "invalid_input")
    assert output.message == "the completion has 12 tokens; of 12 one is the prompt's, at least"


def test_what_cannot_be_encoded_is_an_error_of_that_item_alone(folder: Path) -> None:
    bad = RewardInput(Example("row", [{"role": "judge", "content": "?"}]), "7")
    outputs = score_checked(learned(folder), [items(3)[1], bad, items(3)[2]])
    assert [output.error for output in outputs] == [None, "invalid_input", None]
    assert "unknown role judge" in outputs[1].message
    empty = RewardInput(Example("row", ""), "")
    assert score_checked(learned(folder), [empty])[0].error == "invalid_input"
    assert score_checked(learned(folder), [replace(items(1)[0], completion="")])[0].score is not None


def test_a_text_without_a_prompt_is_read_as_a_whole(folder: Path) -> None:
    whole, parted = RewardInput(Example("row", ""), "1+2=3"), RewardInput(Example("row", "1"), "+2=3")
    one, other = score_checked(learned(folder), [whole, parted])
    assert one.score is not None and one.score == other.score


def test_bfloat16_with_the_head_in_float32(folder: Path) -> None:
    expected = scores_of(learned(folder), items())
    plain = scores_of(learned(folder, dtype="bfloat16"), items())
    reward = learned(folder, dtype="bfloat16", fp32_head=True)
    kept = scores_of(reward, items())
    assert plain == pytest.approx(expected, abs=0.1)
    assert kept == pytest.approx(expected, abs=0.1)
    model = reward.scorer._classifier.model  # type: ignore[union-attr]
    assert {p.dtype for p in model.model.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in model.model.buffers()} == {torch.float32}
    assert torch.equal(model.score.weight, AutoModelForSequenceClassification.from_pretrained(folder).score.weight)
    assert all(score == torch.tensor(score).bfloat16().item() for score in plain)
    assert not all(score == torch.tensor(score).bfloat16().item() for score in kept)


def test_threads_get_the_same_scores(folder: Path) -> None:
    reward = learned(folder, tokens_per_batch=200)
    expected = scores_of(reward, items())
    with ThreadPoolExecutor(8) as pool:
        for scores in pool.map(lambda _: scores_of(reward, items()), range(16)):
            assert scores == pytest.approx(expected, abs=TOLERANCE)


def test_closed_it_starts_again(folder: Path) -> None:
    reward = learned(folder)
    expected = scores_of(reward, items(3))
    reward.close()
    assert reward.scorer._classifier is None
    reward.close()
    assert scores_of(reward, items(3)) == expected


def test_batches_keep_the_budget() -> None:
    lengths = [5, 90, 7, 33, 33, 2, 120, 8]
    batches = list(length_batches(lengths, 100))
    assert sorted(index for batch in batches for index in batch) == list(range(8))
    assert batches == [[6], [1], [3, 4, 7], [2, 0, 5]]
    assert list(length_batches([], 100)) == []


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Iterator[Path]:
    yield Path(shutil.copytree(folder, tmp_path / "broken"))


def test_a_folder_without_a_model(tmp_path: Path, broken: Path) -> None:
    with pytest.raises(JobError, match=r"cannot load reward model '/no/such': there is no such folder here"):
        learned(Path("/no/such"))
    with pytest.raises(JobError, match=r"cannot load reward model 'some/hub-id': .*HF_HUB_OFFLINE"):
        learned(Path("some/hub-id"))
    with pytest.raises(JobError, match=rf"cannot load reward model '{tmp_path}'.*Give a folder with config.json"):
        learned(tmp_path)
    (broken / "model.safetensors").unlink()
    with pytest.raises(JobError, match=r"cannot load reward model .*broken"):
        learned(broken)


def test_a_model_that_is_no_reward_model(tmp_path: Path, tiny_model_folder: Path, broken: Path) -> None:
    with pytest.raises(JobError, match=r"is a Qwen2ForCausalLM, not a sequence classifier.*method: reward_model"):
        learned(tiny_model_folder)
    with pytest.raises(JobError, match="num_labels 3"):
        learned(write_reward_model(tmp_path, tiny_model_folder, num_labels=3))
    shutil.copy(tiny_model_folder / "model.safetensors", broken / "model.safetensors")
    with pytest.raises(JobError, match=r"lacks weights \(score.weight\)"):
        learned(broken)


def test_a_model_without_tokenizer_or_template(broken: Path) -> None:
    (broken / "chat_template.jinja").unlink()
    with pytest.raises(JobError, match=r"text_prompts: user_turn needs a chat template.*use as_is"):
        learned(broken, text_prompts="user_turn")
    output = score_checked(learned(broken), items(1))[0]
    assert output.error == "invalid_input" and "no chat template" in output.message
    for file in broken.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(JobError, match=r"broken' has no tokenizer that loads; save the one"):
        learned(broken)


def test_settings_that_do_not_fit(folder: Path) -> None:
    with pytest.raises(JobError, match=r"max_length \(257\) is more than the 256 tokens"):
        learned(folder, max_length=257)
    with pytest.raises(ValueError, match="device is for backend transformers"):
        LearnedReward(model="x", backend="vllm", device="cuda:0")


def test_the_file_people_copy(folder: Path) -> None:
    config = load_reward_config(REWARD_MODELS / "learned-serve.yaml", [f"model={folder}"])
    reward = config.build()
    assert score_checked(reward, [RewardInput(Example("row", "How many?"), "7")])[0].error is None


def test_an_ensemble_of_reward_models(folder: Path) -> None:
    overrides = [f"members.seed_{number}.model={folder}" for number in (1, 2, 3)]
    config = load_reward_config(REWARD_MODELS / "ensemble.yaml", overrides)
    output = score_checked(config.build(), items(2))[1]
    alone = scores_of(learned(folder), items(2))[1]
    assert output.score == pytest.approx(alone, abs=TOLERANCE)
    assert output.parts["seed_2"] == pytest.approx(alone, abs=TOLERANCE)
    assert output.parts["seed_3/truncated_tokens"] == 0
    assert output.parts["members_std"] == pytest.approx(0, abs=TOLERANCE)


def test_without_vllm_the_backend_says_so(folder: Path) -> None:
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(UserError, match="vLLM could not be started"):
            learned(folder, backend="vllm")
    else:
        pytest.skip("vLLM is installed")


@pytest.mark.slow
@pytest.mark.parametrize("pad", ["<|pad|>", "<|end|>"])
def test_vllm_gives_the_scores_of_transformers(tmp_path: Path, tiny_model_folder: Path, pad: str) -> None:
    pytest.importorskip("vllm", reason="needs vLLM")
    folder = write_reward_model(tmp_path, tiny_model_folder, pad=pad)
    long = items(2, "How many? " * 40)
    expected = score_checked(learned(folder), items() + long)
    reward = learned(folder, backend="vllm")
    outputs = score_checked(reward, items() + long)
    reward.close()
    assert [o.score for o in outputs] == pytest.approx([o.score for o in expected], abs=TOLERANCE)
    assert [o.parts for o in outputs] == [o.parts for o in expected]
