"""Supervised fine-tuning: rows as they are at rollout time, loss on completions, repeatable, resumable."""

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError, Interrupted
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.sft import NOT_IN_LOSS, SFTTrainer, demonstration_rows, packed_batch
from posttrain.trainers.sft_config import SFTConfig
from posttrain.trainers.trl_session import Session, drawn_order, fewest_micro_batches
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import read_metrics
from posttrain.types import Example


class ParityReward:
    """The parity of the sum of the completion's tokens."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids) % 2)) for item in inputs]

    def close(self) -> None:
        pass


def examples(count: int = 24) -> list[Example]:
    return [
        Example(
            id=f"sum/{number}",
            prompt=[{"role": "user", "content": f"{number}+{number % 7}="}],
            demonstration=str(number + number % 7) + "." * (number % 3),
        )
        for number in range(count)
    ]


def make_trainer(model: Path, folder: Path, lora: bool = False, seed: int = 0, **config: object) -> SFTTrainer:
    settings = {"steps": 4, "batch_size": 8, "learning_rate": 1e-2} | config
    return SFTTrainer(
        model,
        SFTConfig(**settings),
        train_dataset=examples(),
        model_config=ModelConfig(path=str(model), lora=LoRAConfig(rank=4, alpha=8.0) if lora else None),
        run=RunConfig(folder=str(folder), seed=seed),
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def assert_equal_weights(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 0) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= tolerance, name


def test_rows_are_the_rollouts_prompt_the_demonstration_and_the_end(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    example = examples()[11]
    (row,) = demonstration_rows([example], tokenizer, max_length=64)
    prompt = PromptEncoder(tokenizer).prompt_ids(example)
    assert row["input_ids"] == prompt + tokenizer.encode("15..") + [tokenizer.eos_token_id]
    assert row["labels"] == [NOT_IN_LOSS] * len(prompt) + row["input_ids"][len(prompt) :]


def test_several_demonstrations_give_several_rows(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    example = Example(id="two", prompt="1+1=", demonstration=["2", "two"])
    assert [row["labels"][-4:-1] for row in demonstration_rows([example], tokenizer, 64)][1] == tokenizer.encode("two")


def test_bad_rows_are_named(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    with pytest.raises(DataError, match="'bare' has no demonstration"):
        demonstration_rows([Example(id="bare", prompt="1+1=")], tokenizer, 64)
    with pytest.raises(DataError, match=r"'long'.* 9 tokens, more than max_length 8"):
        demonstration_rows([Example(id="long", prompt="1+1=", demonstration="1234")], tokenizer, 8)
    with pytest.raises(DataError, match="no examples"):
        demonstration_rows([], tokenizer, 8)


def test_every_row_is_drawn_once_an_epoch() -> None:
    order = drawn_order(rows=10, count=25, seed=3)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
    assert order[:10] != order[10:20]
    assert order == drawn_order(10, 25, 3) != drawn_order(10, 25, 4)


@pytest.mark.parametrize(
    ("rows", "longest", "budget", "parts"), [(64, 100, 6400, 1), (64, 100, 6399, 2), (6, 10, 25, 3), (7, 9, 20, 7)]
)
def test_micro_batches_fit_the_budget(rows: int, longest: int, budget: int, parts: int) -> None:
    assert fewest_micro_batches(rows, longest, budget) == parts


def test_packed_batch_keeps_rows_apart(tiny_model_folder: Path) -> None:
    batch = packed_batch([{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}, {"input_ids": [8, 9], "labels": [-100, 9]}])
    assert batch["input_ids"].tolist() == [[8, 9, 5, 6, 7]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[NOT_IN_LOSS, 9, NOT_IN_LOSS, 6, 7]]
    assert batch["packed_runs"] == [(1, 2), (1, 3)]


def test_first_loss_is_the_mean_over_completion_tokens(tiny_model_folder: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tiny_model_folder, tmp_path, steps=1, tokens_per_micro_batch=40)
    expected, count = 0.0, 0
    for index in trainer.order:
        ids, labels = (torch.tensor(trainer.rows[index][key]) for key in ("input_ids", "labels"))
        model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
        with torch.no_grad():
            logprobs = model(ids[None]).logits[0, :-1].log_softmax(-1)
        chosen = labels[1:] != NOT_IN_LOSS
        expected -= logprobs[chosen].gather(1, labels[1:][chosen][:, None]).sum().item()
        count += int(chosen.sum())
    trainer.train()
    (line,) = read_metrics(tmp_path)
    assert line["policy/loss"] == pytest.approx(expected / count, rel=1e-5)
    assert line["batch/trained_tokens"] == count


def test_it_learns_and_leaves_a_model(
    tiny_model_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = make_trainer(tiny_model_folder, tmp_path, steps=150, batch_size=24, learning_rate=3e-3).train()
    first, last = (read_metrics(tmp_path)[place] for place in (0, -1))
    assert last["policy/loss"] < 0.3 * first["policy/loss"]
    assert last["sft/token_accuracy"] > 0.8
    tokenizer = AutoTokenizer.from_pretrained(summary.model_folder)
    model = AutoModelForCausalLM.from_pretrained(summary.model_folder)
    ids = torch.tensor([PromptEncoder(tokenizer).prompt_ids(examples()[11])])
    completion = model.generate(ids, max_new_tokens=8, do_sample=False)[0, ids.shape[1] :].tolist()
    assert completion == [*tokenizer.encode("15.."), tokenizer.eos_token_id]
    assert summary.report.is_file()
    output = capfd.readouterr()
    assert "sft 150/150" in output.out
    assert "{'loss'" not in output.out  # TRL's own lines


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_same_seed_same_model_however_the_batch_is_cut(tiny_model_folder: Path, tmp_path: Path, lora: bool) -> None:
    whole = make_trainer(tiny_model_folder, tmp_path / "whole", lora=lora).train()
    again = make_trainer(tiny_model_folder, tmp_path / "again", lora=lora).train()
    cut = make_trainer(tiny_model_folder, tmp_path / "cut", lora=lora, tokens_per_micro_batch=24).train()
    other = make_trainer(tiny_model_folder, tmp_path / "other", lora=lora, seed=1).train()
    assert_equal_weights(weights(again.model_folder), weights(whole.model_folder))
    # Adam divides by the gradient's size: rounding of a near-zero gradient moves a weight by up to the learning rate
    assert_equal_weights(weights(cut.model_folder), weights(whole.model_folder), tolerance=1e-3)
    with pytest.raises(AssertionError):
        assert_equal_weights(weights(other.model_folder), weights(whole.model_folder))
    with pytest.raises(AssertionError):
        assert_equal_weights(weights(whole.model_folder), weights(tiny_model_folder))


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process a SIGTERM while ``step`` runs."""
    begin = Session.on_step_begin

    def begin_and_stop(self: Session, args: object, state: object, control: object, **kwargs: object) -> None:
        begin(self, args, state, control, **kwargs)
        if state.global_step == step - 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Session, "on_step_begin", begin_and_stop)


