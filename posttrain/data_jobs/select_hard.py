"""BLEUBERI's training rows: those of a pool that the starting model answers worst (arXiv 2505.11080)."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

from posttrain.build import created_once
from posttrain.data.selection import select_by_score
from posttrain.data_jobs.answers import Answer, Progress, answer_all, asked_of, engine_answers, engine_identity
from posttrain.data_jobs.config import SelectHardConfig
from posttrain.data_jobs.pool import Pool, PoolConfig, read_pool, reasons
from posttrain.errors import DataError
from posttrain.report.histograms import histogram, score_figure
from posttrain.report.templates import write_page
from posttrain.rewards.checked import score_checked
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.reward import RewardInput
from posttrain.rewards.scoring.scoring import BATCH_ROWS
from posttrain.rollout.engine import RolloutEngine
from posttrain.trainers.references import leaks
from posttrain.training.run_log import write_rows
from posttrain.types import Example

ANSWERS_FILE, SELECTED_FILE, SCORES_FILE, PAGE_FILE = "answers.jsonl", "selected.jsonl", "scores.jsonl", "report.html"


def select_hard(config: SelectHardConfig, on_progress: Progress = lambda done, total: None) -> list[str]:
    """Answer, score and select; return the summary.

    Writes ``selected.jsonl`` (the rows with ``output`` and ``score``, the highest first), ``scores.jsonl`` (the whole
    pool) and ``report.html``. Answers are kept in ``answers.jsonl`` as they come.

    Raises:
        DataError: the data cannot be used, or fewer than ``config.size`` rows are left.
        JobError: the answers in the folder were given with other settings; the message says which.
        EngineError: the model cannot be loaded.
    """
    folder = Path(config.output)
    pool = read_pool(config.data) if isinstance(config.data, PoolConfig) else task_pool(config.data)
    check_size(config, len(pool.examples), pool.dropped)
    answers: dict[str, Answer] = {}
    scores, problems = dict.fromkeys((each.id for each in pool.examples), math.nan), dict[str, str]()
    if config.select != "random":
        answers = answers_to(pool.examples, config, on_progress)
        scores, problems = score_answers(config.metric, pool.examples, answers)
    dropped = pool.dropped + Counter(problems.values())
    check_size(config, len(scores), dropped)
    selected = dict.fromkeys(select_by_score(scores, config.select, config.size, config.seed))
    write_files(folder, pool, answers, scores, problems, selected)
    suspicious = {f"references are {what}": number for what, number in leaks(pool.examples).items()}
    copied = sum(answers[each.id].output in each.references for each in pool.examples if answers)
    suspicious["answers are equal to a reference"] = copied
    summary = summary_of(config, dropped, scores, selected, suspicious)
    if answers:
        write_report(folder / PAGE_FILE, summary, scores, selected)
    job = f'JOB.yaml "data={{type: rows, path: {folder}/{SELECTED_FILE}}}"'
    return [*summary, f"written   {folder}", f"next      posttrain train {job}"]


def task_pool(task: Any) -> Pool:
    """The training rows of a task."""
    examples = task.build().train_examples()
    complete = [example for example in examples if example.references]
    lacking = Counter({"no reference": len(examples) - len(complete)})
    return Pool(complete, {example.id: example.metadata for example in complete}, +lacking)


def check_size(config: SelectHardConfig, rows: int, dropped: Counter[str]) -> None:
    """Raises ``DataError`` where ``rows`` are too few."""
    if rows < config.size:
        why = f" (dropped: {reasons(dropped)})" if dropped else ""
        raise DataError(f"size is {config.size}, and only {rows} rows can be used{why}: lower it, or give more rows")


def answers_to(examples: Sequence[Example], config: SelectHardConfig, on_progress: Progress) -> dict[str, Answer]:
    """The model's answers, those of an earlier run among them."""
    folder, tiny = Path(config.output), config.model.tiny

    def engine() -> RolloutEngine:
        model = config.model.path if tiny is None else created_once(folder / "model-start", tiny)
        built: RolloutEngine = config.engine.build(model_path=model, seed=config.seed)
        return built

    identity = engine_identity(config.model.path or "tiny", config.engine) | {"tiny": tiny and tiny.model_dump()}
    depends_on = identity | asked_of(examples, config.sampling, config.seed)
    ask = partial(engine_answers, engine, sampling=config.sampling, seed=config.seed)
    return answer_all(folder / ANSWERS_FILE, depends_on, examples, ask, on_progress, keep_failures=True)


