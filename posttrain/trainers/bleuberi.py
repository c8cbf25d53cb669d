"""BLEUBERI: GRPO whose reward is BLEU against reference answers, on the rows that are hardest (arXiv 2505.11080)."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from posttrain.data.sampler import ExampleSampler
from posttrain.data.selection import select_by_score
from posttrain.errors import DataError
from posttrain.evaluation.held_out import answer_and_score
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.trainers.bleuberi_config import BLEUBERIConfig
from posttrain.trainers.credit import scored
from posttrain.trainers.grpo import GRPOTrainer, rewards_of
from posttrain.trainers.references import reference_lengths, with_references
from posttrain.trainers.stragglers import Stragglers
from posttrain.training.run_log import write_rows
from posttrain.types import Example, Rollout, RolloutGroup, TrainingSample

SELECTED_FILE = "selected.jsonl"


class BLEUBERITrainer(GRPOTrainer):
    """GRPO (see there) with

    ::

        r_i = BLEU(completion_i, references)          smoothed sentence BLEU, 0 to 1 (see ``rewards.bleu``)

    on the ``selection_size`` rows to which the starting policy's answers score lowest. ``reward`` may be any other: a
    string metric, or a reward model for the paper's baseline.
    """

    method: ClassVar[str] = "bleuberi"
    config_class = BLEUBERIConfig
    config: BLEUBERIConfig

    def __init__(self, model: str | Path, config: BLEUBERIConfig, **components: Any) -> None:
        components.setdefault("reward", BleuConfig().build())
        examples = with_references(components["train_dataset"], config.references)
        super().__init__(model, config, **components | {"train_dataset": examples})
        if config.selection != "all":
            examples = self.selected(examples)
            self.sampler = ExampleSampler(examples, seed=self.run.seed)
            self.stragglers = Stragglers.of(config, examples)
        self.reference_lengths = reference_lengths(examples, self.encoder, config.sampling.max_completion_tokens)
        self.step_metrics: dict[str, float] = {}

    def selected(self, pool: Sequence[Example]) -> list[Example]:
        """The rows to train on, as ``selected.jsonl`` in the run's folder says. Where a run has none yet, the starting
        policy answers the pool, and the file keeps the selected rows with their scores, the highest first.

        Raises:
            DataError: the pool is too small, or not the one that the file was made of.
        """
        file, by_id = Path(self.run.folder) / SELECTED_FILE, {example.id: example for example in pool}
        if file.is_file():
            ids = [json.loads(line)["id"] for line in file.read_text(encoding="utf-8").splitlines()]
            if unknown := set(ids) - set(by_id):
                raise DataError(f"{file} names {min(unknown)!r}, no training row: give the data that it is of")
            return [by_id[name] for name in ids]
        config = self.config
        assert config.selection != "all" and config.selection_size is not None
        scores = dict.fromkeys(by_id, math.nan) if config.selection == "random" else self.pool_scores(pool)
        ids = select_by_score(scores, config.selection, config.selection_size, self.run.seed)
        if self.accelerator.is_main_process:
            write_selected(file, [by_id[name] for name in ids], scores)
        return [by_id[name] for name in ids]

    def pool_scores(self, pool: Sequence[Example]) -> dict[str, float]:
        """The mean reward of the policy's answers to each row; a row none of whose answers could be judged has none."""
        config = self.config
        narrowed = {"temperature": config.selection_temperature, "top_p": config.selection_top_p}
        self.sync()
        groups = answer_and_score(
            self.accelerator,
            self.engine,
            self.encoder,
            pool,
            self.reward,
            sampling=config.sampling.model_copy(update=narrowed),
            n=config.selection_rollouts,
            seed=self.run.seed,
        )
        judged = {group.example.id: rewards_of(scored(group)) for group in groups}
        return {name: rewards.mean().item() for name, rewards in judged.items() if len(rewards)}

    def advantages(self, groups: Sequence[Sequence[Rollout]]) -> list[Tensor]:
        """GRPO's; all 0 in a group whose rewards spread no more than ``min_reward_std``."""
        advantages = super().advantages(groups)
        for number, (values, rollouts) in enumerate(zip(advantages, groups, strict=True)):
            if values.any() and rewards_of(rollouts).std() <= self.config.min_reward_std:
                advantages[number] = torch.zeros_like(values)
        flat = [not values.any() for values in advantages]
        self.step_metrics = {"bleuberi/low_spread_fraction": sum(flat) / max(1, len(flat))}
        return advantages

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """GRPO's. A step in which no rollout has an advantage trains nothing, also not its KL term: it counts towards
        ``max_empty_steps``."""
        samples = super().assign_credit(groups)
        ratios = [
            len(rollout.completion_ids) / self.reference_lengths[group.example.id]
            for group in groups
            for rollout in group.rollouts
        ]
        self.step_metrics["bleuberi/length_ratio"] = sum(ratios) / len(ratios)
        return samples if any(any(sample.token_weights) for sample in samples) else []

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Only metrics."""
        return samples, self.step_metrics


def write_selected(file: Path, examples: Sequence[Example], scores: Mapping[str, float]) -> None:
    """Write the selected rows, a data file of their own; ``score`` is null where none was looked at."""
    rows = [
        {"id": example.id, "prompt": example.prompt, "references": example.references}
        | {"score": None if math.isnan(scores[example.id]) else scores[example.id]}
        for example in examples
    ]
    write_rows(file, rows)