def test_a_stopped_run_goes_on_bit_for_bit(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_trainer(tiny_model_folder, tmp_path / "whole", steps=6, save_every=2).train()
    with monkeypatch.context() as patch:
        stop_after(patch, step=3)
        with pytest.raises(Interrupted, match="after step 3"):
            make_trainer(tiny_model_folder, tmp_path / "parts", steps=6, save_every=2).train()
    assert sorted(path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()) == [
        "step_000002",
        "step_000003",
    ]
    parts = make_trainer(tiny_model_folder, tmp_path / "parts", steps=6, save_every=2).train(resume="auto")
    assert_equal_weights(weights(parts.model_folder), weights(whole.model_folder))
    timeless = [
        [{name: value for name, value in line.items() if "time" not in name and "speed" not in name} for line in lines]
        for lines in (read_metrics(tmp_path / "whole"), read_metrics(tmp_path / "parts"))
    ]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "parts" / "trl").exists()


def test_a_finished_run_is_not_run_again(tiny_model_folder: Path, tmp_path: Path) -> None:
    model = make_trainer(tiny_model_folder, tmp_path).train().model_folder
    written = (model / "model.safetensors").stat().st_mtime_ns
    assert make_trainer(tiny_model_folder, tmp_path).train(resume="auto").model_folder == model
    assert (model / "model.safetensors").stat().st_mtime_ns == written


def test_held_out_prompts_are_graded_as_in_the_methods_that_sample(tiny_model_folder: Path, tmp_path: Path) -> None:
    held_out = [Example(id=f"e{n}", prompt=f"{n}=", answer=str(n)) for n in range(6)]
    config = SFTConfig(
        steps=2, batch_size=8, learning_rate=1e-2, eval_rollouts=4, sampling={"max_completion_tokens": 3}
    )
    trainer = SFTTrainer(
        tiny_model_folder,
        config,
        train_dataset=[Example(id=f"d{n}", prompt=f"{n}=", demonstration=str(n)) for n in range(10)],
        eval_dataset=held_out,
        grader=ParityReward(),
        run=RunConfig(folder=str(tmp_path / "sft")),
    )
    summary = trainer.train()
    for model, measured in ((tiny_model_folder, summary.first), (summary.model_folder, summary.last)):
        grpo = GRPOTrainer(
            model,
            GRPOConfig(prompts_per_step=1, eval_rollouts=4, sampling=config.sampling),
            reward=ParityReward(),
            train_dataset=held_out,
            eval_dataset=held_out,
            run=RunConfig(folder=str(tmp_path / "grpo")),
        )
        expected = grpo.evaluate()
        assert {name: measured[name] for name in expected} == expected
    assert summary.first["eval/accuracy"] != summary.last["eval/accuracy"]


def test_rows_without_demonstration_may_be_left_out(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    bare = Example(id="bare", prompt="1=")
    assert len(demonstration_rows([*examples(3), bare], tokenizer, 64, only_demonstrated=True)) == 3
    with pytest.raises(DataError, match="there are no examples"):
        demonstration_rows([bare], tokenizer, 64, only_demonstrated=True)


def test_the_metrics_are_json_numbers(tiny_model_folder: Path, tmp_path: Path) -> None:
    make_trainer(tiny_model_folder, tmp_path, steps=2).train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(isinstance(value, float) for line in lines for name, value in line.items() if name != "step")
