"""What a run writes down as it goes: ``metrics.jsonl``, ``rollouts/step_*.jsonl.zst`` and ``environment.json``.

Everything is written so that a process killed at any moment leaves files that can be read and gone on with: a line of
metrics is one flushed write, a rollout file appears whole or not at all.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import zstandard

from posttrain.training.environment import describe_environment
from posttrain.types import Origin, Rollout, RolloutGroup, TrainingSample

METRICS_FILE = "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"
ROLLOUTS_FOLDER = "rollouts"
SIGNIFICANT_DIGITS = 6  # of logged weights and log-probs; float32 holds about seven


class RunLog:
    """The log of one run, written by one process.

    Args:
        folder: the run folder.
        resume_step: the step of the checkpoint that the run goes on from: what was logged after it is dropped, so that
            the files of a resumed run equal those of a run that never stopped. None: the run starts, nothing is kept.
    """

    def __init__(self, folder: str | Path, resume_step: int | None = None) -> None:
        self.folder = Path(folder)
        (self.folder / ROLLOUTS_FOLDER).mkdir(parents=True, exist_ok=True)
        self.truncate_after(-1 if resume_step is None else resume_step)
        self._metrics = (self.folder / METRICS_FILE).open("a", encoding="utf-8")

    def log_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line. JSON has no NaN or infinity: they are written as null."""
        line = {"step": step} | {name: _number(value) for name, value in metrics.items()}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        self._metrics.flush()

    def log_rollouts(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Write the rollouts of a step, one group a line (see ``rollout_records``)."""
        lines = "".join(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n" for record in records)
        # Text of a dataset may hold half of a surrogate pair, which UTF-8 cannot.
        content = zstandard.compress(lines.encode("utf-8", errors="replace"))
        replace_file(_rollouts_file(self.folder, step), content)

    def write_environment(self) -> None:
        """Write what the run ran on: versions, hardware, git revision, command line."""
        text = json.dumps(describe_environment(), indent=2) + "\n"
        replace_file(self.folder / ENVIRONMENT_FILE, text.encode())

    def truncate_after(self, step: int) -> None:
        """Drop the metrics and rollouts of later steps, and a last line that a killed process left unfinished."""
        metrics = self.folder / METRICS_FILE
        if metrics.is_file():
            kept = [line for line, values in _complete_lines(metrics) if values["step"] <= step]
            replace_file(metrics, b"".join(kept))
        for file in (self.folder / ROLLOUTS_FOLDER).iterdir():
            if file.suffix == ".tmp" or (file.name.startswith("step_") and _step_of(file) > step):
                file.unlink()

    def close(self) -> None:
        """Close ``metrics.jsonl``."""
        self._metrics.close()


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The metrics of a run, one dict a logged step in the order written; values that were not finite are NaN."""
    file = Path(folder) / METRICS_FILE
    return [
        {name: math.nan if value is None else value for name, value in values.items()}
        for _, values in _complete_lines(file)
    ]


def read_rollouts(folder: str | Path, step: int) -> list[dict[str, Any]]:
    """The records that ``log_rollouts`` wrote at ``step``.

    Raises:
        FileNotFoundError: no rollouts were logged at that step.
    """
    with zstandard.open(_rollouts_file(Path(folder), step), "rt", encoding="utf-8", newline="\n") as lines:
        return [json.loads(line) for line in lines]


def logged_steps(folder: str | Path) -> list[int]:
    """The steps whose rollouts were logged, ascending."""
    return sorted(_step_of(file) for file in (Path(folder) / ROLLOUTS_FOLDER).glob("step_*.jsonl.zst"))


def rollout_records(
    step: int, groups: Sequence[RolloutGroup], samples: Sequence[TrainingSample], tokenizer: Any
) -> list[dict[str, Any]]:
    """One record for each group: what was sampled, how it was judged, and how hard each token was pushed.

    A rollout that became no training sample has ``kept`` False and empty ``weights``. ``tokens`` joined give the
    completion with its special tokens; where a character is made of several tokens, the last one holds it.
    ``versions``, where several policies sampled a rollout, are these and how many tokens each, in order.
    """
    trained = {sample.id: sample for sample in samples}
    known: dict[int, str] = {}

    def texts(ids: Sequence[int]) -> list[str]:
        return token_texts(ids, lambda some: _decode(tokenizer, some), known)

    return [
        {
            "step": step,
            "example_id": group.example.id,
            "prompt": _decode(tokenizer, group.rollouts[0].prompt_ids) if group.rollouts else "",
            "answer": group.example.answer,
            "references": group.example.references,
            "rollouts": [
                _rollout_record(rollout, trained.get(f"{rollout.request_id}/{rollout.index}"), texts)
                for rollout in group.rollouts
            ],
        }
        for group in groups
    ]


def token_texts(ids: Sequence[int], decode: Callable[[list[int]], str], known: dict[int, str]) -> list[str]:
    """The text that each token adds. ``known`` remembers tokens between calls.

    A token is decoded twice in a row and the first taken off, since some tokenizers drop a leading space. Bytes that
    are no character alone are held until the tokens after them complete one.
    """
    texts, held = [], list[int]()
    for token in ids:
        if token not in known:
            known[token] = decode([token, token])[len(decode([token])) :]
        if not held and "\ufffd" not in known[token]:
            texts.append(known[token])
            continue
        held.append(token)
        text = decode(held)
        complete = not text.endswith("\ufffd") or len(held) == 4  # UTF-8 needs at most four bytes
        texts.append(text if complete else "")
        held = [] if complete else held
    if held:
        texts[-1] = decode(held)
    return texts


def _rollout_record(
    rollout: Rollout, sample: TrainingSample | None, texts: Callable[[Sequence[int]], list[str]]
) -> dict[str, Any]:
    start = len(rollout.prompt_ids)
    if sample is None:
        origin = [int(Origin.POLICY if sampled else rollout.given) for sampled in rollout.action_mask]
    else:
        origin = [int(who) for who in sample.origin[start:]]
    versions = [[version, len(list(tokens))] for version, tokens in groupby(rollout.versions)]
    return {
        "text": rollout.text,
        "tokens": texts(rollout.completion_ids),
        "weights": [] if sample is None else [_rounded(weight) for weight in sample.token_weights[start:]],
        "origin": origin,
        "logprobs": [_rounded(logprob) for logprob in rollout.logprobs],
        "reward": _number(rollout.reward),
        "reward_parts": {name: _number(value) for name, value in rollout.reward_parts.items()},
        "error": rollout.error,
        "error_message": rollout.error_message,
        "finish_reason": rollout.finish_reason,
        "objective": None if sample is None else sample.objective,
        "kept": sample is not None,
        **({"versions": versions} if len(versions) > 1 else {}),
    }


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None for NaN, infinity and no value."""
    return float(value) if value is not None and math.isfinite(value) else None


def _rounded(value: float) -> float | None:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}") if math.isfinite(value) else None


def _complete_lines(file: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a metrics file with their values; a torn last line is left out."""
    with file.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                yield line, json.loads(line)


def _rollouts_file(folder: Path, step: int) -> Path:
    return folder / ROLLOUTS_FOLDER / f"step_{step:06d}.jsonl.zst"


def _step_of(file: Path) -> int:
    return int(file.name.removeprefix("step_").partition(".")[0])


def replace_file(file: Path, content: bytes) -> None:
    """Write beside ``file``, then rename: a reader finds the old content or the new, never a part."""
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_bytes(content)
    os.replace(temporary, file)


def write_rows(file: Path, rows: Iterable[Mapping[str, Any]], default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON lines as ``replace_file`` does, into a folder that is made; ``default`` is that of ``json.dumps``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, "".join(json.dumps(row, default=default) + "\n" for row in rows).encode())
