"""What the run page says of a group: the order of its rollouts, what was pushed, what a reference shares."""

import base64
import json
import re
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from posttrain.report.overlap import Comparison, overlap
from posttrain.report.page import write_report
from posttrain.report.page_data import samples
from posttrain.training.run_log import RunLog
from tests.report.test_page import HOSTILE, needs_browser, rendered


def rollout(
    tokens: list[str], reward: float | None, weight: float | None = None, objective: str = "policy", expert: int = 0
) -> dict[str, Any]:
    return {
        "text": "".join(tokens).removesuffix("<end>"),
        "tokens": tokens,
        "weights": [] if weight is None else [weight] * len(tokens),
        "origin": [2] * expert + [1] * (len(tokens) - expert),
        "logprobs": [-0.5] * len(tokens),
        "reward": reward,
        "reward_parts": {"precision_1": 0.75, "precision_2": 0.5, "brevity_penalty": 0.875, "length_ratio": 0.9},
        "error": None,
        "error_message": "",
        "finish_reason": "stop",
        "objective": None if weight is None else objective,
        "kept": weight is not None,
    }


def group(rollouts: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"step": 1, "example_id": "row-0", "prompt": "say it", "answer": None, "rollouts": rollouts} | more


def logged(folder: Path, *records: dict[str, Any]) -> Path:
    with closing(RunLog(folder)) as log:
        log.log_rollouts(1, records)
        log.log_metrics(1, {"reward/mean": 0.5})
    return folder


