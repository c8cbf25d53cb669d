"""Tables of a comparison fit a terminal and say what is missing."""

import pytest

from posttrain.compare.config import ComparisonConfig
from posttrain.compare.result import ComparisonResult, Failure, RunResult
from posttrain.compare.tables import arm_rows, difference_rows, markdown, terminal_text
from posttrain.evaluation.metrics import sign_flip_p

ARMS = ("oreal", "an-arm-with-a-name-that-is-too-long-for-a-terminal", "positives-only")


def curves_of(seed: int, index: int) -> dict[str, tuple[tuple[float, float], ...]]:
    """The first arm alone logs a second metric."""
    accuracy = ((0.0, 0.25), (1020.0, 0.75 + seed / 100 - index / 10))
    return {"eval/accuracy": accuracy} | ({"eval/length": ((0.0, 9.0), (1020.0, 4.0))} if index == 0 else {})


def result(arms: tuple[str, ...] = ARMS, seeds: tuple[int, ...] = (1, 2, 3)) -> ComparisonResult:
    config = ComparisonConfig(
        job="job.yaml",
        seeds=list(seeds),
        budget={"kind": "training_tokens", "value": 1000},
        arms={arm: {} for arm in arms},
        expect=["oreal start <= 0.45", "oreal end > oreal end + 1"],
    )
    rows = [
        RunResult(arm, seed, "eval/accuracy", 50.0 * seed, 30.0, 1020.0, True, curves_of(seed, index))
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
    assert header == ["end − oreal", "mean", "std", "p", "seed 1", "seed 2", "seed 3"]
    assert last == ["positives-only", "-0.200", "0.000", "0.25", "-0.200", "-0.200", "-0.200"]


def test_one_seed_has_no_spread() -> None:
    assert arm_rows(result(seeds=(4,)))[1][3] == "–"


def test_missing_runs() -> None:
    partly = result()
    partly.rows = [row for row in partly.rows if row.arm != "positives-only" or row.seed == 2]
    partly.rows = [row for row in partly.rows if row.arm != ARMS[1]]
    partly.failures = [Failure(ARMS[1], seed, ["it stopped"]) for seed in (1, 2, 3)]
    assert arm_rows(partly)[2] == [ARMS[1], *["–"] * 6]
    assert difference_rows(partly)[2] == ["positives-only", "-0.200", "–", "–", "–", "-0.200", "–"]
    assert f"FAILED: {ARMS[1]}, seed 3" in terminal_text(partly)
    assert not partly.passed


def test_remarks_and_command() -> None:
    text = markdown(result(), "posttrain compare x.yaml")
    assert "eval/accuracy · seeds 1, 2, 3 · 1000 training tokens a run" in text
    assert "- holds: oreal start <= 0.45 (0.250)" in text
    assert "- FAILS: oreal end > oreal end + 1 (difference 0.000)" in text
    assert "Made by `posttrain compare x.yaml`." in text


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([0.1, 0.2, 0.4], 2 / 8),  # all of a sign: only that choice and its mirror reach as far
        ([-0.1, -0.2, -0.4, -0.3], 2 / 16),
        ([3.0, 1.0, -1.0], 6 / 8),  # sums: 5, 3, 3, 1 and their mirrors; 3 is reached by six
        ([0.1, -0.1], 1.0),
        ([0.1, 0.1, 0.1], 2 / 8),
        ([0.3, 0.1, 0.2, -0.2], 8 / 16),  # .8, .6, .4 and .4 in both directions
    ],
)
def test_sign_flip_p(differences: list[float], p: float) -> None:
    assert sign_flip_p(differences, 1) == p
    assert sign_flip_p([-difference for difference in differences], 1) == p


def test_what_p_can_say_is_said() -> None:
    note = "p: exact sign-flip test over seeds, two-sided; with 3 it is 0.25 or more"
    assert note in terminal_text(result())
    assert note in markdown(result(), "x")
    assert "sign-flip" not in terminal_text(result(seeds=(4,)))
    assert result().to_json()["arms"]["positives-only"]["difference_to_first_arm"]["sign_flip_p"] == 0.25


def test_a_second_metric_has_tables_of_its_own() -> None:
    both = result()
    both.config = both.config.model_copy(update={"metrics": ["eval/accuracy", "eval/length"]})
    (length,) = both.others
    assert arm_rows(length)[1][:3] == ["oreal", "9.000", "4.000"]
    assert arm_rows(length)[3] == ["positives-only", *["–"] * 6]
    text = terminal_text(both)
    assert text.index("FAILS: oreal end") < text.index("eval/length · seeds 1, 2, 3") < text.index("-5.000")
    written = both.to_json()
    assert [row["end"] for row in written["rows"] if row["metric"] == "eval/length"] == [4.0, 4.0, 4.0]
    assert written["arms_by_other_metric"]["eval/length"]["oreal"]["gain"]["mean"] == -5.0
