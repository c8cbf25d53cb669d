"""Monte-Carlo tree search over the turns of a policy, for many trees at once (arXiv 2501.11425, as released)."""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import Field

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.agents.episodes import Turn
from posttrain.config import Config
from posttrain.rollout.seeds import derive_seed

ROOT = 0


class SearchConfig(Config):
    """Defaults are those of the paper's release."""

    iterations: int = Field(default=8, ge=1, description="walks from the root to a terminal node")
    children: int = Field(default=4, ge=1, description="turns sampled at a node; equal ones count once")
    max_depth: int = Field(default=20, ge=1, description="turns of an episode")
    exploration: float = Field(default=0.25, ge=0, description="c of UCT")
    in_flight: int = Field(default=4, ge=1, description="nodes of one tree that are expanded at a time")


@dataclass(slots=True)
class Node:
    """A place in an episode: the turn that leads to it from ``parent`` (None at the root), and what it led to.

    ``visits`` and ``value`` are the number and the sum of the final rewards below; ``pending`` counts the walks that
    are below and have not come back.
    """

    parent: int
    depth: int
    turn: Turn | None
    result: StepResult
    terminal: bool = False
    children: list[int] = field(default_factory=list)
    expanded: bool = False
    expanding: bool = False
    exhausted: bool = False
    visits: int = 0
    value: float = 0.0
    pending: int = 0


def uct(value: float, visits: int, parent_visits: int, exploration: float) -> float:
    """``value / visits + c sqrt(ln(parent visits) / visits)``; infinite for a node without visits."""
    if visits == 0:
        return math.inf
    return value / visits + exploration * math.sqrt(math.log(max(1, parent_visits)) / visits)


class Tree:
    """The search of one task. A node is numbered by its place in ``nodes``; 0 is the root.

    A walk goes down by UCT, and expands every node that it is the first to meet: the expansion is the rollout. Walks
    that are under way count as visits without value, which keeps them apart.
    """

    def __init__(self, start: Position, first: StepResult, config: SearchConfig, seed: int) -> None:
        self.start = start
        self.config = config
        self.seed = derive_seed(seed, "search", start.task_id, start.seed)
        self.nodes = [Node(-1, 0, None, first)]
        self.walks = 0
        self.failures = 0

    @property
    def finished(self) -> bool:
        """Whether no walk is left to begin, and none is under way."""
        root = self.nodes[ROOT]
        return not root.pending and (root.exhausted or self.walks >= self.config.iterations)

    def begin_walk(self) -> int | None:
        """The node that a new walk stops at, to be expanded; None where none can begin now."""
        root = self.nodes[ROOT]
        if root.exhausted or self.walks >= self.config.iterations or root.pending >= self.config.in_flight:
            return None
        leaf = self._descend(ROOT)
        if leaf is not None:
            self.walks += 1
            self._mark(leaf, 1)
        return leaf

    def attach(self, leaf: int, outcomes: Sequence[tuple[Turn, StepResult]]) -> int | None:
        """Add the children of ``leaf``, and back up those that end. The node that the walk goes on to; None where it
        is over. Turns of equal text count once; a failed environment costs its child, and is counted."""
        self._mark(leaf, -1)
        node = self.nodes[leaf]
        node.expanding, node.expanded = False, True
        for turn, result in {turn.text: (turn, result) for turn, result in reversed(outcomes)}.values():
            if result.failed:
                self.failures += 1
            else:
                self._add(leaf, turn, result)
        self._close_exhausted(leaf)
        further = None if node.exhausted else self._descend(leaf)
        if further is not None:
            self._mark(further, 1)
        return further

    def record(self, leaf: int) -> dict[str, Any]:
        """What ``restore`` needs of an expansion, once it is attached."""
        node = self.nodes[leaf]
        children = [
            {"turn": asdict(turn), "result": asdict(child.result)}
            for child in map(self.nodes.__getitem__, node.children)
            if (turn := child.turn) is not None
        ]
        return {"leaf": leaf, "children": children, "walks": self.walks - self.nodes[ROOT].pending}

    def restore(self, records: Iterable[dict[str, Any]]) -> None:
        """Add what an earlier search found. Walks that it did not end are begun again."""
        for record in records:
            leaf = record["leaf"]
            self.nodes[leaf].expanded = True
            for child in record["children"]:
                self._add(leaf, Turn(**child["turn"]), StepResult(**child["result"]))
            self._close_exhausted(leaf)
            self.walks = record["walks"]

    def position(self, node: int) -> Position:
        turns = [self.nodes[step].turn for step in self.path(node)]
        return Position(self.start.task_id, self.start.seed, tuple(turn.text for turn in turns if turn is not None))

    def path(self, node: int) -> list[int]:
        """The nodes from the root to ``node``, with both."""
        steps = [node]
        while steps[-1] != ROOT:
            steps.append(self.nodes[steps[-1]].parent)
        return steps[::-1]

    def leaves(self) -> list[int]:
        return [number for number, node in enumerate(self.nodes) if node.terminal]

    def _descend(self, start: int) -> int | None:
        """From ``start`` down to a node that nobody has expanded; None where all ways are ended or taken."""
        number = start
        while self.nodes[number].expanded:
            node = self.nodes[number]
            open_children = [n for n in node.children if not (self.nodes[n].exhausted or self.nodes[n].expanding)]
            if not open_children:
                return None
            visits = node.visits + node.pending
            scores = {child: self._score(child, visits) for child in open_children}
            best = max(scores.values())
            ties = [child for child, score in scores.items() if score == best]
            number = random.Random(derive_seed(self.seed, number, visits)).choice(ties)
        if self.nodes[number].expanding:
            return None
        self.nodes[number].expanding = True
        return number

    def _score(self, number: int, parent_visits: int) -> float:
        node = self.nodes[number]
        return uct(node.value, node.visits + node.pending, parent_visits, self.config.exploration)

    def _mark(self, number: int, by: int) -> None:
        for step in self.path(number):
            self.nodes[step].pending += by

    def _add(self, parent: int, turn: Turn, result: StepResult) -> None:
        depth = self.nodes[parent].depth + 1
        terminal = result.done or depth >= self.config.max_depth
        self.nodes.append(Node(parent, depth, turn, result, terminal, exhausted=terminal))
        number = len(self.nodes) - 1
        self.nodes[parent].children.append(number)
        if terminal:
            for step in self.path(number):
                self.nodes[step].visits += 1
                self.nodes[step].value += result.reward

    def _close_exhausted(self, number: int) -> None:
        """A node all of whose children are exhausted is so itself, and so up to the root."""
        while number >= ROOT:
            node = self.nodes[number]
            if not node.expanded or not all(self.nodes[child].exhausted for child in node.children):
                return
            node.exhausted = True
            number = node.parent
