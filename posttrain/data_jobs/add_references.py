"""Reference answers for the rows of a file, from endpoints or own engines, a column for each model."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from posttrain.data_jobs.answers import (
    Answer,
    Progress,
    answer_all,
    as_conversation,
    asked_of,
    endpoint_answers,
    engine_answers,
    engine_identity,
    read_answers,
)
from posttrain.data_jobs.config import AddReferencesConfig, ReferenceModelConfig
from posttrain.data_jobs.pool import Pool, reasons
from posttrain.report.formats import count, duration
from posttrain.rewards.judge.chat_endpoint import EndpointConfig
from posttrain.training.run_log import write_rows
from posttrain.types import Example

ROWS_FILE, FAILURES_FILE = "rows.jsonl", "failures.jsonl"
LETTERS_PER_TOKEN = 4  # of English in a vocabulary of 100,000 or more


def column(name: str) -> str:
    """Where the answers of a model go."""
    return f"ref_output_{name}"


def unanswered(pool: Pool, name: str) -> list[Example]:
    """The rows whose own column for the model is missing or blank."""
    return [each for each in pool.examples if not str(pool.values[each.id].get(column(name)) or "").strip()]


def estimate(config: AddReferencesConfig, pool: Pool) -> Iterator[str]:
    """A table of the calls to be made: their tokens, what they cost at the given prices, and how long they take by
    concurrency or rate limit, whichever is slower. The time of an own engine is not known."""
    yield f"{'model':<20} {'calls':>8} {'tokens in':>10} {'tokens out':>11} {'cost':>10} {'time':>10}"
    for name, model in config.models.items():
        done = read_answers(answers_file(config, name))
        conversations = [as_conversation(each) for each in unanswered(pool, name) if each.id not in done]
        calls, endpoint, time = len(conversations), model.answerer, "-"
        tokens_in = sum(len(each["content"]) for messages in conversations for each in messages) / LETTERS_PER_TOKEN
        tokens_out = calls * (model.expected_tokens or config.sampling.max_completion_tokens)
        cost = (tokens_in * model.input_price + tokens_out * model.output_price) / 1e6
        if isinstance(endpoint, EndpointConfig):
            by_rate = 60 * calls / endpoint.requests_per_minute if endpoint.requests_per_minute else 0.0
            time = duration(max(by_rate, calls * model.expected_seconds / endpoint.concurrency))
        yield f"{name:<20} {calls:>8,} {count(tokens_in):>10} {count(tokens_out):>11} {cost:>10,.2f} {time:>10}"


def add_references(
    config: AddReferencesConfig, pool: Pool, on_progress: Progress = lambda done, total: None
) -> tuple[list[str], list[str]]:
    """Ask for what is missing; return the summary and what failed.

    Writes ``rows.jsonl`` (the rows with a column for each model, null where there is no answer) and ``failures.jsonl``.
    Answers are kept in ``answers/NAME.jsonl`` as they come.

    Raises:
        JobError: the answers in the folder were given with other settings, or the key of an endpoint is not set.
    """
    folder, rows, failures = Path(config.output), {name: dict(row) for name, row in pool.values.items()}, list[Any]()
    summary, failed = list[str](), list[str]()
    for name, model in config.models.items():
        wanted = unanswered(pool, name)
        answers = answers_of(config, name, model, wanted, on_progress)
        for each in wanted:
            rows[each.id][column(name)] = answers[each.id].output if each.id in answers else None
        bad = [answer for answer in answers.values() if answer.error]
        failures += [{"model": name, "id": each.id, "error": each.error, "message": each.message} for each in bad]
        summary.append(f"{column(name)}: {len(rows) - len(wanted) + len(answers) - len(bad):,} of {len(rows):,} rows")
        if bad:
            kinds = reasons(Counter(str(answer.error) for answer in bad))
            failed.append(f"{name}: {len(bad):,} calls failed: {kinds}; the last: {bad[-1].message}")
        if len(answers) < len(wanted):
            left = len(wanted) - len(answers)
            failed.append(f"{name}: {left:,} rows were not asked after {model.stop_after_failures} failures in a row")
    write_rows(folder / ROWS_FILE, rows.values(), default=str)
    write_rows(folder / FAILURES_FILE, failures, default=str)
    job = f"JOB.yaml data.path={folder}/{ROWS_FILE} data.reference_columns=[{','.join(map(column, config.models))}]"
    summary.append(f"written   {folder}/{ROWS_FILE}, {FAILURES_FILE}")
    summary.append(f"next      posttrain data select-hard {job}")
    return summary, failed


def answers_of(
    config: AddReferencesConfig, name: str, model: ReferenceModelConfig, wanted: list[Example], on_progress: Progress
) -> dict[str, Answer]:
    """One model's answers, those of an earlier run among them; the address of an endpoint may change in between."""
    answerer, sampling, seed = model.answerer, config.sampling, config.seed
    ask: Any
    if isinstance(answerer, EndpointConfig):
        identity = answerer.model_dump(mode="json", include={"model", "extra"})
        stop_after = model.stop_after_failures
        ask = partial(endpoint_answers, answerer, sampling=sampling, seed=seed, stop_after=stop_after)
    else:
        identity = engine_identity(answerer.model, answerer.engine)
        build = partial(answerer.engine.build, answerer.model, seed)
        ask = partial(engine_answers, build, sampling=sampling, seed=seed)
    depends_on = identity | asked_of(wanted, sampling, seed)
    keep_failures = not isinstance(answerer, EndpointConfig)
    return answer_all(answers_file(config, name), depends_on, wanted, ask, on_progress, keep_failures)


def answers_file(config: AddReferencesConfig, name: str) -> Path:
    return Path(config.output) / "answers" / f"{name}.jsonl"