def unpacked(folder: Path, number: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the list of groups holds of a group, and its record."""
    listed = samples(folder, Comparison())[0]["groups"][number]
    return listed, json.loads(zlib.decompress(base64.b64decode(listed["data"])))


def test_rollouts_are_ranked_with_the_pushed_first_among_equals(tmp_path: Path) -> None:
    sampled = [
        rollout(["a"], 0.25, -1.0),
        rollout(["b"], None),
        rollout(["c"], 1.0),
        rollout(["d"], 1.0, 1.0, "kept"),
        rollout(["e"], -2.0, 0.0, "rejected"),
    ]
    listed, record = unpacked(logged(tmp_path, group(sampled)))
    shown = record["rollouts"]
    assert [one["tokens"] for one in shown] == [["d"], ["c"], ["a"], ["e"], ["b"]]
    assert listed["rewards"] == [1.0, 1.0, 0.25, -2.0, None]
    assert listed["pushed"] == [True, False, True, False, False]
    assert [one["push"] for one in shown] == [1, 0, -1, 0, 0]
    assert [one["objective"] for one in shown] == ["kept", None, "policy", "rejected", None]


def test_tokens_have_the_order_of_the_longest_ngram_that_the_closest_reference_has() -> None:
    tokens = ["the", " cat", " sa", "t", ",", " a dog", "", " mat", "<end>"]
    references = ["dogs bark", "the mat, the cat sat down"]
    shown = overlap(rollout(tokens, 0.5), references, Comparison())
    assert shown["reference"] == 1
    assert shown["overlap"] == [3, 3, 3, 3, 1, 0, 0, 1, 0]
    spans = [(references[1][start:end], order) for start, end, order in shown["reference_spans"]]
    assert spans == [("the", 1), ("mat,", 1), ("the cat sat", 3)]


def test_a_log_without_references_has_none(tmp_path: Path) -> None:
    logged(tmp_path, group([rollout(["a"], 1.0)]), group([rollout(["a"], 1.0)], references=[]))
    for number in range(2):
        _, record = unpacked(tmp_path, number)
        assert record["references"] == [] and record["rollouts"][0]["overlap"] == []
        assert "reference" not in record["rollouts"][0]
    assert write_report(tmp_path).is_file()


def test_long_completions_are_cut_with_their_overlap(tmp_path: Path) -> None:
    tokens = ["no "] * 1500 + ["yes "] * 500
    _, record = unpacked(logged(tmp_path, group([rollout(tokens, 1.0)], references=["yes"])))
    assert record["rollouts"][0]["left_out"] == 400
    assert record["rollouts"][0]["overlap"] == [0] * 1200 + [1] * 400


def test_what_the_reward_does_not_compare_is_not_marked() -> None:
    tokens = ["<answer>", "b", " a", "</answer>", " a b c", "<end>"]
    shown = overlap(rollout(tokens, 0.5), ["a b c", "b a"], Comparison())
    assert shown["overlap"] == [0, 2, 2, 0, 0, 0] and shown["reference"] == 1
    shown = overlap(rollout(tokens, 0.5), ["a b c", "b a"], Comparison.of({"text": {"answer_tag": None}}))
    assert shown["overlap"] == [0, 1, 1, 0, 3, 0] and shown["reference"] == 0


@pytest.mark.parametrize(
    ("reward", "name", "tag"),
    [
        ({"type": "bleu", "tokenize": "zh", "text": {"answer_tag": "final"}}, "zh", "final"),
        ({"tokenize": "rouge", "text": {"a_key_of_old": 1}}, "13a", "answer"),
        (None, "13a", "answer"),
        ("module:Name", "13a", "answer"),
    ],
)
def test_texts_are_compared_as_the_reward_does(reward: Any, name: str, tag: str) -> None:
    how = Comparison.of(reward)
    assert (how.tokenize, how.text.answer_tag) == (name, tag)


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    hostile = group(
        [rollout([*HOSTILE, "\ud800"], 1.0, 1.0, HOSTILE)], prompt=HOSTILE, references=["", HOSTILE, "\ud800 \x00"]
    )
    page = write_report(logged(tmp_path, hostile)).read_text()
    assert page.count("</script>") == 2 and "<img" not in page
    _, record = unpacked(tmp_path)
    assert record["references"][1] == HOSTILE and record["rollouts"][0]["reference"] == 1


@needs_browser
def test_the_browser_shows_both_sides_and_the_reference(tmp_path: Path) -> None:
    sampled = [
        rollout(["no", " cat"], 0.25, objective=HOSTILE),
        rollout(["a", " cat", "<end>"], 1.0, 1.0, HOSTILE, expert=1),
    ]
    with closing(RunLog(logged(tmp_path, group(sampled, references=["a cat", "🙂 & <b>"])), resume_step=1)) as log:
        log.log_metrics(2, {f"referee/{name}": 0.5 for name in ("accuracy", "malformed_fraction", "constant_fraction")})
        rewards = {"prefix/own_reward": 0.1, "prefix/hybrid_reward": 0.2}
        log.log_metrics(2, {f"many/kind{number}_score": 0.5 for number in range(7)})
        log.log_metrics(3, rewards | {"policy/unheard_of": 0.3, f"{HOSTILE}/x": 0.3})
    page = rendered(write_report(tmp_path))
    up, down = page.index("Pushed up <span>1 of 2"), page.index("Not trained <span>1 of 2")
    assert up < page.index("<h3>#1") < down < page.index("<h3>#2")
    assert "3 tokens, 1 expert<" in page and "precision <b>0.750 / 0.500" in page and "brevity penalty <b>0.875" in page
    assert "Reference 1 of 2</h4>" in page and "<img" not in page
    sections = {"Referee": ["Accuracy", "Fraction"], "Prefix": ["Reward"], "Policy": ["Unheard of"]}
    sections["Many"] = ["Kind0 score", "Kind6 score"]  # more than there are colours
    for section, charts in sections.items():
        drawn = page.split(f'<section aria-label="{section}"')[1].split("</section>")[0]
        assert all(f"<h3>{chart}</h3>" in drawn for chart in charts), section
    assert "malformed<b>" in page and "constant<b>" in page and "own<b>" in page and "hybrid<b>" in page


@needs_browser
def test_an_episode_is_read_turn_by_turn(tmp_path: Path) -> None:
    episode = rollout(["Hm.", "\n", "Act", "ion:", " go", "<|im_end|>"], 1.0, 1.0)
    for tokens, origin in (["\n", "<|im_start|>", "user\n", "no", HOSTILE], 3), (["Action: stop"], 1):
        episode["tokens"] += tokens
        episode["origin"] += [origin] * len(tokens)
    episode |= {"weights": [0.5] * 12, "logprobs": [-0.5] * 12, "text": ""}
    page, _, _ = rendered(write_report(logged(tmp_path, group([episode])))).partition("<script")
    read = page.split('<ol class="turns text">')[1].split("</ol>")[0]
    parts = [
        (part.partition('"')[0], re.findall(r'data-token="(\d+)"', part)) for part in read.split('<li class="')[1:]
    ]
    assert parts == [
        ("thought", ["0", "1"]), ("action", ["2", "3", "4", "5"]), ("observation", ["6", "7", "8", "9", "10"]),
        ("action", ["11"]),
    ]  # fmt: skip
    assert [int(number) for number in re.findall(r'class="token markup" [^>]*data-token="(\d+)"', read)] == [5, 6, 7, 8]
    assert re.findall(r'class="who"><b>(\d*)', read) == ["1", "", "", "2"]
