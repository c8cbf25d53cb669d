"""The study in eval/bleu_agreement: every number of a hand-made table, baselines, controls and mistakes."""

import json
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from posttrain.config_file import load_config
from posttrain.errors import DataError, UserError
from posttrain.evaluation.metrics import estimate
from posttrain.rewards.reward import RewardInput, RewardOutput

FOLDER = Path(__file__).parents[2] / "eval" / "bleu_agreement"
SHARED = FOLDER.parents[2] / "shared" / "data"
SCRIPT = runpy.run_path(str(FOLDER / "run.py"))


class Exclamations:
    """A reward model that counts exclamation marks."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(each.completion.count("!"))) for each in inputs]

    def close(self) -> None:
        pass


REWARDS = {"BLEU": {"type": "bleu"}, "model": {"type": f"{__name__}:Exclamations"}}
# Words of the references alone decide. The label agrees with BLEU on the first reference in rows 1 and 2, on the second
# in rows 1 and 3; row 4 is a tie for all.
ROWS = [
    ("a b c d", "w x y z !", "A", ["a b c d", "a b c d"]),
    ("a b c d", "w x y z !", "A", ["a b c d", "w x y z"]),
    ("a b c d", "w x y z !", "B", ["a b c d", "w x y z"]),
    ("a b c d", "a b c d", "tie", ["a b c d", "a b c d"]),
]


def write(folder: Path, rows: Sequence[tuple[Any, ...]]) -> Path:
    keys = ("answer_a", "answer_b", "label", "references")
    lines = [json.dumps({"prompt": f"q{n}", **dict(zip(keys, row, strict=True))}) for n, row in enumerate(rows)]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "pairs.jsonl"


def config(folder: Path, rows: Sequence[tuple[Any, ...]] = ROWS, **keys: Any) -> Any:
    data = {"type": "pairs", "path": str(write(folder, rows)), "references": 2}
    keys = {"data": data, "rewards": REWARDS, "folder": str(folder / "out"), "resamples": 50} | keys
    return SCRIPT["StudyConfig"].model_validate(keys)


def found(study_config: Any) -> dict[tuple[str, int | None], Any]:
    return {(each.metric, each.references): each for each in SCRIPT["run"](study_config)}


def test_a_table_by_hand(tmp_path: Path) -> None:
    by_metric = found(config(tmp_path, averages=[["BLEU", "model"]]))
    table = {key: (each.with_ties.value, each.tie_free.value) for key, each in by_metric.items()}
    assert table["BLEU", 1] == (3 / 4, 2 / 3)  # either reference alone is right on two of three, and ties the tie
    assert table["BLEU", 2] == (3 / 4, 2 / 3)  # of both, a b c d matches in full, and the other has a token too many
    assert table["model", None] == table["longer answer", None] == (2 / 4, 1 / 3)
    assert by_metric["model", None].above_longer.value == 0
    assert by_metric["BLEU", 2].above_longer.value == pytest.approx(1 / 3)
    assert by_metric["BLEU", 1].tied_picks == 1 / 4
    assert set(table) >= {("BLEU + model", 1), ("BLEU + model", 2), ("random", None)}
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["pairs"], result["prompts"], result["tied_labels"]) == (4, 4, 1)
    assert "| BLEU | 2 | 0.750 (" in (tmp_path / "out" / "table.md").read_text()
    assert (tmp_path / "out" / "agreement.svg").read_text().count('class="mean ') == 5


def test_subsets_or_the_order_given(tmp_path: Path) -> None:
    rows = [("a b c d", "w x y z", "A", ["a b c d", "w x y z"])]
    assert found(config(tmp_path, rows))["BLEU", 1].tie_free.value == 0.5
    assert found(config(tmp_path, rows, subsets=False))["BLEU", 1].tie_free.value == 1.0


def test_an_average_follows_both(tmp_path: Path) -> None:
    """Where one of them is indifferent, the other decides."""
    rows = [("a b c d", "w x y z", "A", ["a b c d"] * 2), ("w x y z", "w x y z !", "B", ["a b c d"] * 2)]
    assert found(config(tmp_path, rows, averages=[["model", "BLEU"]]))["model + BLEU", 2].tie_free.value == 1.0


def test_random_is_right_on_half(tmp_path: Path) -> None:
    rows = [(f"a {n}", f"b {n}", "AB"[n % 2], ["a", "b"]) for n in range(1000)] + [("a", "b", "tie", ["a", "b"])] * 1000
    random = found(config(tmp_path, rows, rewards={}))["random", None]
    assert random.tie_free.value == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)
    assert random.with_ties.value == pytest.approx(0.25, abs=2 * 0.5 / 1000**0.5)


def test_foreign_references_are_of_other_prompts(tmp_path: Path) -> None:
    rows = [(f"a{n}", f"b{n}", "B", [f"first{n}", f"second{n}"]) for n in range(5)]
    pairs = SCRIPT["with_foreign_references"](config(tmp_path, rows).data.pairs(), 2, seed=1)
    for number, pair in enumerate(pairs):
        first, second = pair.example.references
        assert (first[:-1], second[:-1]) == ("first", "second")
        assert len({str(number), first[-1], second[-1]}) == 3
    bare = [(*row[:3], []) for row in rows]
    data = {"type": "pairs", "path": str(write(tmp_path, bare))}
    others = SCRIPT["with_foreign_references"](config(tmp_path, bare, data=data).data.pairs(), 4, seed=1)
    assert all(set(pair.example.references) == {"b0", "b1", "b2", "b3", "b4"} - {pair.answers[1]} for pair in others)
    with pytest.raises(UserError, match="5 texts of other prompts, and there are 5 prompts"):
        found(config(tmp_path, bare, data=data, foreign_references=5))


def test_pairs_of_similar_length(tmp_path: Path) -> None:
    rows = [("aa", "bbb", "A", ["a", "b"]), ("aa", "bbbb", "A", ["a", "b"])]
    pairs = config(tmp_path, rows).data.pairs()
    assert [pair.answers[1] for pair in SCRIPT["similar_lengths"](pairs, 1.5)] == ["bbb"]
    with pytest.raises(UserError, match="leaves none of the 2 pairs"):
        SCRIPT["similar_lengths"](pairs, 1.0)


def test_pairs_that_a_reward_cannot_judge_are_left_out_for_all(tmp_path: Path) -> None:
    unusable = ("a b c d", "w x y z", "B", ["a b c d", "<skipped>"])
    by_metric = found(config(tmp_path, [*ROWS, unusable]))
    assert by_metric["BLEU", 1].tie_free.value == 2 / 3
    assert by_metric["model", None].with_ties.value == 2 / 4
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (result["pairs"], result["unjudged_pairs"]) == (4, 1)
    with pytest.raises(UserError, match="BLEU can judge no pair"):
        found(config(tmp_path, [unusable]))
    with pytest.raises(UserError, match="has no words to compare"):
        found(config(tmp_path, [unusable], rewards={"BLEU": {"type": "bleu", "on_error": "stop"}}))


def test_averages_are_of_rewards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="averages names 'chrF', which is none of rewards"):
        config(tmp_path, averages=[["BLEU", "chrF"]])


@pytest.mark.parametrize("name", ["alpaca_eval", "hh"])
def test_the_configs_are_valid(name: str) -> None:
    assert load_config(SCRIPT["StudyConfig"], FOLDER / f"{name}.yaml").rewards


def test_the_config_in_the_readme_is_valid() -> None:
    block = (FOLDER / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    assert SCRIPT["StudyConfig"].model_validate(yaml.safe_load(block)).data.references == 5


def test_alpaca_eval(tmp_path: Path) -> None:
    file = SHARED / "alpaca_eval" / "references.jsonl.gz"
    if not file.is_file():
        pytest.skip("alpaca_eval/references.jsonl.gz is not here")
    overrides = [f"data.path={file}", "data.tie_gap=0.3"]
    pairs = load_config(SCRIPT["StudyConfig"], FOLDER / "alpaca_eval.yaml", overrides).data.pairs()
    assert len(pairs) == 4000
    assert {len(pair.example.references) for pair in pairs} == {5}
    assert sum(pair.label != 0 for pair in pairs) / 4000 == pytest.approx(0.124, abs=0.001)
    unknown = [*overrides, "data.references=[gpt-9]"]
    with pytest.raises(DataError, match="line 1: 'gpt-9' is missing"):
        load_config(SCRIPT["StudyConfig"], FOLDER / "alpaca_eval.yaml", unknown).data.pairs()


def test_held_out_preferences(tmp_path: Path) -> None:
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": "bad"} for n in range(10)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"type": "preference", "path": str(tmp_path / "pairs.jsonl"), "eval_fraction": 0.5}
    pairs = SCRIPT["HeldOutConfig"].model_validate(data).pairs()
    assert len(pairs) == 5
    assert all(pair.label == 1 and pair.answers[0].startswith("good") for pair in pairs)


# A, B, tie, A, B, tie by the labels; the metric says A, A, tie, tie, B, B.
LABELS = np.array([1, -1, 0, 1, -1, 0])
PICKS = SCRIPT["preferred"](np.array([2.0, 5.0, 1.0, 3.0, 0.0, 1.0]), np.array([1.0, 4.0, 1.0, 3.0, 7.0, 2.0]))


def test_ties_are_met_by_ties_or_left_out() -> None:
    assert PICKS.tolist() == [1, 1, 0, 0, -1, -1]
    assert SCRIPT["credit"](PICKS, LABELS).tolist() == [1, 0, 1, 0, 1, 0]
    np.testing.assert_array_equal(SCRIPT["tie_free_credit"](PICKS, LABELS), [1, 0, np.nan, 0.5, 1, np.nan])
    found = estimate(SCRIPT["tie_free_credit"](PICKS, LABELS), range(6))
    assert found is not None
    assert found.value == 2.5 / 4


def test_z_scores() -> None:
    np.testing.assert_allclose(SCRIPT["z_scores"](np.array([1.0, 3.0])), [-1, 1])
    assert SCRIPT["z_scores"](np.full(3, 7.0)).tolist() == [0, 0, 0]


ROW = {"prompt": "Why?", "answer_a": "a", "answer_b": "b", "label": "B", "references": ["x", "y", "z"]}


def write_pairs(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "pairs.jsonl"
    file.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_a_labelled_pair(tmp_path: Path) -> None:
    first, second = SCRIPT["LabelledPairsConfig"](
        path=write_pairs(tmp_path, ROW, ROW | {"label": "tie (bothbad)", "model_a": "m"}), references=2
    ).pairs()
    assert (first.answers, first.label, first.example.references) == (("a", "b"), -1, ["x", "y"])
    assert (second.label, second.example.prompt, second.example.metadata["model_a"]) == (0, "Why?", "m")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "C"}, r"line 3: field 'label' is 'C', not one of A, B, tie, tie \(bothbad\)"),
        ({"label": ["A"]}, r"line 3: field 'label' is \['A'\], not one of"),
        ({"references": ["x"]}, "line 3: field 'references' has 1 of the 2 texts that data.references asks for"),
        ({"references": None}, "line 3: field 'references' has 0 of the 2 texts"),
        ({"references": ["x", " "]}, "line 3: field 'references' is empty"),
        ({"answer_b": None}, "line 3: field 'answer_b' is None, not text"),
        ({"prompt": ""}, "line 3: field 'prompt' is empty"),
    ],
)
def test_a_row_that_is_no_labelled_pair_is_named(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pairs\.jsonl, " + message):
        SCRIPT["LabelledPairsConfig"](path=write_pairs(tmp_path, ROW, ROW | change), references=2).pairs()
