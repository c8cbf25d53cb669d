"""Tree search with a scripted policy: the numbers of UCT, and what must hold of every tree."""

import math
import random

import pytest

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.agents.episodes import Turn
from posttrain.agents.tree_search import ROOT, Node, SearchConfig, Tree, uct
from posttrain.agents.vault import Vault, VaultConfig

VAULT = VaultConfig(locks=2, max_steps=6)


def turn(text: str) -> Turn:
    return Turn(text, [1], [-0.5], True)


def tree_of(task_id: str = "vault/1", **settings: int) -> Tree:
    return Tree(Position(task_id, 0), StepResult("start"), SearchConfig(**settings), seed=3)


def sampled(tree: Tree, leaf: int) -> list[tuple[Turn, StepResult]]:
    """Turns that depend on the place and the index alone, played in the vault; two indices may say the same."""
    position = tree.position(leaf)
    outcomes = []
    for index in range(tree.config.children):
        rng = random.Random(f"{position}/{index}")
        text = "Action: " + rng.choice(["take gold", "take iron", "take jade", "turn gold", "turn iron", "reset lock"])
        environment = Vault(VAULT)
        environment.reset(position.task_id, position.seed)
        for before in position.turns:
            environment.step(before)
        outcomes.append((turn(text), environment.step(text)))
    return outcomes


def grow(trees: list[Tree], rng: random.Random | None = None) -> None:
    """Expand pending nodes in the order they came, or in a random one."""
    pending = [(tree, leaf) for tree in trees for leaf in walks(tree)]
    while pending:
        tree, leaf = pending.pop(rng.randrange(len(pending)) if rng else 0)
        further = tree.attach(leaf, sampled(tree, leaf))
        pending += [(tree, further)] if further is not None else []
        pending += [(tree, new) for new in walks(tree)]


def walks(tree: Tree) -> list[int]:
    found = []
    while (leaf := tree.begin_walk()) is not None:
        found.append(leaf)
    return found


def shape(tree: Tree) -> list[tuple[int, str, int, float]]:
    return [(n.parent, n.turn.text if n.turn else "", n.visits, n.value) for n in tree.nodes]


def hold(tree: Tree) -> None:
    """Visits and values are those of the terminal nodes below; no two siblings are equal; nothing is pending."""
    below = [[] for _ in tree.nodes]
    for leaf in tree.leaves():
        for step in tree.path(leaf):
            below[step].append(tree.nodes[leaf].result.reward)
    for number, node in enumerate(tree.nodes):
        assert node.visits == len(below[number])
        assert node.value == pytest.approx(sum(below[number]))
        assert node.pending == 0 and not node.expanding
        assert node.depth == len(tree.path(number)) - 1 <= tree.config.max_depth
        texts = [tree.nodes[child].turn.text for child in node.children]
        assert len(texts) == len(set(texts)) <= tree.config.children
    assert tree.finished and tree.walks <= tree.config.iterations


def test_uct_numbers() -> None:
    assert uct(2.0, 4, 9, 0.25) == pytest.approx(0.6852879759, abs=1e-10)
    assert uct(2.4, 3, 9, 0.25) == pytest.approx(1.0139521256, abs=1e-10)
    assert uct(0.0, 2, 9, 0.25) == pytest.approx(0.2620367685, abs=1e-10)
    assert uct(1.5, 2, 3, 0.25) == pytest.approx(0.9352879759, abs=1e-10)
    assert uct(0.9, 1, 3, 0.25) == pytest.approx(1.1620367685, abs=1e-10)
    assert uct(0.0, 0, 9, 0.25) == math.inf


def test_a_walk_under_way_is_a_visit_without_value() -> None:
    tree = tree_of()
    root = tree.nodes[ROOT]
    root.expanded, root.visits = True, 9
    for name, visits, value in (("A", 4, 2.0), ("B", 3, 2.4), ("C", 2, 0.0)):
        tree.nodes.append(Node(ROOT, 1, turn(name), StepResult(""), visits=visits, value=value))
        root.children.append(len(tree.nodes) - 1)
    assert tree.begin_walk() == 2  # B
    assert tree._score(2, 10) == pytest.approx(0.7896783912, abs=1e-10)
    assert tree._score(1, 10) == pytest.approx(0.6896783912, abs=1e-10)
    assert tree._score(3, 10) == pytest.approx(0.2682457533, abs=1e-10)
    assert tree.begin_walk() == 1  # B is taken


@pytest.mark.parametrize("in_flight", [1, 4])
@pytest.mark.parametrize("task_id", [f"vault/{number}" for number in range(6)])
def test_what_holds_of_every_tree(task_id: str, in_flight: int) -> None:
    tree = tree_of(task_id, in_flight=in_flight, iterations=6, max_depth=5)
    grow([tree], random.Random(task_id))
    hold(tree)
    assert len(tree.leaves()) > 3


def test_a_tree_does_not_depend_on_the_others() -> None:
    alone = [tree_of(f"vault/{number}", in_flight=1, iterations=4) for number in range(16)]
    for tree in alone:
        grow([tree])
    together = [tree_of(f"vault/{number}", in_flight=1, iterations=4) for number in range(16)]
    grow(together, random.Random(1))
    assert [shape(tree) for tree in together] == [shape(tree) for tree in alone]


def test_an_exhausted_tree_ends_early() -> None:
    tree = tree_of(iterations=8, max_depth=1)
    grow([tree])
    hold(tree)
    assert tree.walks == 1 and all(node.terminal for node in tree.nodes[1:])


def test_equal_turns_and_failed_environments_are_left_out() -> None:
    tree = tree_of(max_depth=2)
    leaf = tree.begin_walk()
    assert leaf == ROOT
    tree.attach(
        ROOT, [(turn("a"), StepResult("x")), (turn("a"), StepResult("x")), (turn("b"), StepResult("", failed="died"))]
    )
    assert [node.turn.text for node in tree.nodes[1:]] == ["a"] and tree.failures == 1


def test_a_restored_tree_goes_on() -> None:
    whole, records = tree_of(in_flight=1, iterations=5), []
    pending = walks(whole)
    while pending:
        leaf = pending.pop(0)
        further = whole.attach(leaf, sampled(whole, leaf))
        records.append(whole.record(leaf))
        pending += ([further] if further is not None else []) + walks(whole)
    for cut in (1, len(records) // 2, len(records)):
        again = tree_of(in_flight=1, iterations=5)
        again.restore(records[:cut])
        known = len(again.nodes)
        grow([again])
        hold(again)
        assert [node.turn for node in again.nodes[:known]] == [node.turn for node in whole.nodes[:known]]
        assert again.walks == whole.walks