def score_answers(
    metric: BaseRewardConfig, examples: Sequence[Example], answers: Mapping[str, Answer]
) -> tuple[dict[str, float], dict[str, str]]:
    """Scores by id; for the rows that have none, why."""
    scores, problems, inputs = dict[str, float](), dict[str, str](), list[RewardInput]()
    for example in examples:
        answer = answers[example.id]
        if answer.output is not None and answer.output.strip():
            inputs.append(RewardInput(example, answer.output, answer.completion_ids, answer.finish_reason))
        else:
            problems[example.id] = "prompt too long" if answer.error else "no output"
    with closing(metric.build()) as reward:
        for start in range(0, len(inputs), BATCH_ROWS):
            batch = inputs[start : start + BATCH_ROWS]
            for item, output in zip(batch, score_checked(reward, batch), strict=True):
                if output.score is None:
                    problems[item.example.id] = f"not judged: {output.error}"
                else:
                    scores[item.example.id] = output.score
    return scores, problems


def summary_of(
    config: SelectHardConfig,
    dropped: Counter[str],
    scores: Mapping[str, float],
    selected: Iterable[str],
    suspicious: Mapping[str, int],
) -> list[str]:
    """What came of the pool, line by line."""
    lines = [f"pool      {len(scores) + dropped.total():,} rows"]
    lines += [f"dropped   {dropped.total():,}: {reasons(dropped)}"] if dropped else []
    for title, some in (("usable", list(scores.values())), ("selected", [scores[name] for name in selected])):
        spread = f", {min(some):.3f} to {max(some):.3f}, mean {mean(some):.3f}, median {median(some):.3f}"
        lines.append(f"{title:<9} {len(some):,} rows" + spread * (config.select != "random"))
    return [*lines, *(f"warning   {number:,} {what}" for what, number in suspicious.items() if number)]


def write_files(
    folder: Path,
    pool: Pool,
    answers: Mapping[str, Answer],
    scores: Mapping[str, float],
    problems: Mapping[str, str],
    selected: Mapping[str, None],
) -> None:
    """Write the rows; without answers, output and score are null."""
    found = {name: {"output": answer.output, "score": scores.get(name)} for name, answer in answers.items()}
    none = {"output": None, "score": None}
    by_id = {each.id: {"id": each.id, "prompt": each.prompt, "references": each.references} for each in pool.examples}
    chosen = (pool.values[name] | by_id[name] | found.get(name, none) for name in selected)
    write_rows(folder / SELECTED_FILE, chosen, default=str)
    told = (
        {"id": name, **found.get(name, none), "selected": name in selected, "problem": problems.get(name)}
        for name in by_id
    )
    write_rows(folder / SCORES_FILE, told, default=str)


def write_report(file: Path, summary: Sequence[str], scores: Mapping[str, float], selected: Iterable[str]) -> None:
    """Write ``report.html``: the summary, and where the selected rows lie among the scores."""
    pictured = histogram({"pool": [*scores.values()], "selected": [scores[name] for name in selected]})
    write_page(
        file,
        "select_hard.html",
        title="selected rows",
        kind="Selected rows",
        name="select-hard",
        facts=summary[0],
        figures=(),
        warnings=(),
        scores=score_figure(pictured, "of all scored rows"),
        summary="\n".join(summary),
    )
