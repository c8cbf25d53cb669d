"""The rows that a model does worst on: the right ones, the same ones after a kill, and nothing answered twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
from accelerate import Accelerator

from posttrain.config_file import load_config
from posttrain.data.chat import PromptEncoder
from posttrain.data_jobs.config import SelectHardConfig
from posttrain.data_jobs.select_hard import select_hard
from posttrain.errors import DataError, JobError
from posttrain.evaluation.held_out import answer_and_score
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.transformers_engine import TransformersEngine
from posttrain.tasks.file_task import RowsConfig
from posttrain.tasks.rewriting import RewritingConfig
from posttrain.types import Rollout

ROOT = Path(__file__).parents[2]
RESULTS = ("selected.jsonl", "scores.jsonl", "report.html")
TASK = RewritingConfig(train_size=24, eval_size=2)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def settings(tmp_path: Path, tiny_model_folder: Path) -> dict[str, Any]:
    """Of a small job."""
    return {
        "model": {"path": str(tiny_model_folder)},
        "data": TASK.model_dump(),
        "sampling": {"max_completion_tokens": 8},
        "size": 6,
        "output": str(tmp_path / "out"),
    }


def select(settings: dict[str, Any], **changes: Any) -> list[str]:
    return select_hard(SelectHardConfig.model_validate(settings | changes))


def test_the_lowest_scores_of_the_trainers_own_answers_are_kept(
    settings: dict[str, Any], tmp_path: Path, tiny_model_folder: Path
) -> None:
    summary = select(settings)
    config = SelectHardConfig.model_validate(settings)
    assert (config.sampling.temperature, config.sampling.top_p) == (0.7, 0.9)
    engine = TransformersEngineConfig().build(tiny_model_folder)
    groups = answer_and_score(
        Accelerator(cpu=True),
        engine,
        PromptEncoder(engine.tokenizer),
        TASK.build().train_examples(),
        BleuConfig().build(),
        sampling=config.sampling,
        n=1,
        seed=42,
    )
    own = {group.example.id: group.rollouts[0] for group in groups if group.rollouts[0].text.strip()}
    scored = {row["id"]: row for row in read(tmp_path / "out" / "scores.jsonl")}
    assert len(scored) == 24
    assert {name: row["score"] for name, row in scored.items() if row["problem"] is None} == {
        name: rollout.reward for name, rollout in own.items()
    }
    assert {name: scored[name]["output"] for name in own} == {name: rollout.text for name, rollout in own.items()}
    selected = read(tmp_path / "out" / "selected.jsonl")
    assert [row["score"] for row in selected] == sorted((r.reward or 0.0 for r in own.values()), reverse=True)[-6:]
    assert {row["id"] for row in selected} == {name for name, row in scored.items() if row["selected"]}
    assert all(len(line) <= 80 for line in summary if not line.startswith("next"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "■ pool" in page and "■ selected" in page


def test_the_rows_load_as_they_are(settings: dict[str, Any], tmp_path: Path) -> None:
    select(settings)
    file = str(tmp_path / "out" / "selected.jsonl")
    by_id = {example.id: example for example in TASK.build().train_examples()}
    for example in RowsConfig(path=file).build().train_examples():
        assert (example.prompt, example.references) == (by_id[example.id].prompt, by_id[example.id].references)
        assert example.metadata["instruction"] == by_id[example.id].metadata["instruction"]
        assert example.metadata.keys() >= {"score", "output"}
    table = datasets.load_dataset("json", data_files=file, split="train", cache_dir=str(tmp_path / "cache"))
    assert table.num_rows == 6
    assert {"id", "prompt", "references", "output", "score"} <= set(table.column_names)


def test_another_metric_or_selection_asks_nothing(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select(settings)
    monkeypatch.setattr(TransformersEngineConfig, "build", lambda *_: pytest.fail("the model was loaded"))
    hard = [row["id"] for row in read(tmp_path / "out" / "selected.jsonl")]
    engine = {"type": "transformers", "max_num_seqs": 3}
    select(settings, select="easy", size=9, metric={"type": "chrf"}, engine=engine)
    easy = read(tmp_path / "out" / "selected.jsonl")
    scored = [row["score"] for row in read(tmp_path / "out" / "scores.jsonl") if row["score"] is not None]
    assert [row["score"] for row in easy] == sorted(scored, reverse=True)[:9]
    select(settings)
    assert [row["id"] for row in read(tmp_path / "out" / "selected.jsonl")] == hard


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": {"max_completion_tokens": 8, "temperature": 1.0}}, r"sampling.temperature is 0.7 there and 1.0"),
        ({"seed": 1}, "seed is 42 there and 1 here"),
        ({"data": TASK.model_copy(update={"seed": 5}).model_dump()}, "prompts is "),
        ({"model": {"tiny": {"layers": 1}}}, "model is .* there and tiny here"),
    ],
)
def test_a_changed_setting_does_not_mix(settings: dict[str, Any], change: dict[str, Any], named: str) -> None:
    select(settings)
    with pytest.raises(JobError, match=f"made by other settings: .*{named}"):
        select(settings, **change)


def test_what_was_interrupted_ends_alike(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    select(settings, output=str(tmp_path / "whole"))
    finished = TransformersEngine.finished

    def interrupted(engine: TransformersEngine) -> Iterator[Rollout]:
        for number, rollout in enumerate(finished(engine)):
            if number == 7:
                raise KeyboardInterrupt
            yield rollout

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TransformersEngine, "finished", interrupted)
        select(settings, engine={"type": "transformers", "max_num_seqs": 4})
    answers = tmp_path / "out" / "answers.jsonl"
    assert len(read(answers)) == 7
    with answers.open("ab") as file:
        file.write(b'{"id": "pa')  # as a write that was cut off
    select(settings)
    assert len(read(answers)) == len({row["id"] for row in read(answers)}) == 24
    for name in RESULTS:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_rows_without_a_usable_answer_are_dropped(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": name, "prompt": name, "references": ["word word"]} for name in ("good", "blank", "copied")]
    rows += [{"id": "long", "prompt": "x" * 300, "references": ["r"]}, {"id": "in", "prompt": "r", "references": ["r"]}]
    file = tmp_path / "pool.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    finished = TransformersEngine.finished
    texts = iter(["good answer", " \n", "word word", "something"])

    def told(engine: TransformersEngine) -> Iterator[Rollout]:
        for rollout in sorted(finished(engine), key=lambda rollout: rollout.request_id):
            rollout.text = next(texts)
            yield rollout

    monkeypatch.setattr(TransformersEngine, "finished", told)
    data = {"type": "rows", "path": str(file)}
    with pytest.raises(DataError, match=r"size is 4, and only 3 rows can be used \(dropped: .*"):
        select(settings, data=data, size=4)
    summary = select(settings, data=data, size=1)
    assert summary[:2] == ["pool      5 rows", "dropped   2: no output 1, prompt too long 1"]
    assert "warning   1 references are part of their prompt" in summary
    assert "warning   1 answers are equal to a reference" in summary
    problems = {row["id"]: row["problem"] for row in read(tmp_path / "out" / "scores.jsonl")}
    assert problems == {"good": None, "blank": "no output", "copied": None, "long": "prompt too long", "in": None}


def test_random_rows_need_no_model(settings: dict[str, Any], tmp_path: Path) -> None:
    select(settings, select="random", model={"path": str(tmp_path / "absent")})
    selected = read(tmp_path / "out" / "selected.jsonl")
    assert len({row["id"] for row in selected}) == 6
    assert {(row["score"], row["output"]) for row in selected} == {(None, None)}
    assert len(read(tmp_path / "out" / "scores.jsonl")) == 24


def test_too_small_a_pool_is_refused_before_the_model_is_loaded(settings: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="size is 25, and only 24 rows can be used: lower it, or give more rows"):
        select(settings, size=25, model={"path": str(tmp_path / "absent")})


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "posttrain", "data", "select-hard", "job.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
def test_kill_9_then_the_same_command_gives_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("""\
model: {tiny: {hidden_size: 64, intermediate_size: 128, layers: 2, heads: 2, max_length: 128}}
engine: {type: transformers, max_num_seqs: 8}
data: {type: rewriting, train_size: 400}
sampling: {max_completion_tokens: 32}
size: 100
output: killed
""")
    answers, deadline = tmp_path / "killed" / "answers.jsonl", time.monotonic() + 120
    process = start(tmp_path)
    while not answers.exists() or answers.read_bytes().count(b"\n") < 20:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = answers.read_bytes()
    assert 20 <= kept.count(b"\n") < 400, "the kill must hit it at work"
    process = start(tmp_path)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert out.splitlines()[0] == "pool      400 rows"
    assert answers.read_bytes().startswith(kept[: kept.rfind(b"\n") + 1])
    assert len(read(answers)) == len({row["id"] for row in read(answers)}) == 400
    select_hard(load_config(SelectHardConfig, tmp_path / "job.yaml", [f"output={tmp_path}/whole"]))
    for name in RESULTS:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
