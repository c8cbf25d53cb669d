"""Files of completions in, files of scores out."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError, JobError
from posttrain.rewards.penalties import OverlongReward
from posttrain.rewards.references.reference import ExactMatchConfig
from posttrain.rewards.rescaling import NormaliseConfig
from posttrain.rewards.scoring.scoring import LARGEST_GROUP, groups, read_score_rows, score_file

ROOT = Path(__file__).parents[3]
MATCH = ExactMatchConfig()
SLOW_REWARD = '''\
import time

from posttrain.rewards.reward import RewardOutput


class Slow:
    """Writes down whom it scores; keeps nothing."""

    def score(self, inputs):
        with open("scored.log", "a") as log:
            log.writelines(f"{item.example.id}\\n" for item in inputs)
        time.sleep(0.02)
        return [RewardOutput(float(len(item.completion)), token_scores=[0.5, float("nan")]) for item in inputs]

    def close(self):
        pass
'''


def write(file: Path, rows: list[Any]) -> Path:
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def row(number: int, prompt: str | None = None, completion: str = "yes", **further: Any) -> dict[str, Any]:
    values = {"id": f"r{number}", "prompt": prompt or f"p{number}", "completion": completion, "references": ["yes"]}
    return values | further


def test_rows_keep_their_order_and_a_malformed_one_says_where_it_is(tmp_path: Path) -> None:
    rows = [
        row(1),
        "",
        row(3, completion="no"),
        "{not json",
        "[1]",
        row(6, completion=6),  # type: ignore[arg-type]
        {"prompt": [{"role": "user", "content": "?"}], "completion": "yes", "references": ["yes"]},
        row(8, references=[]),
    ]
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    scores = score_file(MATCH, source, output)
    written = read(output)
    assert [each["id"] for each in written] == ["r1", "r3", 4, 5, "r6", 7, "r8"]
    assert [each["score"] for each in written] == [1.0, 0.0, None, None, None, 1.0, None]
    assert [each["error"] for each in written[2:5]] == ["invalid_input"] * 3
    assert f"{source}, line 4 is not JSON" in written[2]["message"]
    assert f"{source}, line 6: completion" in written[4]["message"]
    assert written[0].keys() == {"id", "score", "parts", "error"}
    assert (scores.rows, scores.errors) == (7, Counter(invalid_input=4))


def test_a_compressed_input_with_a_byte_order_mark(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl.gz"
    source.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(row(1)).encode()))
    assert score_file(MATCH, source, tmp_path / "out.jsonl").errors == {}
    source.write_bytes(source.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"cannot read .*in\.jsonl\.gz"):
        score_file(MATCH, source, tmp_path / "other.jsonl")


def test_neighbours_of_one_prompt_are_a_group_wherever_batches_end(tmp_path: Path) -> None:
    rows = [row(n, f"p{n // 4}", completion="x" * (n % 4 + 1)) for n in range(40)]
    reward = NormaliseConfig(reward=OverlongReward(max_completion_tokens=100, buffer_tokens=99), method="min_max")
    for each in rows:
        each["completion_ids"] = list(range(len(each["completion"]) + 1))
    source = write(tmp_path / "in.jsonl", rows)
    for batch_rows in (1, 7, 256):
        output = tmp_path / f"{batch_rows}.jsonl"
        score_file(reward, source, output, batch_rows)
        scores = [each["score"] for each in read(output)]
        assert scores == pytest.approx([1, 2 / 3, 1 / 3, 0] * 10)


def test_a_cut_group_is_scored_whole_again_and_only_the_missing_rows_are_added(tmp_path: Path) -> None:
    rows = [row(n, "p", completion="x", completion_ids=list(range(n + 1))) for n in range(4)]
    reward = NormaliseConfig(reward=OverlongReward(max_completion_tokens=100, buffer_tokens=99), method="min_max")
    source, output = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    score_file(reward, source, output)
    whole = output.read_bytes()
    for cut in range(1, len(whole)):
        output.write_bytes(whole[:cut])
        scores = score_file(reward, source, output)
        assert output.read_bytes() == whole
        assert (scores.rows, scores.resumed) == (4, whole[:cut].count(b"\n"))


def test_groups_have_a_largest_size_and_a_malformed_row_does_not_end_one(tmp_path: Path) -> None:
    rows: list[Any] = [row(n, "p") for n in range(LARGEST_GROUP + 1)] + ["bad", row(0, "p"), row(1, "q")]
    source = write(tmp_path / "in.jsonl", rows)
    with source.open("rb") as file:
        assert [len(group) for group in groups(read_score_rows(file, source))] == [LARGEST_GROUP, 3, 1]


def test_an_existing_output_must_be_of_this_input_and_this_reward(tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", [row(n) for n in range(5)]), tmp_path / "out.jsonl"
    score_file(MATCH, source, output)
    before = output.read_bytes()
    with pytest.raises(JobError, match="another reward"):
        score_file(ExactMatchConfig(on_error="score", error_score=0.0), source, output)
    for other, problem in (([row(n) for n in (0, 1, 3)], "'r2' in line 3"), ([row(0)], "more rows")):
        with pytest.raises(DataError, match=problem):
            score_file(MATCH, write(tmp_path / "other.jsonl", other), output)
    (tmp_path / "out.jsonl.meta.json").unlink()
    with pytest.raises(DataError, match=r"out\.jsonl\.meta\.json is not beside it"):
        score_file(MATCH, source, output)
    with pytest.raises(DataError, match="the input as well"):
        score_file(MATCH, source, source)
    with pytest.raises(DataError, match="cannot read"):
        score_file(MATCH, tmp_path / "absent.jsonl", output)
    assert output.read_bytes() == before


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        source = tmp_path / f"{rows}.jsonl"
        with source.open("w") as file:
            file.writelines(json.dumps(row(n, completion="y" * 1000)) + "\n" for n in range(rows))
        tracemalloc.start()
        score_file(MATCH, source, tmp_path / f"{rows}.out")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(300)  # what is imported and cached once
    small, large = peak(2_000), peak(16_000)
    assert large < small + 1_000_000  # the further rows are 14 MB of completions


def start(folder: Path, *further: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "posttrain", "score", "slow.yaml", "--input", "in.jsonl", "--output", "out.jsonl"]
    return subprocess.Popen(
        [*command, *further], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_kill_9_loses_no_row_and_scores_none_again_that_was_written(tmp_path: Path) -> None:
    (tmp_path / "slow_reward.py").write_text(SLOW_REWARD)
    (tmp_path / "slow.yaml").write_text("reward: {type: 'slow_reward:Slow'}\n")
    write(tmp_path / "in.jsonl", [row(n) for n in range(600)])
    output, log = tmp_path / "out.jsonl", tmp_path / "scored.log"
    process = start(tmp_path, "--batch-rows", "10")
    while not output.exists() or output.read_bytes().count(b"\n") < 100:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # on a busy machine it would be done before the second has started
    second = start(tmp_path)
    assert second.wait() == 2
    assert "being written by another process" in second.communicate()[1]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = [each["id"] for each in (json.loads(line) for line in output.read_bytes().split(b"\n")[:-1])]
    assert 100 <= len(kept) < 600
    with output.open("ab") as file:
        file.write(b'{"id": "r')  # as a write that was cut off
    process = start(tmp_path)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert f"{len(kept):,} of them from before" in out
    assert [each["id"] for each in read(output)] == [f"r{n}" for n in range(600)]
    assert read(output)[0]["token_scores"] == [0.5, None]
    times = Counter(log.read_text().split())
    assert all(times[each] == 1 for each in kept)
    assert sum(times.values()) <= 610  # what was in flight


def test_failed_rows_are_counted_in_the_exit_status_also_when_they_are_from_before(tmp_path: Path) -> None:
    (tmp_path / "slow_reward.py").write_text(SLOW_REWARD)
    (tmp_path / "slow.yaml").write_text("reward: {type: 'slow_reward:Slow'}\n")
    write(tmp_path / "in.jsonl", [row(1), "oops"])
    for _ in range(2):
        process = start(tmp_path)
        _, err = process.communicate()
        assert (process.returncode, err) == (1, "1 rows failed: invalid_input 1\n")
