"""A suite from prompts to numbers: those of training, the same after a kill, and two models told apart."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from posttrain.build import run_job
from posttrain.data.tiny_model import TinyModelConfig, create_tiny_model
from posttrain.errors import DataError, JobError, UserError
from posttrain.evaluation.comparison import compare_results
from posttrain.evaluation.run_suite import run_suite
from posttrain.evaluation.suite import SuiteConfig, model_folder
from posttrain.evaluation.summary import vote_of
from posttrain.job import load_job
from posttrain.report.evaluation import aligned, comparison_rows, estimate_rows, write_evaluation
from posttrain.rollout.config import TransformersEngineConfig

ROOT = Path(__file__).parents[2]
ADDITIONS = {"type": "arithmetic", "train_size": 1, "eval_size": 12}
SAMPLED = {"temperature": 1.0, "max_completion_tokens": 6}


def suite(**sets: Any) -> SuiteConfig:
    return SuiteConfig.model_validate({"sets": sets})


def rows_file(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_an_offline_score_is_the_score_in_the_loop(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(f"""\
method: grpo
model: {{tiny: {{hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 64}}}}
data: {{type: arithmetic, max_operand: 9, terms: 3, train_size: 40, eval_size: 24}}
reward: {{type: format, pattern: '^[0-9]'}}
trainer:
  steps: 2
  prompts_per_step: 4
  rollouts_per_prompt: 4
  learning_rate: 0.003
  tokens_per_micro_batch: 512
  eval_every: 1
  eval_rollouts: 3
  sampling: {{temperature: 0.9, max_completion_tokens: 8}}
