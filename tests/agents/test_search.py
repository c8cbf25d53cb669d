"""Many trees over the embedded engine: they grow, go on after a kill, and do not depend on each other."""

from pathlib import Path
from typing import Any

import pytest

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.agents.environment_pool import Position
from posttrain.agents.search import TreeSearch, environment_steps, leaf_rollouts
from posttrain.agents.tree_search import SearchConfig, Tree
from posttrain.errors import JobError
from posttrain.tasks.environment import EnvironmentTask
from posttrain.types import Example, Sampling


def trees_of(task: EnvironmentTask, **settings: Any) -> list[tuple[Example, Tree]]:
    config = SearchConfig(**{"iterations": 4, "children": 3, **settings})
    return [
        (example, Tree(Position(example.metadata["task_id"], 0), StepResult("first"), config, seed=1))
        for example in task.train_examples()
    ]


def grow(engine: EnvironmentEngine, trees: list[tuple[Example, Tree]], folder: Path, temperature: float = 1.0) -> None:
    sampling = Sampling(temperature=temperature, max_completion_tokens=3)
    TreeSearch(engine.engine, engine.pool, dict(enumerate(trees)), sampling, folder).run()


def shape(tree: Tree) -> list[tuple[Any, ...]]:
    return [(n.parent, n.turn and n.turn.ids, n.result, n.visits, n.value, n.pending) for n in tree.nodes]


@pytest.fixture
def task(task_of: Any) -> EnvironmentTask:
    task: EnvironmentTask = task_of("Parity")
    return task


def test_trees_grow_to_their_ends(parity: EnvironmentEngine, task: EnvironmentTask, tmp_path: Path) -> None:
    trees = trees_of(task)
    grow(parity, trees, tmp_path)
    for example, tree in trees:
        assert tree.finished and tree.walks == 4
        root = tree.nodes[0]
        assert root.visits == len(tree.leaves()) > 3
        assert root.value == pytest.approx(sum(tree.nodes[leaf].result.reward for leaf in tree.leaves()))
        assert all(node.pending == 0 and node.depth <= 3 for node in tree.nodes)
        assert environment_steps(tree) == 3 * sum(node.expanded for node in tree.nodes) >= len(tree.nodes) - 1
        for leaf, rollout in zip(tree.leaves(), leaf_rollouts("r", example, tree, parity.encoder, 0), strict=True):
            turns = tree.position(leaf).turns
            assert rollout.reward == pytest.approx(sum(len(turn.encode()) % 2 == 0 for turn in turns) / 3)
            assert "ok 2<|end|><|assistant|>" in rollout.text and "ok 3" not in rollout.text
            assert 3 <= sum(rollout.action_mask) <= 9
    assert len({shape(tree)[1][1][0] for _, tree in trees}) > 1  # seeds differ


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_tree_is_the_same_alone_and_among_many(
    parity: EnvironmentEngine, task: EnvironmentTask, tmp_path: Path, temperature: float
) -> None:
    together = trees_of(task, in_flight=1)
    grow(parity, together, tmp_path / "together", temperature)
    for number, pair in enumerate(trees_of(task, in_flight=1)):
        grow(parity, [pair], tmp_path / str(number), temperature)
        assert shape(pair[1]) == shape(together[number][1])
        assert (len(pair[1].leaves()) == 1) == (temperature == 0)


def test_a_killed_search_goes_on_from_its_files(
    parity: EnvironmentEngine, task: EnvironmentTask, tmp_path: Path
) -> None:
    whole = trees_of(task, in_flight=1)
    grow(parity, whole, tmp_path)
    written = {file: file.read_bytes().splitlines(keepends=True) for file in sorted(tmp_path.glob("*.jsonl"))}
    for number, (file, lines) in enumerate(written.items()):
        file.write_bytes(b"".join(lines[:number]) + lines[number][:20])
    again = trees_of(task, in_flight=1)
    grow(parity, again, tmp_path)
    for number, (tree, before) in enumerate(zip(again, whole, strict=True)):
        known = 1 + sum(len(children) for children in [n.children for n in before[1].nodes if n.expanded][:number])
        assert shape(tree[1])[:1] and [n.turn for n in tree[1].nodes[:known]] == [
            n.turn for n in before[1].nodes[:known]
        ]
        assert tree[1].finished and tree[1].walks == 4
    finished = trees_of(task, in_flight=1)
    grow(parity, finished, tmp_path)  # nothing is left to do
    assert [shape(tree) for _, tree in finished] == [shape(tree) for _, tree in again]


def test_trees_of_other_settings_are_refused(parity: EnvironmentEngine, task: EnvironmentTask, tmp_path: Path) -> None:
    grow(parity, trees_of(task, iterations=1), tmp_path)
    with pytest.raises(JobError, match="another search"):
        grow(parity, trees_of(task, iterations=2), tmp_path)


def test_a_failing_environment_costs_its_children_alone(
    task_of: Any, parity: EnvironmentEngine, tmp_path: Path
) -> None:
    failing = task_of("Failing")
    trees = [pair for pair in trees_of(failing, iterations=2) if pair[1].start.task_id != "hang"]
    TreeSearch(parity.engine, failing._pool, dict(enumerate(trees)), Sampling(max_completion_tokens=3), tmp_path).run()
    of_task = {tree.start.task_id: tree for _, tree in trees}
    for how in ("raise", "nan", "high", "no text", "die", "says"):
        tree = of_task[how]
        assert tree.finished and len(tree.nodes) == 1 and 1 <= tree.failures <= 3  # equal turns count once
        assert leaf_rollouts("r", trees[0][0], tree, parity.encoder, 0) == []
    assert {of_task["negative"].nodes[leaf].result.reward for leaf in of_task["negative"].leaves()} == {0.0}
    assert of_task["negative"].failures == of_task["fine"].failures == 0 and of_task["fine"].walks == 2


def test_where_the_context_ends_a_way_ends(task_of: Any, parity: EnvironmentEngine, tmp_path: Path) -> None:
    endless = task_of("Endless")
    trees = trees_of(endless, iterations=2, children=1)[:1]
    TreeSearch(parity.engine, endless._pool, dict(enumerate(trees)), Sampling(max_completion_tokens=3), tmp_path).run()
    assert trees[0][1].finished and not trees[0][1].leaves()
    assert max(node.depth for node in trees[0][1].nodes) >= 3
