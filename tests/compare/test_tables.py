"""Tables of a comparison fit a terminal and say what is missing."""

from posttrain.compare.config import ComparisonConfig
from posttrain.compare.result import ComparisonResult, Failure, RunResult
from posttrain.compare.tables import arm_rows, difference_rows, markdown, terminal_text

ARMS = ("oreal", "an-arm-with-a-name-that-is-too-long-for-a-terminal", "positives-only")


def result(arms: tuple[str, ...] = ARMS, seeds: tuple[int, ...] = (1, 2, 3)) -> ComparisonResult:
    config = ComparisonConfig(
        job="job.yaml",
        seeds=list(seeds),
        budget={"kind": "training_tokens", "value": 1000},
        arms={arm: {} for arm in arms},
        expect=["oreal start <= 0.45", "oreal end > oreal end + 1"],
    )
    rows = [
        RunResult(arm, seed, 0.25, 0.75 + seed / 100 - index / 10, 50.0 * seed, 30.0, 1020.0, True, ())
        for index, arm in enumerate(arms)
        for seed in seeds
    ]
    return ComparisonResult(config, rows)


def test_terminal_tables_are_80_columns_wide() -> None:
    for seeds in ((1, 2, 3), (4,), tuple(range(10, 22))):
        text = terminal_text(result(seeds=seeds))
        assert max(len(line) for line in text.splitlines()) <= 80, text


def test_numbers() -> None:
    assert arm_rows(result())[1] == ["oreal", "0.250", "0.770", "0.010", "0.760 – 0.780", "+0.520", "2:10"]
    header, _, last = difference_rows(result())
    assert header == ["end − oreal", "mean", "std", "seed 1", "seed 2", "seed 3"]
    assert last == ["positives-only", "-0.200", "0.000", "-0.200", "-0.200", "-0.200"]


def test_one_seed_has_no_spread() -> None:
    assert arm_rows(result(seeds=(4,)))[1][3] == "–"


def test_missing_runs() -> None:
    partly = result()
    partly.rows = [row for row in partly.rows if row.arm != "positives-only" or row.seed == 2]
    partly.rows = [row for row in partly.rows if row.arm != ARMS[1]]
    partly.failures = [Failure(ARMS[1], seed, ["it stopped"]) for seed in (1, 2, 3)]
    assert arm_rows(partly)[2] == [ARMS[1], *["–"] * 6]
    assert difference_rows(partly)[2] == ["positives-only", "-0.200", "–", "–", "-0.200", "–"]
    assert f"FAILED: {ARMS[1]}, seed 3" in terminal_text(partly)
    assert not partly.passed


def test_remarks_and_command() -> None:
    text = markdown(result(), "posttrain compare x.yaml")
    assert "eval/accuracy · seeds 1, 2, 3 · 1000 training tokens a run" in text
    assert "- holds: oreal start <= 0.45 (0.250)" in text
    assert "- FAILS: oreal end > oreal end + 1 (difference 0.000)" in text
    assert "Made by `posttrain compare x.yaml`." in text