run: {{folder: {tmp_path}/run, seed: 5}}
""")
    job = load_job(tmp_path / "job.yaml")
    last = run_job(job).last
    config = {"task": job.data, "sampling": job.trainer.sampling, "rollouts": 3, "reward": {"type": "exact_integer"}}
    offline = SuiteConfig.model_validate({"sets": {"additions": config}, "seed": 5})
    result, _ = run_suite(offline, model_folder(f"{tmp_path}/run"), tmp_path / "out")
    assert last and result["sets"]["additions"]["metrics"] == last
    assert result["sets"]["additions"]["estimates"]["mean@3"]["value"] == pytest.approx(last["eval/accuracy"])


def test_repeated_answers_categories_and_contamination(tmp_path: Path, tiny_model_folder: Path) -> None:
    task = ADDITIONS | {"max_operand": 9}
    reward = {"type": "regex_match", "pattern": "[0-4]"}
    config = {"task": task, "reward": reward, "sampling": SAMPLED, "rollouts": 4, "vote": "text", "category": "carries"}
    trained = tmp_path / "train.jsonl"
    first = suite(a=config).sets["a"].task.build().eval_examples()[0]
    trained.write_text(json.dumps({"text": f"we know that {first.prompt} 3"}) + "\n")
    contamination = {"path": str(trained)}
    asked = SuiteConfig.model_validate({"sets": {"a": config}, "contamination": contamination})
    result, groups = run_suite(asked, str(tiny_model_folder), tmp_path / "out")
    found = result["sets"]["a"]
    solved = [sum(score > 0.5 for score in own) for own in found["scores"].values()]
    assert 0 < sum(solved) < 48, "the test needs right and wrong answers"
    estimates = found["estimates"]
    assert set(estimates) == {
        "mean@4", "pass@1", "pass@2", "pass@4", "maj@2", "maj@4", "mean, uncontaminated",
    }  # fmt: skip
    assert estimates["pass@1"]["value"] == estimates["mean@4"]["value"] == pytest.approx(sum(solved) / 48)
    assert estimates["pass@4"]["value"] == pytest.approx(sum(map(bool, solved)) / 12)
    assert found["metrics"]["eval/pass_at_k"] == pytest.approx(estimates["pass@4"]["value"])
    assert sum(own["prompts"] for own in found["categories"].values()) == found["prompts"] == 12
    assert first.id in found["contaminated"]
    clean = [own for name, own in found["scores"].items() if name not in found["contaminated"]]
    assert estimates["mean, uncontaminated"]["value"] == pytest.approx(sum(map(sum, clean)) / 4 / len(clean))
    page = write_evaluation(result, groups, tmp_path / "out", "<suite>").read_text()
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert "&lt;suite&gt;" in page and "category" in page
    assert json.loads((tmp_path / "out" / "result.json").read_text())["sets"] == result["sets"]
    assert all(len(line) <= 80 for line in aligned(estimate_rows(result)).splitlines())


def test_answers_are_kept_judged_anew_and_not_mixed(
    tmp_path: Path, tiny_model_folder: Path, tiny_model_config: TinyModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"task": ADDITIONS, "sampling": SAMPLED}
    model, out = str(tiny_model_folder), tmp_path / "out"
    first, _ = run_suite(suite(a=config), model, out)
    answers = (out / "answers.jsonl").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(TransformersEngineConfig, "build", lambda *_: pytest.fail("the model was loaded"))
        again, _ = run_suite(suite(a=config, b=config), model, out)
        assert again["sets"]["a"] == again["sets"]["b"] == first["sets"]["a"], "equal requests are answered once"
        anything = {"type": "regex_match", "pattern": ".*"}
        other, _ = run_suite(suite(a=config | {"reward": anything}), model, out)
        assert other["sets"]["a"]["estimates"]["mean@1"]["value"] == 1.0
    assert (out / "answers.jsonl").read_bytes() == answers
    longer = {**SAMPLED, "max_completion_tokens": 7}
    run_suite(suite(a=config | {"sampling": longer}), model, out)
    assert len((out / "answers.jsonl").read_bytes().splitlines()) == 24
    second = create_tiny_model(tmp_path / "second", tiny_model_config.model_copy(update={"seed": 1}))
    with pytest.raises(JobError, match=r"sets.a: the rows of .*answers.jsonl were made by another model or engine"):
        run_suite(suite(a=config), str(second), out)


def test_environments_report_what_agents_do(tmp_path: Path, tiny_model_config: TinyModelConfig) -> None:
    task = {"type": "environment", "environment": {"type": "vault", "locks": 1, "signs": 2, "max_steps": 3}}
    task |= {"eval_tasks": 3, "max_turn_tokens": 4, "format": {"chat": True}}
    config = {"task": task, "sampling": {"temperature": 1.0, "max_completion_tokens": 48}}
    model = create_tiny_model(tmp_path / "model", tiny_model_config.model_copy(update={"max_length": 1024}))
    result, _ = run_suite(suite(vault=config), str(model), tmp_path / "out")
    found = result["sets"]["vault"]
    assert found["prompts"] == len(found["scores"]) == 3, "those after a mistake count as recovery alone"
    assert {"success", "recovery", "loops", "mean@1"} <= set(found["estimates"])
    assert found["metrics"]["eval/steps"] >= 1
    assert len((tmp_path / "out" / "answers.jsonl").read_bytes().splitlines()) == 6


def test_preferences_need_no_model(tmp_path: Path) -> None:
    pairs = [
        {"prompt": "a", "chosen": "yes 1", "rejected": "no", "subset": "x"},
        {"prompt": "b", "chosen": "no", "rejected": "yes 1", "subset": "x"},
        {"prompt": "c", "chosen": "yes 1", "rejected": "so 1", "subset": "y"},
        {"prompt": "d", "candidates": ["no 1", "no", "or 2", "if"], "subset": "y"},
    ]
    task = {"type": "preference", "path": rows_file(tmp_path, *pairs)}
    reward = {"type": "regex_match", "pattern": "[0-9]"}
    asked = suite(pairs={"task": task, "reward": reward, "category": "subset"})
    found = run_suite(asked, None, tmp_path / "out")[0]["sets"]["pairs"]
    assert found["scores"] == {"rows:1": [1.0], "rows:2": [0.0], "rows:3": [0.5], "rows:4": [pytest.approx(2.5 / 3)]}
    assert found["categories"]["x"]["value"] == 0.5
    assert not (tmp_path / "out").exists()


def test_wins_are_also_told_at_equal_length(tmp_path: Path, tiny_model_folder: Path) -> None:
    rows = [{"prompt": f"say {number}", "references": ["x" * number]} for number in range(1, 9)]
    task = {"type": "rows", "path": rows_file(tmp_path, *rows)}
    reward = {"type": "regex_match", "pattern": "[a-m]"}
    config = {"task": task, "reward": reward, "sampling": SAMPLED, "length_control": True}
    result, groups = run_suite(suite(judged=config), str(tiny_model_folder), tmp_path / "out")
    wins = [group.rollouts[0].reward for group in groups["judged"]]
    assert set(wins) == {0.0, 1.0}
    found = result["sets"]["judged"]["estimates"]["win rate at equal length"]
    assert 0 < found["low"] < found["value"] < found["high"] < 1


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task": {"type": "rows", "path": "absent.jsonl"}}, "sets.a: there is no data file 'absent.jsonl'"),
        ({"task": {"type": "rows", "path": "FILE"}}, "sets.a: reward: the task has no judgement of its own"),
        (
            {"task": {"type": "rows", "path": "FILE", "columns": {"prompt": "question"}}},
            r"sets.a: .*rows.jsonl has no column 'question', which columns.prompt names",
        ),
        ({"task": {"type": "rows", "path": "EMPTY"}}, "sets.a: .*empty.jsonl is empty: it has no rows"),
        (
            {"task": {"type": "environment", "environment": {"type": "vault"}, "eval_tasks": 0}},
            "sets.a: task: the set is empty",
        ),
        ({"task": ADDITIONS, "category": "subject"}, r"sets.a: category: the row 'eval:.*' has no column 'subject'"),
        (
            {
                "task": {"type": "rows", "path": "FILE"},
                "reward": {"type": "regex_match", "pattern": "e"},
                "length_control": True,
            },
            r"sets.a: length_control: the row '.*' has no reference",
        ),
        ({"task": ADDITIONS}, "sets.a: name the model that answers: --model"),
    ],
)
def test_sets_that_cannot_be_had(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    places = {"FILE": rows_file(tmp_path, {"prompt": "p"}), "EMPTY": str(tmp_path / "empty.jsonl")}
    task = dict(config["task"])
    task |= {"path": places.get(task["path"], task["path"])} if "path" in task else {}
    with pytest.raises(UserError, match=message):
        run_suite(suite(a=config | {"task": task}), None, tmp_path / "out")


def test_a_prompt_that_is_too_long_is_told(tmp_path: Path, tiny_model_folder: Path) -> None:
    config = {"task": ADDITIONS, "sampling": {"max_completion_tokens": 253}}
    with pytest.raises(DataError, match=r"sets.a: the prompt of example 'eval:.*' has \d tokens, more than the 3 that"):
        run_suite(suite(a=config), str(tiny_model_folder), tmp_path / "out")


def test_votes() -> None:
    assert vote_of("math", r"so \boxed{1,200}") == vote_of("math", "The answer is 1200.") != vote_of("math", "12")
    assert vote_of("letter", "The answer is (b).") == "B"
    assert vote_of("text", " so \n") == "so"
    assert vote_of("math", "<think>7") is vote_of("letter", "none of it") is None


def test_two_models_are_compared_prompt_by_prompt(tmp_path: Path, tiny_model_folder: Path) -> None:
    reward = {"type": "regex_match", "pattern": "[0-4]"}
    config = {"task": ADDITIONS, "reward": reward, "sampling": SAMPLED, "rollouts": 4}
    result, groups = run_suite(suite(a=config), str(tiny_model_folder), tmp_path / "a")
    write_evaluation(result, groups, tmp_path / "a", "suite")
    means = {name: sum(own) / 4 for name, own in result["sets"]["a"]["scores"].items()}
    better = json.loads((tmp_path / "a" / "result.json").read_text())
    better["sets"]["a"]["scores"] = {name: [1.0] * 4 for name in means}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "result.json").write_text(json.dumps(better))
    found = compare_results(tmp_path / "a", tmp_path / "b")["a"]
    improved = sum(mean < 1 for mean in means.values())
    assert (found["better"], found["worse"], found["prompts"]) == (improved, 0, 12)
    assert found["difference"]["value"] == pytest.approx(1 - sum(means.values()) / 12)
    assert found["p"] == pytest.approx(2 / 2**improved), "all to one side: only two of all sign flips are as extreme"
    header, row = comparison_rows({"a": found})
    assert len(header) == len(row) and row[-1] == f"{found['p']:.2g}"
    better["suite"]["sets"]["a"]["rollouts"] = 2
    (tmp_path / "b" / "result.json").write_text(json.dumps(better))
    with pytest.raises(JobError, match=r"different suites: sets.a.rollouts is 4 there and 2 here"):
        compare_results(tmp_path / "a", tmp_path / "b")
    with pytest.raises(JobError, match="holds no result of posttrain eval"):
        compare_results(tmp_path / "a", tmp_path)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "posttrain", "eval", "suite.yaml", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_kill_9_then_the_same_command_gives_the_same_result(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("""\
