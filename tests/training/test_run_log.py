"""The log of a run: what is written can be read, and a killed run's files can be gone on with."""

import json
import math
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from posttrain.training.run_log import (
    RunLog,
    logged_steps,
    read_metrics,
    read_rollouts,
    rollout_records,
    token_texts,
)
from posttrain.types import Example, Origin, Rollout, RolloutGroup, TrainingSample


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder)


def make_rollout(tokenizer: Any, text: str, index: int = 0) -> Rollout:
    ids = [*tokenizer.encode(text), tokenizer.eos_token_id]
    return Rollout(
        request_id="000003/000001",
        index=index,
        prompt_ids=tokenizer.encode("1 + 2 ="),
        completion_ids=ids,
        action_mask=[0] + [1] * (len(ids) - 1),
        logprobs=[0.0] + [-0.123456789] * (len(ids) - 1),
        finish_reason="stop",
        policy_version=3,
        text=text,
        reward=1.0,
        reward_parts={"math_answer": 1.0},
    )


def make_sample(rollout: Rollout, weight: float) -> TrainingSample:
    prompt = len(rollout.prompt_ids)
    completion = len(rollout.completion_ids)
    return TrainingSample(
        id=f"{rollout.request_id}/{rollout.index}",
        input_ids=rollout.prompt_ids + rollout.completion_ids,
        origin=[Origin.PROMPT] * prompt + [Origin.EXPERT] + [Origin.POLICY] * (completion - 1),
        trained=[0] * prompt + rollout.action_mask,
        token_weights=[0.0] * prompt + [weight * bit for bit in rollout.action_mask],
        behaviour_logprobs=[0.0] * prompt + rollout.logprobs,
        objective="clone",
    )


def write_steps(folder: Path, first: int, last: int, resume_step: int | None = None) -> None:
    with closing(RunLog(folder, resume_step)) as log:
        for step in range(first, last + 1):
            log.log_rollouts(step, [{"step": step, "rollouts": []}])
            log.log_metrics(step, {"reward/mean": step / 7})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_metrics_come_back_as_written(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path)) as log:
        log.log_metrics(0, {"eval/accuracy": 0.1})
        log.log_metrics(1, {"reward/mean": 1 / 3, "policy/loss": 2})
    assert read_metrics(tmp_path) == [
        {"step": 0, "eval/accuracy": 0.1},
        {"step": 1, "reward/mean": 1 / 3, "policy/loss": 2.0},
    ]


def test_a_number_that_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path)) as log:
        log.log_metrics(1, {"policy/loss": math.nan, "policy/kl": math.inf, "reward/mean": 1.0})
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "policy/loss": None, "policy/kl": None, "reward/mean": 1.0}
    values = read_metrics(tmp_path)[0]
    assert math.isnan(values["policy/loss"]) and math.isnan(values["policy/kl"]) and values["reward/mean"] == 1.0


def test_a_resumed_run_leaves_the_files_of_one_that_never_stopped(tmp_path: Path) -> None:
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    write_steps(whole, 1, 6)
    write_steps(resumed, 1, 4)
    write_steps(resumed, 4, 6, resume_step=3)
    assert contents(resumed) == contents(whole)
    assert logged_steps(resumed) == [1, 2, 3, 4, 5, 6]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-4])
    (tmp_path / "rollouts" / "step_000004.jsonl.zst.tmp").write_bytes(b"half")
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, 3, 3, resume_step=2)
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    assert logged_steps(tmp_path) == [1, 2, 3]
    assert not list(tmp_path.rglob("*.tmp"))


def test_without_a_checkpoint_nothing_is_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3)
    RunLog(tmp_path).close()
    assert read_metrics(tmp_path) == [] and logged_steps(tmp_path) == []


def test_records_hold_what_was_sampled_and_how_it_was_pushed(tmp_path: Path, tokenizer: Any) -> None:
    trained, untrained = make_rollout(tokenizer, "3 🙂"), make_rollout(tokenizer, "4", index=1)
    untrained.reward, untrained.error, untrained.error_message = None, "timeout", "took 10 s"
    group = RolloutGroup(Example(id="sum-1", prompt="1 + 2 =", answer="3", references=["three"]), [trained, untrained])
    records = rollout_records(3, [group], [make_sample(trained, 0.123456789)], tokenizer)
    with closing(RunLog(tmp_path)) as log:
        log.log_rollouts(3, records)

    record = read_rollouts(tmp_path, 3)[0]
    assert (record["step"], record["example_id"], record["prompt"], record["answer"]) == (3, "sum-1", "1 + 2 =", "3")
    assert record["references"] == ["three"]
    first, second = record["rollouts"]
    assert "".join(first["tokens"]) == "3 🙂" + tokenizer.eos_token
    assert len(first["tokens"]) == len(trained.completion_ids)
    assert first["weights"] == [0.0] + [0.123457] * (len(trained.completion_ids) - 1)
    assert first["logprobs"] == [0.0] + [-0.123457] * (len(trained.completion_ids) - 1)
    assert first["origin"][:2] == [Origin.EXPERT, Origin.POLICY]
    assert (first["kept"], first["objective"], first["reward"]) == (True, "clone", 1.0)
    assert first["reward_parts"] == {"math_answer": 1.0} and first["finish_reason"] == "stop"
    assert (second["kept"], second["weights"], second["reward"], second["error"]) == (False, [], None, "timeout")
    assert second["origin"][:2] == [Origin.EXPERT, Origin.POLICY]


def test_a_character_of_several_tokens_is_held_by_the_last(tokenizer: Any) -> None:
    ids = tokenizer.encode("é🙂!")
    assert token_texts(ids, tokenizer.decode, {}) == ["", "é", "", "", "", "🙂", "!"]
    assert token_texts(ids[:1], tokenizer.decode, {}) == ["\ufffd"]


def test_a_leading_space_belongs_to_its_token() -> None:
    words = {1: "▁the", 2: "▁cat", 3: "s"}

    def decode(ids: list[int]) -> str:
        return "".join(words[token] for token in ids).replace("▁", " ").removeprefix(" ")

    assert token_texts([1, 2, 3], decode, {}) == [" the", " cat", "s"]


def test_environment_names_versions_hardware_and_command(tmp_path: Path) -> None:
    with closing(RunLog(tmp_path)) as log:
        log.write_environment()
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"] and environment["cpu_cores"] >= 1 and environment["memory_gib"] > 0
    assert "pytest" in environment["command"] and environment["world_size"] == 1


def test_importing_the_log_imports_no_torch() -> None:
    code = "import sys, posttrain.training.run_log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
