"""Agent-R: search for good and bad ways, splice them at the mistake, and fine-tune on turning back (2501.11425)."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.agents.environment_pool import Position
from posttrain.agents.reflection import SLACK
from posttrain.agents.revision import Reviser, Revision
from posttrain.agents.search import TreeSearch, leaf_rollouts
from posttrain.agents.tree_search import Tree
from posttrain.errors import JobError, TrainingDiverged
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.agent_r_config import NO_ENVIRONMENT, AgentRConfig
from posttrain.trainers.agent_r_record import TreeCounts, iteration_metrics, what_was_found, write_iteration
from posttrain.trainers.credit import training_sample
from posttrain.trainers.demonstrations import Demonstrations
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.training.accelerator import gather_lists
from posttrain.training.packing import MicroBatch
from posttrain.training.restart import InitialPolicy
from posttrain.training.update import LossOutput
from posttrain.types import Example, Origin, RolloutGroup, TrainingSample

logger = logging.getLogger(__name__)

GOOD, GENERAL = "good", "general"


class AgentRTrainer(PolicyTrainer):
    """One step is one iteration of Agent-R: a tree for each task; pairs of a good and a bad end; the bad way up to its
    first mistake, a revision thought and the good way as one sample; and fine-tuning on these and on good ways.

    ::

        L = eta E[-log p(agent tokens)] + (1 - eta) E[-log p(general tokens)]

    Context tokens (prompt, observations, bad turns) have no weight. The trees of an iteration are kept in
    ``trees/iteration_N``, and a run that died goes on with them; what it trained on is in ``iterations/``.

    Raises:
        JobError: the data are no environment.
    """

    method: ClassVar[str] = "agent_r"
    config_class = AgentRConfig
    config: AgentRConfig

    def __init__(self, model: str | Path, config: AgentRConfig, **components: Any) -> None:
        super().__init__(model, config, **components)
        if not isinstance(self.engine, EnvironmentEngine):
            raise JobError(NO_ENVIRONMENT)
        self.environments = self.engine
        self.folder = Path(self.run.folder)
        self.trees: dict[str, tuple[Example, Tree]] = {}
        self.found: dict[str, float] = {}
        self.general = self._general_samples()
        self.base = InitialPolicy(self.update, "agent_r: restart_from base") if config.restart_from == "base" else None

    def collect(self, examples: Sequence[Example]) -> list[RolloutGroup]:
        """Search this rank's share of the tasks; every rank gets the ends of all trees."""
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        own = list(enumerate(examples))[rank::ranks]
        with self.timed("generate"):
            self.trees = self._search(own, self.folder / "trees" / f"iteration_{self.step}" / f"rank{rank}")
        groups = [
            RolloutGroup(example, leaf_rollouts(name, example, tree, self.encoder, self.step))
            for name, (example, tree) in self.trees.items()
        ]
        groups = [group for group in gather_lists(self.accelerator, groups) if group.rollouts]
        if not groups:
            raise TrainingDiverged("the search came to no end of any task: look at the environment's failures above")
        return sorted(groups, key=lambda group: group.rollouts[0].request_id)

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Revisions, good ways, and general data, in a drawn order.

        Raises:
            TrainingDiverged: there are no revisions, and nothing else to learn from.
        """
        revisions: list[Revision] = []
        reviser = Reviser(self.environments, self.trees, self.config.reflection, self.alpha, self.config.sampling)
        if self.config.train_on != "good_only":
            with self.timed("revise"):
                revisions = sorted(gather_lists(self.accelerator, reviser.run()), key=lambda each: each.name)
        samples = [each.sample for each in revisions if each.sample is not None]
        if self.config.train_on != "revisions_only":
            samples += self._good_samples(groups)
        trees = gather_lists(self.accelerator, [TreeCounts.of(tree) for _, tree in self.trees.values()])
        without_verdict = sum(gather_lists(self.accelerator, [reviser.without_verdict]))
        self.found = iteration_metrics(self.alpha, trees, revisions, without_verdict)
        if self.config.train_on != "good_only" and not revisions:
            message = f"iteration {self.step}: {what_was_found(groups, self.alpha)}"
            if not samples:
                raise TrainingDiverged(message)
            logger.warning("%s", message)
        if self.accelerator.is_main_process:
            write_iteration(self.folder / "iterations", self.step, groups, revisions, samples, self.encoder)
        rng = random.Random(derive_seed(self.run.seed, "agent_r", self.step))
        if self.general:
            wanted = round(len(samples) * (1 - self.config.agent_fraction) / self.config.agent_fraction)
            samples += rng.choices(self.general, k=wanted)
        rng.shuffle(samples)
        return samples

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Under ``restart_from: base``, go back to it. The numbers of the search and the revisions."""
        if self.base is not None and samples:
            self.base.restore()
        return samples, self.found

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """Mean negative log-likelihood of each source's trained tokens, weighed by its share."""
        general = self.counts.of_objective(GENERAL).tokens
        agent = self.counts.total.tokens - general
        share = self.config.agent_fraction if general and agent else 1.0
        of_source = [
            (1 - share) / max(1, general) if agent and sample.objective == GENERAL else share / max(1, agent or general)
            for sample in batch.samples
        ]
        scales = logprobs.new_tensor(of_source)[batch.sample_index]
        return LossOutput(-(scales * batch.weights * logprobs).sum())

    @property
    def alpha(self) -> float:
        """Least score of a good way, in this iteration."""
        alphas = self.config.reflection.alpha
        return alphas[min(self.step, len(alphas) - 1)]

    def _search(self, examples: Sequence[tuple[int, Example]], folder: Path) -> dict[str, tuple[Example, Tree]]:
        starts = [Position(example.metadata["task_id"], example.metadata["seed"]) for _, example in examples]
        seed = derive_seed(self.run.seed, "iteration", self.step)
        trees = {
            number: (example, Tree(start, first, self.config.search, seed))
            for (number, example), start, first in zip(examples, starts, self.environments.pool.at(starts), strict=True)
            if not first.failed
        }
        turn = self.config.sampling.model_copy(update={"max_completion_tokens": self.environments.max_turn_tokens})
        TreeSearch(self.environments.engine, self.environments.pool, trees, turn, folder).run()
        return {f"{self.step:06d}/{number:06d}": tree for number, tree in trees.items()}

    def _good_samples(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Of each tree at most ``max_pairs_per_task`` good ways, drawn by its name."""
        samples = []
        for group in groups:
            good = [rollout for rollout in group.rollouts if (rollout.reward or 0.0) >= self.alpha - SLACK]
            rng = random.Random(derive_seed(self.run.seed, "good", group.rollouts[0].request_id))
            chosen = rng.sample(good, min(len(good), self.config.reflection.max_pairs_per_task))
            samples += [training_sample(rollout, 1.0, GOOD) for rollout in chosen]
        return samples

    def _general_samples(self) -> list[TrainingSample]:
        examples = self.config.general.build().train_examples() if self.config.general else []
        most = self.engine.context_length
        demonstrations = Demonstrations.encode(examples, self.encoder, max_tokens=most, seed=self.run.seed)
        samples = []
        for example in examples:
            prompt, end = self.encoder.prompt_ids(example), self.tokenizer.eos_token_id
            for number, ids in enumerate(demonstrations.ids.get(example.id, [])):
                trained = [0] * len(prompt) + [1] * (len(ids) + 1)
                origin = [Origin.EXPERT if bit else Origin.PROMPT for bit in trained]
                sample = TrainingSample(
                    f"general/{example.id}/{number}", [*prompt, *ids, end], origin, trained,
                    [float(bit) for bit in trained], [0.0] * len(trained), GENERAL,
                )  # fmt: skip
                samples += [sample] if len(trained) <= most else []
        return samples
