"""Known good and bad completions tell whether a reward is fit to train on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.report.reward_check import figures, write_check
from posttrain.rewards.references.reference import ExactMatchConfig
from posttrain.rewards.reward import RewardOutput
from posttrain.rewards.scoring.check import auroc, check_reward, ranks, spearman, summarise, wilson
from posttrain.rewards.scoring.labelled import LabelledGroup, read_labelled

ROOT = Path(__file__).parents[3]


def write(file: Path, *rows: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def pair(prompt: str, good: str = "yes", bad: str = "no", **further: Any) -> dict[str, Any]:
    return {"prompt": prompt, "chosen": good, "rejected": bad, "references": ["yes"], **further}


def scored(tmp_path: Path, scores: list[tuple[float | None, float | None]]) -> list[LabelledGroup]:
    """Pairs with the given scores of good and bad; None failed."""
    groups = read_labelled(write(tmp_path / "pairs.jsonl", *(pair(f"p{n}") for n in range(len(scores)))))
    for group, values in zip(groups, scores, strict=True):
        for each, value in zip(group.completions, values, strict=True):
            each.output = RewardOutput(value, error="timeout" if value is None else None, message="slow")
    return groups


def test_every_form_of_row_is_read_and_no_label_reaches_the_reward(tmp_path: Path) -> None:
    question, yes, no = ({"role": r, "content": c} for r, c in (("user", "q"), ("assistant", "y"), ("assistant", "n")))
    file = write(
        tmp_path / "pairs.jsonl",
        {"id": 7, "prompt": "q", "chosen": "y", "rejected": "n", "subset": "easy"},
        {"prompt": "q", "chosen": [question, yes], "rejected": [question, no]},
        {"chosen": [question, yes], "rejected": [question, no]},
        {"chosen": "\n\nHuman: q\n\nAssistant: y", "rejected": "\n\nHuman: q\n\nAssistant: n"},
        {"prompt": "q", "chosen": ["y"], "rejected": ["n", "m", "o"]},
        {"prompt": [question], "chosen": [yes], "rejected": [no]},
        {"prompt": "z", "completion": "y", "label": 1},
        {"prompt": "z", "completion": "n", "is_correct": False},
    )
    groups = read_labelled(file)
    found = [[(each.input.completion, each.good) for each in group.completions] for group in groups]
    both = [("y", True), ("n", False)]
    assert found == [both, both, both, both, [*both, ("m", False), ("o", False)], both, both]
    prompts = [group.completions[0].input.example.prompt for group in groups]
    assert prompts == ["q", [question], [question], [question], "q", [question], "z"]
    examples = [[each.input.example for each in group.completions] for group in groups]
    assert all(len({example.id for example in some}) == 1 for some in examples)
    assert examples[0][0].id == "7"
    assert [some[0].metadata for some in examples] == [{"subset": "easy"}, *[{}] * 6]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "q", "chosen": "y"}, "'rejected' is missing"),
        ({"chosen": "y", "rejected": "n"}, "'prompt' is missing"),
        ({"prompt": "q", "completion": "y"}, "neither 'chosen'"),
        ({"prompt": "q", "completion": "y", "label": 2}, "'label' is 2"),
        ({"prompt": "q", "completion": 3, "label": 1}, "completion: Input should be a valid string"),
        ({"prompt": 3, "chosen": "y", "rejected": "n"}, "prompt"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    file = write(tmp_path / "pairs.jsonl", pair("p"), row)
    with pytest.raises(DataError, match=rf"pairs\.jsonl, line 2: .*{problem}"):
        read_labelled(file)


def test_statistics_have_their_textbook_values() -> None:
    low, high = wilson(0.8, 10)  # the example of many tables: 8 of 10
    assert (low, high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0.0, 10)[0] == 0.0
    assert wilson(1.0, 10)[1] == pytest.approx(1.0, abs=1e-15)
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert auroc([3.0, 2.0], [2.0, 1.0]) == (3 + 0.5) / 4
    assert auroc([1.0], []) is None
    assert spearman([1.0, 2.0, 3.0], [1.0, 10.0, 100.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]) == pytest.approx(0.6)  # 1 - 6 * 4 / (4 * 15)
    assert spearman([1.0, 1.0], [1.0, 2.0]) is None


def test_a_check_counts_wins_ties_spread_and_failures(tmp_path: Path) -> None:
    check = summarise(scored(tmp_path, [(1.0, 0.0), (0.5, 0.5), (0.0, 2.0), (None, 1.0)]), seconds=2.0)
    assert (check.prompts, check.completions, check.prompts_compared) == (4, 8, 3)
    assert check.accuracy == pytest.approx(0.5)
    assert check.without_spread == pytest.approx(1 / 3)
    assert check.errors == {"timeout": 1}
    assert check.error_rate == 1 / 8
    assert check.completions_per_second == 4.0
    assert check.length_accuracy == 1.0  # "yes" is longer than "no"
    assert [(wrong.place, wrong.margin, wrong.bad) for wrong in check.worst] == [("line 3", 2.0, "no")]


@pytest.mark.parametrize(
    ("scores", "warnings"),
    [
        ([(1.0, 0.0), (2.0, 0.5), (0.0, -1.0)] * 10, []),
        ([(1.0, 1.0)] * 10, ["guessing", "no spread"]),
        ([(0.0, 1.0)] * 30, ["sign", "follow length"]),
        ([(None, None)] * 3, ["100.0% of the completions", "nothing to compare"]),
    ],
)
def test_warnings_say_what_is_wrong(
    tmp_path: Path, scores: list[tuple[float | None, float | None]], warnings: list[str]
) -> None:
    groups = scored(tmp_path, scores)
    if not warnings:  # lengths that have nothing to do with the scores
        for number, group in enumerate(groups):
            for each in group.completions:
                each.input.completion = "x" * (1 + number // 3)
    given = list(summarise(groups, 1.0).warnings())
    assert len(given) == len(warnings)
    assert all(part in warning for part, warning in zip(warnings, given, strict=True))


def test_the_page_and_the_result_hold_what_was_measured(tmp_path: Path) -> None:
    groups = read_labelled(write(tmp_path / "pairs.jsonl", pair("a"), pair("b", good="</script><b>", bad="yes")))
    seen: list[int] = []
    check = check_reward(ExactMatchConfig(), groups, seen.append)
    assert sum(seen) == 4
    page = write_check(check, tmp_path / "out", "match", "pairs.jsonl", "reward: {}", "0" * 64).read_text()
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["accuracy"] == 0.5
    assert result["worst"][0]["good"] == "</script><b>"
    assert "&lt;/script&gt;&lt;b&gt;" in page
    assert "</script>" not in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert all(label in page for label, _, _ in figures(check))


def test_the_command_fits_80_columns_and_fails_where_nothing_could_be_scored(tmp_path: Path) -> None:
    (tmp_path / "match.yaml").write_text("reward: {type: exact_match}\n")
    write(tmp_path / "pairs.jsonl", *(pair(f"p{n}", bad="yes" * (n % 2) or "no") for n in range(40)))
    write(tmp_path / "bare.jsonl", {"prompt": "q", "chosen": "y", "rejected": "n"})
    command = [sys.executable, "-m", "posttrain", "check-reward", "match.yaml", "--output", "out", "--data"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(data: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, data], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("pairs.jsonl")
    assert done.returncode == 0, done.stderr
    lines = (done.stdout + done.stderr).splitlines()
    assert max(map(len, lines)) <= 80
    assert "  Pair accuracy    0.750" in done.stdout
    assert "warning: the scores of a prompt are all equal for 50% of the prompts" in done.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    assert run("bare.jsonl").returncode == 1
