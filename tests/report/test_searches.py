"""What the run page shows of searched trees and of the ways that were made of them."""

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.agents.episodes import Turn
from posttrain.agents.tree_search import ROOT, SearchConfig, Tree
from posttrain.report import searches as module
from posttrain.report.page import write_report
from posttrain.report.searches import searches
from tests.report.test_page import HOSTILE, needs_browser, rendered

# 0 (root) -> 1, 2; 1 -> 3 (end, 0), 4 (end, 0.5); 2 -> 5; 5 -> 6 (end, 1); 4 and 3 are siblings, 5 was met on the way
GROWTH = {0: [("left", 0.0, False), ("right", 0.0, False)], 1: [("in", 0.0, True), ("on", 0.5, True)]}
GROWTH |= {2: [("wait", 0.0, False)], 5: [("out", 1.0, True)]}


def write_tree(folder: Path, number: int = 0, first: str = "Find the way out.", word: str = "") -> Path:
    """A tree as a search leaves it."""
    tree = Tree(Position(f"maze/{number}", 0), StepResult(first), SearchConfig(), seed=1)
    file = folder / "trees" / "iteration_0" / "rank0" / f"{number:06d}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for leaf, children in GROWTH.items():
        for text, reward, done in children:
            turn = Turn(f"Hm.{word}\nAction: {text}", [1], [-0.1], True)
            tree._add(leaf, turn, StepResult(f"You went {text}.{word}", reward, done))
        lines.append(json.dumps(tree.record(leaf)) + "\n")
    file.write_text("".join(lines))
    about = {"start": {"task_id": f"maze/{number}", "seed": 0, "turns": []}, "first": first, "seed": tree.seed}
    meta = file.with_name(f"{file.name}.meta.json")
    meta.write_text(json.dumps({**about, "search": tree.config.model_dump(), "sampling": {}}))
    return file


def part(origin: str, trained: bool, text: str) -> dict[str, Any]:
    return {"origin": origin, "trained": trained, "text": text}


def revision(number: int = 0, word: str = "") -> dict[str, Any]:
    """The way to 3 is left after node 1, for that to 6."""
    parts = [
        part("prompt", False, "<|user|>Find the way out.<|end|><|assistant|>"),
        part("policy", False, f"Hm.{word}\nAction: left"),
        part("environment", False, f"<|end|><|user|>You went left.{word}<|end|><|assistant|>"),
        part("revision", True, "That was a mistake.\nAction: wait"),
        part("environment", False, "<|end|><|user|>ok.<|end|><|assistant|>"),
        part("policy", True, "Hm.\nAction: right"),
    ]
    about = {"id": f"000000/{number:06d}/revision/0", "objective": "revision", "task": f"maze/{number}/0"}
    return about | {"how": "spliced", "good": 6, "bad": 3, "bad_steps": 1, "steps": 2, "reward": 1.0, "parts": parts}


def good_way(number: int = 0) -> dict[str, Any]:
    parts = [part("prompt", False, "p"), part("policy", True, "Action: right")]
    return {"id": f"000000/{number:06d}/2", "objective": "good", "reward": 1.0, "parts": parts}


def write_rows(folder: Path, *rows: dict[str, Any]) -> None:
    file = folder / "iterations" / "step_000000.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "metrics.jsonl").write_text('{"step": 1, "eval/success": 0.5, "eval/success_low": 0.2}\n')


def unpacked(tree: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(tree["data"])))
    return data


def test_a_tree_has_its_visits_means_and_ends(tmp_path: Path) -> None:
    write_tree(tmp_path)
    [iteration] = searches(tmp_path)
    assert (iteration["iteration"], iteration["of"], iteration["trees_in_iteration"]) == (0, 1, 1)
    listed = iteration["trees"][0]
    assert (listed["task"], listed["rewards"], listed["revisions"]) == ("maze/0/0", [1.0, 0.5, 0.0], 0)
    tree = unpacked(listed)
    assert tree["first"] == "Find the way out." and tree["file"] == "trees/iteration_0/rank0/000000.jsonl"
    assert tree["kept"] == list(range(7)) and tree["left_out"] == 0 and tree["ways"] == []
    assert tree["nodes"][0] == [-1, "", "Find the way out.", 3, 0.5, None]
    assert tree["nodes"][1] == [0, "Hm.\nAction: left", "You went left.", 2, 0.25, None]
    assert tree["nodes"][6] == [5, "Hm.\nAction: out", "You went out.", 1, 1.0, 1.0]


