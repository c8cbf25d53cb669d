"""A suite as tasks of lm-evaluation-harness: fields that it knows, the same prompts, our rewards as judges."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from posttrain.cli.main import app
from posttrain.errors import JobError
from posttrain.evaluation.lm_eval_tasks import export_tasks
from posttrain.evaluation.suite import SuiteConfig

# Fields of lm_eval.config.task.TaskConfig that are used, and what `generate_until` of its models takes.
TASK_FIELDS = {
    "task", "dataset_path", "dataset_kwargs", "test_split", "output_type", "doc_to_text", "doc_to_target",
    "generation_kwargs", "process_results", "metric_list",
}  # fmt: skip
GENERATION_FIELDS = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k"}


class Loader(yaml.SafeLoader):
    """Reads ``!function module.name`` as that text."""


Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


def suite(tmp_path: Path, **changes: Any) -> SuiteConfig:
    rows = [{"question": f"{n}+1?", "answer": f"so\n#### {n + 1}"} for n in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    gsm8k = {"task": {"type": "gsm8k", "path": str(tmp_path / "rows.jsonl")}, "limit": 2, **changes}
    sums = {
        "task": {"type": "arithmetic", "train_size": 1, "eval_size": 4},
        "sampling": {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "max_completion_tokens": 8},
    }
    return SuiteConfig.model_validate({"sets": {"gsm8k": gsm8k, "sums.one": sums}})


def test_the_yaml_is_a_generation_task(tmp_path: Path) -> None:
    commands = export_tasks(suite(tmp_path), tmp_path / "out")
    assert ["--apply_chat_template" in command for command in commands] == [True, False]
    greedy = yaml.load((tmp_path / "out" / "gsm8k.yaml").read_text(), Loader)
    drawn = yaml.load((tmp_path / "out" / "sums.one.yaml").read_text(), Loader)
    assert greedy.keys() == drawn.keys() == TASK_FIELDS
    assert greedy["generation_kwargs"] == {"until": [], "max_gen_toks": 1024, "do_sample": False, "temperature": 0.0}
    assert drawn["generation_kwargs"].keys() == GENERATION_FIELDS
    assert (drawn["generation_kwargs"]["top_p"], drawn["generation_kwargs"]["top_k"]) == (0.9, 20)
    assert (greedy["output_type"], greedy["doc_to_text"]) == ("generate_until", "prompt")
    assert drawn["process_results"] == "judges.judge_1"
    rows = Path(greedy["dataset_kwargs"]["data_files"]["test"]).read_text().splitlines()
    assert [json.loads(row)["prompt"].split("\n")[0] for row in rows] == ["0+1?", "1+1?"]  # the limit


def test_the_judges_are_our_rewards(tmp_path: Path) -> None:
    export_tasks(suite(tmp_path), tmp_path / "out")
    judges = runpy.run_path(str(tmp_path / "out" / "judges.py"))
    row = json.loads((tmp_path / "out" / "gsm8k.jsonl").read_text().splitlines()[1])
    assert judges["judge_0"](row, ["1 and 1 is\n#### 2"]) == {"score": 1.0}
    assert judges["judge_0"](row, ["#### 3"]) == {"score": 0.0}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollouts": 2, "sampling": {"temperature": 1.0}}, "rollouts above 1"),
        ({"sampling": {"stop_token_ids": [5]}}, "stop_token_ids"),
        ({"task": {"type": "environment", "environment": {"type": "vault"}, "eval_tasks": 1}}, "environment"),
        ({"task": {"type": "totals_preference"}, "reward": {"type": "bleu"}}, "preferences"),
    ],
)  # fmt: skip
def test_what_does_not_translate_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError, match=f"^sets.gsm8k: .*{words}"):
        export_tasks(suite(tmp_path, **changes), tmp_path / "out")


def test_a_system_message_is_refused(tmp_path: Path) -> None:
    task = {"type": "gsm8k", "path": str(tmp_path / "rows.jsonl"), "format": {"chat": True, "system": "Be brief."}}
    with pytest.raises(JobError, match=r"one user's message, and .* is another case"):
        export_tasks(suite(tmp_path, task=task), tmp_path / "out")


def test_the_command_writes_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text("sets: {sums: {task: {type: arithmetic, train_size: 1, eval_size: 4}}}\n")
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "suite.yaml"), "--export-lm-eval", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "--tasks posttrain_sums" in done.output and (tmp_path / "out" / "sums.yaml").is_file()