model: {tiny: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 64}}
engine: {type: transformers, max_num_seqs: 8}
sets:
  additions:
    task: {type: arithmetic, train_size: 1, eval_size: 80}
    sampling: {temperature: 1.0, max_completion_tokens: 24}
    rollouts: 2
""")
    answers, deadline = tmp_path / "killed" / "answers.jsonl", time.monotonic() + 200
    process = start(tmp_path, "--output", "killed")
    while not answers.exists() or answers.read_bytes().count(b"\n") < 10:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = answers.read_bytes()
    assert 10 <= kept.count(b"\n") < 80, "the kill must hit it at work"
    answers.write_bytes(kept[: kept.rfind(b"\n") + 1] + b'{"key": "ab')  # as a write that was cut off
    process = start(tmp_path, "--output", "killed")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.splitlines()[-1] == "killed/report.html"
    rows = list(map(json.loads, answers.read_bytes().splitlines()))
    assert answers.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert len(rows) == len({row["key"] for row in rows}) == 80
    asked = SuiteConfig.model_validate(json.loads((tmp_path / "killed" / "result.json").read_text())["suite"])
    whole, _ = run_suite(asked, str(tmp_path / "killed" / "model-start"), tmp_path / "whole")
    assert json.loads((tmp_path / "killed" / "result.json").read_text())["sets"] == whole["sets"]
