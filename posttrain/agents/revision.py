"""From searched trees to revised trajectories: choose pairs, judge, splice, replay, and recover where that fails."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.agents.environment_pool import Position
from posttrain.agents.episodes import count_turns
from posttrain.agents.judgement import (
    Judgements,
    bad_steps,
    judged_by_policy,
    judged_by_rules,
    judged_by_values,
    transition,
)
from posttrain.agents.reflection import (
    SLACK,
    Pair,
    ReflectionConfig,
    Step,
    choose_pairs,
    extend,
    replay,
    revision,
    splice,
    trajectory_sample,
)
from posttrain.agents.tree_search import Tree
from posttrain.rollout.seeds import derive_seed
from posttrain.types import Example, Origin, Rollout, RolloutRequest, Sampling, TrainingSample

REVISION = "revision"


@dataclass(slots=True)
class Revision:
    """A pair of leaves of the tree of ``example``, and what became of it. ``bad_steps`` of the ``steps`` of its bad way
    are kept (t' of T); ``how`` is spliced, recovered, failed or too_long; only the first two have a ``sample``.
    ``environment_steps`` are the turns of the replay and of the recoveries, each from the episode's beginning."""

    name: str
    example: Example
    pair: Pair
    bad_steps: int
    steps: int
    how: str = "failed"
    reward: float = 0.0
    environment_steps: int = 0
    sample: TrainingSample | None = None


@dataclass(slots=True)
class Splice:
    """A revision before its replay: ``continuation`` is what is trained, from ``position``, the end of ``context``."""

    revision: Revision
    position: Position
    good_reward: float
    seed: int
    thought: Step
    context: list[Step]
    continuation: list[Step]


@dataclass
class Reviser:
    """Revises the bad ways of ``trees`` (name: example and tree).

    Args:
        engine: the policy and its environments.
        trees: finished searches.
        config: what a pair is, and what is done with it.
        alpha: least score of a good way.
        sampling: of judgements and recoveries; ``max_completion_tokens`` is that of an episode.
    """

    engine: EnvironmentEngine
    trees: dict[str, tuple[Example, Tree]]
    config: ReflectionConfig
    alpha: float
    sampling: Sampling
    without_verdict: int = field(default=0, init=False)
    _recoveries: dict[str, tuple[Revision, TrainingSample, RolloutRequest]] = field(default_factory=dict, init=False)

    def run(self) -> list[Revision]:
        """One revision for each pair, in the order of the trees."""
        most = self.config.max_pairs_per_task
        pairs = {name: choose_pairs(tree, self.alpha, self.config.beta, most) for name, (_, tree) in self.trees.items()}
        judged = self._judge(pairs)
        splices = [
            self._splice(f"{name}/{REVISION}/{number}", name, pair, judged[name])
            for name, chosen in pairs.items()
            for number, pair in enumerate(chosen)
        ]
        with ThreadPoolExecutor(self.engine.pool.workers) as threads:
            replayed = threads.map(lambda each: replay(self.engine.pool, each.position, each.continuation), splices)
            for each, (seen, reward) in zip(splices, replayed, strict=True):
                self._settle(each, seen, reward)
        if self._recoveries:
            self._recover()
        return [each.revision for each in splices]

    def _judge(self, pairs: dict[str, list[Pair]]) -> dict[str, Judgements]:
        trees = {name: tree for name, (_, tree) in self.trees.items()}
        if self.config.judge == "none":
            return {name: {} for name in trees}
        nodes = {
            name: sorted({node for pair in pairs[name] for node in bad_steps(tree, pair)})
            for name, tree in trees.items()
        }
        if self.config.judge == "oracle":
            rules = self.engine.pool.went_wrong
            return {
                name: judged_by_rules(tree, nodes[name], rules) if rules else judged_by_values(tree, self.alpha)
                for name, tree in trees.items()
            }
        sampling = self.sampling.model_copy(update={"max_completion_tokens": self.config.judgement_tokens})
        judged = judged_by_policy(self.engine.engine, trees, nodes, sampling)
        self.without_verdict = sum(verdict is None for verdicts in judged.values() for verdict in verdicts.values())
        return judged

    def _splice(self, revision_name: str, name: str, pair: Pair, judged: Judgements) -> Splice:
        example, tree = self.trees[name]
        steps = bad_steps(tree, pair)
        cut = transition([judged.get(node) for node in steps])
        thought = revision(tree, pair, self.engine.encoder, self.config.revision_action, self.config.thoughts)
        return Splice(
            Revision(revision_name, example, pair, cut, len(steps)),
            tree.position(steps[cut - 1]),
            tree.nodes[pair.good].result.reward,
            derive_seed(tree.seed, "recover", pair.good, pair.bad),
            thought,
            *splice(tree, pair, cut, thought),
        )

    def _settle(self, each: Splice, seen: list[Step], reward: float | None) -> None:
        """Keep what reaches the good way's score when it is replayed; what does not may be recovered."""
        each.revision.environment_steps = len(each.context) + len(seen)
        if reward is not None and reward >= each.good_reward - self.config.replay_tolerance - SLACK:
            self._keep(each.revision, "spliced", reward, self._sample(each, [*each.context, *seen]))
        elif self.config.on_replay_failure == "recover" and seen:  # else the episode was at its end
            self._plan_recovery(each, seen)

    def _plan_recovery(self, each: Splice, seen: list[Step]) -> None:
        """Let the policy go on after the revision: after the observation of its action, or inside its turn."""
        head, acts = each.thought.turn, each.thought.turn.ended
        steps = [*each.context, seen[0]] if acts else each.context
        sample = self._sample(each, steps)
        ids = self.engine.encoder.next_turn_ids(steps[-1].observation, steps[-1].turn.ended)
        extend(sample, ids, Origin.ENVIRONMENT)
        if len(sample.input_ids) + len(head.ids) >= self.engine.context_length:
            each.revision.how = "too_long"
            return
        turns = (each.position.after(head.text) if acts else each.position).turns
        example = each.revision.example
        request = RolloutRequest(
            id=each.revision.name,
            example=replace(example, metadata={**example.metadata, "turns": turns}),
            prompt_ids=sample.input_ids,
            sampling=self.sampling,
            seed=each.seed,
            n=self.config.recovery_tries,
            prefix_ids=[] if acts else head.ids,
        )
        self._recoveries[request.id] = (each.revision, sample, request)

    def _recover(self) -> None:
        """Of the episodes that reach alpha, keep the one of fewest tokens."""
        reached: dict[str, list[Rollout]] = {name: [] for name in self._recoveries}
        for rollout in self.engine.generate([request for _, _, request in self._recoveries.values()]):
            found, _, request = self._recoveries[rollout.request_id]
            found.environment_steps += len(request.example.metadata["turns"]) + count_turns(rollout.action_mask)
            if rollout.outcome is not None and rollout.outcome >= self.alpha - SLACK:
                reached[rollout.request_id].append(rollout)
        for name, rollouts in reached.items():
            if rollouts:
                found, sample, request = self._recoveries[name]
                best = min(rollouts, key=lambda rollout: len(rollout.completion_ids))
                _continue(sample, best, len(request.prefix_ids))
                self._keep(found, "recovered", best.outcome or 0.0, sample)

    def _sample(self, each: Splice, steps: Sequence[Step]) -> TrainingSample:
        prompt = self.engine.encoder.prompt_ids(each.revision.example)
        return trajectory_sample(each.revision.name, prompt, steps, self.engine.encoder, REVISION)

    def _keep(self, found: Revision, how: str, reward: float, sample: TrainingSample) -> None:
        if len(sample.input_ids) > self.engine.context_length:
            found.how = "too_long"
            return
        found.how, found.reward, found.sample = how, reward, sample


def _continue(sample: TrainingSample, rollout: Rollout, thought: int) -> None:
    """Append an episode that went on from the end of ``sample``; its first ``thought`` tokens are a revision."""
    ids, mask = rollout.completion_ids, rollout.action_mask
    extend(sample, ids[:thought], Origin.REVISION, trained=True)
    for token, sampled, logprob in zip(ids[thought:], mask[thought:], rollout.logprobs[thought:], strict=True):
        extend(sample, [token], Origin.POLICY if sampled else Origin.ENVIRONMENT, bool(sampled), [logprob])
