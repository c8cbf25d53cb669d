"""Many trees grown together: their pending nodes share the engine's batch, their environments the processes."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from posttrain.agents.alternation import alternate
from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Environments
from posttrain.agents.episodes import Turn
from posttrain.agents.reflection import steps_between, trajectory_sample
from posttrain.agents.tree_search import ROOT, Tree
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.training.append_file import opened_to_append
from posttrain.types import Example, Origin, Rollout, RolloutRequest, Sampling


@dataclass(slots=True)
class Expansion:
    """A node whose children are being sampled, and those that are known, by index."""

    tree: int
    leaf: int
    outcomes: dict[int, tuple[Turn, StepResult]] = field(default_factory=dict)


class TreeSearch:
    """Grows ``trees`` until all are finished.

    Args:
        engine: samples turns; ``sampling.max_completion_tokens`` is the budget of one.
        pool: says where they lead.
        trees: by number, for each task the example whose prompt the root is, and the tree.
        folder: where each tree is written after every expansion, as ``NUMBER.jsonl``; what is there is restored.

    Raises:
        JobError: the folder holds trees of other tasks or settings.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        pool: Environments,
        trees: Mapping[int, tuple[Example, Tree]],
        sampling: Sampling,
        folder: Path,
    ) -> None:
        self.engine = engine
        self.pool = pool
        self.examples = {number: example for number, (example, _) in trees.items()}
        self.trees = {number: tree for number, (_, tree) in trees.items()}
        self.sampling = sampling
        self.encoder = PromptEncoder(engine.tokenizer)
        self.files = {number: folder / f"{number:06d}.jsonl" for number in trees}
        self.expanding: dict[str, Expansion] = {}
        self._ids: dict[tuple[int, int], list[int]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for number, tree in self.trees.items():
            about = {"start": asdict(tree.start), "first": tree.nodes[ROOT].result.observation, "seed": tree.seed}
            about |= {"search": tree.config.model_dump(), "sampling": sampling.model_dump()}
            with opened_to_append(self.files[number], about, by="another search") as lines:
                lines.seek(0)
                tree.restore(map(json.loads, lines))

    def run(self) -> list[Tree]:
        """The finished trees."""
        self.engine.submit([request for number in self.trees for request in self._new_walks(number)])
        for _ in alternate(self.engine, self.pool.workers, self._answer, self._accept):
            pass
        return list(self.trees.values())

    def token_ids(self, tree: int, node: int) -> list[int]:
        """The policy's input at ``node``: the prompt, and every turn with the observation after it."""
        ids = self._ids.get((tree, node))
        if ids is None:
            here = self.trees[tree].nodes[node]
            if here.turn is None:
                ids = self.encoder.prompt_ids(self.examples[tree])
            else:
                after = self.encoder.next_turn_ids(here.result.observation, here.turn.ended)
                ids = self.token_ids(tree, here.parent) + here.turn.ids + after
            self._ids[tree, node] = ids
        return ids

    def _new_walks(self, number: int) -> list[RolloutRequest]:
        tree, requests = self.trees[number], list[RolloutRequest]()
        while (leaf := tree.begin_walk()) is not None:
            requests += self._expand(number, leaf)
        return requests

    def _expand(self, number: int, leaf: int) -> list[RolloutRequest]:
        """The request that samples the children of ``leaf``; none where the context leaves no room: it is a dead end,
        and the walk goes on elsewhere."""
        tree, ids = self.trees[number], self.token_ids(number, leaf)
        if len(ids) >= self.engine.context_length:
            return self._attach(Expansion(number, leaf))
        request = RolloutRequest(
            id=f"search/{number:06d}/{leaf}",
            example=self.examples[number],
            prompt_ids=ids,
            sampling=self.sampling,
            seed=derive_seed(tree.seed, *tree.position(leaf).turns),
            n=tree.config.children,
        )
        self.expanding[request.id] = Expansion(number, leaf)
        return [request]

    def _answer(self, rollout: Rollout) -> tuple[Rollout, StepResult]:
        """On a thread: where a sampled turn leads."""
        expansion = self.expanding[rollout.request_id]
        position = self.trees[expansion.tree].position(expansion.leaf).after(rollout.text)
        return rollout, self.pool.at([position])[0]

    def _accept(self, answer: tuple[Rollout, StepResult]) -> list[RolloutRequest]:
        """When all children of a node are known, attach them, and go on."""
        rollout, result = answer
        expansion = self.expanding[rollout.request_id]
        expansion.outcomes[rollout.index] = (Turn.of(rollout), result)
        if len(expansion.outcomes) < self.trees[expansion.tree].config.children:
            return []
        del self.expanding[rollout.request_id]
        return self._attach(expansion)

    def _attach(self, expansion: Expansion) -> list[RolloutRequest]:
        tree, number = self.trees[expansion.tree], expansion.tree
        further = tree.attach(expansion.leaf, [outcome for _, outcome in sorted(expansion.outcomes.items())])
        with self.files[number].open("a") as file:
            file.write(json.dumps(tree.record(expansion.leaf)) + "\n")
        requests = [] if further is None else self._expand(number, further)
        return requests + self._new_walks(number)


def leaf_rollouts(
    name: str, example: Example, tree: Tree, encoder: PromptEncoder, policy_version: int
) -> list[Rollout]:
    """Each end of ``tree`` as a scored rollout of request ``name``."""
    prompt, rollouts = encoder.prompt_ids(example), list[Rollout]()
    for index, leaf in enumerate(tree.leaves()):
        way = trajectory_sample(name, prompt, steps_between(tree, ROOT, leaf, trained=True), encoder, "")
        result, start = tree.nodes[leaf].result, len(prompt)
        rollouts.append(
            Rollout(
                request_id=name,
                index=index,
                prompt_ids=prompt,
                completion_ids=way.input_ids[start:],
                action_mask=way.trained[start:],
                logprobs=way.behaviour_logprobs[start:],
                finish_reason="stop" if result.done else "length",
                policy_version=policy_version,
                text=encoder.text(way.input_ids[start:]),
                given=Origin.ENVIRONMENT,
                outcome=result.reward,
                reward=result.reward,
            )
        )
    return rollouts


def environment_steps(tree: Tree) -> int:
    """How many turns were played for ``tree``: all that were sampled, equal ones too."""
    return tree.config.children * sum(bool(node.children) for node in tree.nodes)