def test_a_revision_says_where_it_leaves_the_bad_way(tmp_path: Path) -> None:
    write_tree(tmp_path)
    write_rows(tmp_path, good_way(), revision())
    listed = searches(tmp_path)[0]["trees"][0]
    assert listed["revisions"] == 1
    revised, good = unpacked(listed)["ways"]
    assert (revised["parting"], revised["left"], revised["good"], revised["bad"]) == (ROOT, 1, 6, 3)
    assert good["good"] == 6 and "bad" not in good  # the third of the ends
    pieces = list(zip(revised["tokens"], revised["origin"], revised["weights"], strict=True))
    assert pieces[:4] == [("Hm.\n", 1, 0), ("Action: left", 1, 0), ("<|end|>", 3, 0), ("<|user|>", 3, 0)]
    assert [text for text, _, weight in pieces if weight] == [
        "That was a mistake.\n", "Action: wait", "Hm.\n", "Action: right",
    ]  # fmt: skip


def test_of_a_large_tree_the_ways_and_the_most_visited_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path)
    monkeypatch.setattr(module, "MOST_NODES", 3)
    assert unpacked(searches(tmp_path)[0]["trees"][0])["kept"] == [0, 1, 2]  # visits 3, 2, 1, and the lowest numbers
    write_rows(tmp_path, revision())
    tree = unpacked(searches(tmp_path)[0]["trees"][0])
    assert tree["kept"] == [0, 1, 2, 3, 5, 6] and tree["left_out"] == 1
    monkeypatch.setattr(module, "MOST_LETTERS", 2)
    assert unpacked(searches(tmp_path)[0]["trees"][0])["nodes"][1][1] == "Hm … 14 letters more"


def test_trees_with_revisions_come_first_and_the_budget_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        write_tree(tmp_path, number)
    write_rows(tmp_path, good_way(1), revision(2))
    one = len(searches(tmp_path)[0]["trees"][0]["data"])
    monkeypatch.setattr(module, "TREE_BYTES", 2 * one)
    iteration = searches(tmp_path)[0]
    assert iteration["trees_in_iteration"] == 4
    assert iteration["trees"][0]["task"] == "maze/2/0"
    assert 2 <= len(iteration["trees"]) < 4
    monkeypatch.setattr(module, "TREE_BYTES", 0)
    assert [tree["task"] for tree in searches(tmp_path)[0]["trees"]] == ["maze/2/0"]


def test_a_tree_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_tree(tmp_path)
    with write_tree(tmp_path, 1).open("a") as file:
        file.write('{"leaf": 3, "chil')  # a search that was killed
    write_tree(tmp_path, 2).with_name("000002.jsonl.meta.json").unlink()
    write_tree(tmp_path, 3).write_text('{"leaf": 0}\n')
    [iteration] = searches(tmp_path)
    assert [tree["task"] for tree in iteration["trees"]] == ["maze/0/0", "maze/1/0"]
    assert [Path(name).stem for name in iteration["unreadable"]] == ["000002", "000003"]
    write_rows(tmp_path, {"id": "no number"})
    assert searches(tmp_path)[0]["unreadable"][0] == "iterations/step_000000.jsonl"
    assert searches(tmp_path / "nowhere") == []


def test_hostile_text_of_a_tree_stays_text(tmp_path: Path) -> None:
    write_tree(tmp_path, first=HOSTILE, word=f"{HOSTILE}\ud800 日本")
    write_rows(tmp_path, revision(word=HOSTILE))
    page = write_report(tmp_path).read_text()
    assert page.count("</script>") == 2 and "<img" not in page


@needs_browser
def test_the_browser_draws_the_tree_and_reads_the_way(tmp_path: Path) -> None:
    write_tree(tmp_path, word=HOSTILE)
    write_rows(tmp_path, revision(word=HOSTILE), good_way())
    page, _, scripts = rendered(write_report(tmp_path)).partition("<script")
    assert "<img" not in page + scripts and "iteration 1 of 1" in page
    assert page.count("<rect") == 3 and page.count("data-node") == 7  # ends are squares
    edges = [page.count(f'class="edge {kind}"') for kind in ("shared", "good", "bad", "")]
    assert edges == [0, 3, 2, 1] and page.count('class="revision" d=') == page.count('class="mistake"') == 1
    assert "Node 1 <span>turn 1 · 2 visits, mean reward 0.250 · the mistake" in page
    assert "revision, nodes 3 → 6: spliced after bad step 1 of 2, reward 1</option>" in page
    read = page.split('<ol class="turns text">')[1].split("</ol>")[0]
    parts = re.findall(r'<li class="(\w+)"><span class="who"><b>(\d*)</b>', read)
    assert parts == [
        ("thought", "1"), ("action", ""), ("observation", ""), ("revision", "2"), ("action", ""), ("observation", ""),
        ("thought", "3"), ("action", ""),
    ]  # fmt: skip
