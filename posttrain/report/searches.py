"""What the run page shows of an Agent-R run: the searched trees, and the ways that were made of them and trained."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.agents.reflection import parting_node
from posttrain.agents.tree_search import Node, SearchConfig, Tree
from posttrain.report.page_data import packed, rounded, spread
from posttrain.types import Origin

MOST_ITERATIONS = 12
TREE_BYTES = 2_000_000  # of all trees together, compressed and in base64
MOST_NODES = 300  # of a tree
MOST_LETTERS = 600  # of a turn, and of an observation
UNREADABLE = (OSError, ValueError, KeyError, IndexError, TypeError)  # what reading a file of another form raises
PIECES = re.compile(r"(<\|[^|]*\|>)|(?<=\n)")  # lines, and the marks of chat templates


def searches(folder: Path) -> list[dict[str, Any]]:
    """Iterations spread over the run; of each as many trees as ``TREE_BYTES`` allows, at least one, revised ones first.

    Each is ``iteration`` (from 0), ``trees_in_iteration``, ``unreadable`` (names of files) and ``trees``; each tree is
    what a list shows of it and ``data``: nodes and ways as JSON, deflated, in base64.
    """
    numbers = sorted(int(path.name.removeprefix("iteration_")) for path in (folder / "trees").glob("iteration_*"))
    shown = spread(numbers, MOST_ITERATIONS)
    return [_iteration(folder, number, TREE_BYTES // len(shown)) | {"of": len(numbers)} for number in shown]


def _iteration(folder: Path, number: int, budget: int) -> dict[str, Any]:
    rows, trees, unreadable = dict[str, list[dict[str, Any]]](), list[dict[str, Any]](), list[str]()
    trained = folder / "iterations" / f"step_{number:06d}.jsonl"
    try:
        for row in _lines(trained):
            rows.setdefault(row["id"].split("/")[1], []).append(row)
    except UNREADABLE:
        unreadable.append(str(trained.relative_to(folder)))
    files = sorted((folder / "trees" / f"iteration_{number}").glob("rank*/*.jsonl"), key=lambda file: file.stem)
    files.sort(key=lambda file: -sum("bad" in row for row in rows.get(file.stem, [])))
    for file in files:
        try:
            tree = _tree(file, rows.get(file.stem, []), str(file.relative_to(folder)))
        except UNREADABLE:
            unreadable.append(str(file.relative_to(folder)))
            continue
        budget -= len(tree["data"])
        if budget < 0 and trees:
            break
        trees.append(tree)
    return {"iteration": number, "trees_in_iteration": len(files), "unreadable": unreadable, "trees": trees}


def _tree(file: Path, rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    about = json.loads(file.with_name(f"{file.name}.meta.json").read_bytes())
    start, first = Position(**about["start"]), about.get("first", "")  # which older trees lack
    tree = Tree(start, StepResult(first), SearchConfig.model_validate(about["search"]), about["seed"])
    tree.restore(_lines(file))
    ways = [_way(tree, row) for row in sorted(rows, key=lambda row: "bad" not in row)]
    kept = _kept(tree, ways)
    shown = {
        "file": name,
        "first": first,
        "kept": kept,
        "nodes": [_node(tree.nodes[number]) for number in kept],
        "left_out": len(tree.nodes) - len(kept),
        "ways": ways,
    }
    return {
        "task": f"{start.task_id}/{start.seed}",
        "rewards": sorted((rounded(tree.nodes[leaf].result.reward, 3) for leaf in tree.leaves()), reverse=True),
        "revisions": sum("bad" in way for way in ways),
        "data": packed(shown),
    }


def _kept(tree: Tree, ways: Sequence[Mapping[str, Any]]) -> list[int]:
    """At most ``MOST_NODES`` nodes: those on ``ways``, then the most visited. What is above a kept node is kept."""
    marked = {node for way in ways for leaf in (way["good"], way.get("bad")) if leaf for node in tree.path(leaf)}
    order = sorted(range(len(tree.nodes)), key=lambda n: (n not in marked, -tree.nodes[n].visits, n))
    return sorted(order[: max(MOST_NODES, len(marked))])


def _node(node: Node) -> list[Any]:
    """Parent, turn, observation, visits, mean reward below (None without visits), reward at the end (None before)."""
    return [
        node.parent,
        _cut(node.turn.text if node.turn else ""),
        _cut(node.result.observation),
        node.visits,
        rounded(node.value / node.visits, 3) if node.visits else None,
        rounded(node.result.reward, 3) if node.terminal else None,
    ]


def _way(tree: Tree, row: Mapping[str, Any]) -> dict[str, Any]:
    """A trained trajectory as pieces with origin and weight. Of a revision also where the ways part, and the node after
    which the bad one is left."""
    pieces = [
        (piece, int(Origin[part["origin"].upper()]), float(part["trained"]))
        for part in row["parts"]
        for piece in PIECES.split(part["text"])
        if piece and part["origin"] != "prompt"
    ]
    tokens, origin, weights = zip(*pieces, strict=True) if pieces else ((), (), ())
    way = {"objective": row["objective"], "reward": row["reward"], "tokens": tokens, "origin": origin}
    way |= {"weights": weights, "logprobs": None}
    if "bad" not in row:
        return way | {"good": tree.leaves()[int(row["id"].split("/")[2])] if "how" not in row else None}
    parting = parting_node(tree, row["good"], row["bad"])
    path = tree.path(row["bad"])
    way |= {"parting": parting, "left": path[path.index(parting) + row["bad_steps"]]}
    return way | {name: row[name] for name in ("how", "good", "bad", "bad_steps", "steps")}


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} … {len(text) - MOST_LETTERS:,} letters more"


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file. A torn last line is left out."""
    if file.is_file():
        with file.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines if line.endswith("\n"))
