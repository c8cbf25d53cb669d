"""At which step a bad trajectory went wrong: as the policy itself sees it, or an oracle."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from jinja2 import StrictUndefined, Template

from posttrain.agents.reflection import SLACK, Pair, steps_between
from posttrain.agents.tree_search import ROOT, Tree
from posttrain.data.chat import PromptEncoder
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Example, RolloutRequest, Sampling

Judgement = Literal["good", "bad", "uncertain"]
Judgements = dict[int, Judgement | None]

VERDICT = re.compile(r"judgement:\s*.*?\b(good|bad|uncertain)\b", re.IGNORECASE)
PROMPT = Path(__file__).with_name("judgement_prompt.jinja")


def parse_judgement(text: str) -> Judgement | None:
    """The first of the three words on the last line that begins with ``Judgement:``; None where there is none."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line.lower().startswith("judgement:")]
    found = VERDICT.match(lines[-1]) if lines else None
    return found[1].lower() if found else None  # type: ignore[return-value]


def transition(judgements: Sequence[Judgement | None]) -> int:
    """How many bad steps are kept: up to the first that is judged bad, all where none is. A reply without a verdict is
    uncertain, and goes on."""
    return next((number for number, verdict in enumerate(judgements, start=1) if verdict == "bad"), len(judgements))


def bad_steps(tree: Tree, pair: Pair) -> list[int]:
    """The nodes of the bad way, from where it parts from the good one."""
    path = tree.path(pair.bad)
    return path[path.index(pair.parting) + 1 :]


def judged_by_values(tree: Tree, alpha: float) -> Judgements:
    """A step is bad where no end below it reaches ``alpha``, as far as the tree was searched."""
    best: dict[int, float] = {}
    for leaf in tree.leaves():
        for node in tree.path(leaf):
            best[node] = max(best.get(node, 0.0), tree.nodes[leaf].result.reward)
    return {node: "good" if reward >= alpha - SLACK else "bad" for node, reward in best.items()}


def judged_by_rules(
    tree: Tree, nodes: Sequence[int], went_wrong: Callable[[str, int, Sequence[str]], bool]
) -> Judgements:
    """What the environment says of the step to each of ``nodes`` (``VaultConfig.went_wrong``, for example)."""
    places = {node: tree.position(node) for node in nodes}
    return {
        node: "bad" if went_wrong(place.task_id, place.seed, place.turns) else "good" for node, place in places.items()
    }


def judged_by_policy(
    engine: RolloutEngine,
    trees: Mapping[str, Tree],
    nodes: Mapping[str, Sequence[int]],
    sampling: Sampling,
) -> dict[str, Judgements]:
    """What the policy says of the step to each of ``nodes``, all trees in one batch; None for a reply without a
    verdict, and for a step whose history does not fit the context."""
    template = Template(PROMPT.read_text(), trim_blocks=True, undefined=StrictUndefined)
    encoder = PromptEncoder(engine.tokenizer)
    requests: dict[str, tuple[str, int, RolloutRequest]] = {}
    for name, tree in trees.items():
        for node in nodes[name]:
            *history, step = steps_between(tree, ROOT, node)
            text = template.render(task=tree.nodes[ROOT].result.observation, history=history, step=step)
            key = f"judge/{name}/{node}"
            example = Example(id=key, prompt=[{"role": "user", "content": text}], task="open")
            ids = encoder.prompt_ids(example)
            if len(ids) < engine.context_length:
                request = RolloutRequest(key, example, ids, sampling, derive_seed(tree.seed, "judge", node))
                requests[key] = (name, node, request)
    found: dict[str, Judgements] = {name: dict.fromkeys(nodes[name]) for name in trees}
    for rollout in engine.generate([request for _, _, request in requests.values()]):
        name, node, _ = requests[rollout.request_id]
        found[name][node] = parse_judgement(rollout.text)
    return found
