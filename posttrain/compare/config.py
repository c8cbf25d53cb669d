"""What a comparison file says."""

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from posttrain.compare.expectation import Expectation
from posttrain.config import Config

WARM_START = "warm_start"


class BudgetConfig(Config):
    """What every arm may spend on training, warm start apart; checked against what it logged."""

    kind: Literal["steps", "rollouts", "environment_steps", "training_tokens", "seconds"]
    value: float = Field(
        gt=0, description="of one run; kind steps sets trainer.steps, training_tokens trainer.max_trained_tokens"
    )
    tolerance: float = Field(default=0.05, ge=0, description="relative difference that still counts as equal")


class ComparisonConfig(Config):
    job: str = Field(description="the job file that every arm starts from, relative to this file")
    metric: str = Field(default="eval/accuracy", description="a name in metrics.jsonl")
    metrics: list[str] = Field(
        default_factory=list,
        description="instead of metric: several, the main one first; each has tables and curves",
    )
    seeds: list[int] = Field(min_length=1)
    budget: BudgetConfig
    shared: list[Literal["warm_start"]] = Field(default_factory=list, description="stages run once a seed")
    arms: dict[str, dict[str, Any]] = Field(
        min_length=1,
        description="changes to the job, as sections or dotted keys; a section with a `type` replaces the job's. "
        "`job` names another job file. {folder} in a text is the seed's folder, where the earlier arms' runs are. "
        "Differences are to the first arm",
    )
    own_budget: list[str] = Field(default_factory=list, description="arms that spend what their own job says")
    expect: list[str] = Field(default_factory=list, description="such as `oreal end >= 0.7`")

    @field_validator("arms", mode="before")
    @classmethod
    def _an_arm_may_change_nothing(cls, arms: Any) -> Any:
        return {name: changes or {} for name, changes in arms.items()} if isinstance(arms, dict) else arms

    @field_validator("arms")
    @classmethod
    def _arms_name_folders(cls, arms: dict[str, Any]) -> dict[str, Any]:
        for name in arms:
            if name == WARM_START or not re.fullmatch(r"\w[\w.-]*", name):
                raise ValueError(f"{name!r} cannot name an arm: letters, digits, and - . _ inside; not {WARM_START}")
        return arms

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError(f"should be different numbers from 0, not {seeds}")
        return seeds

    @model_validator(mode="before")
    @classmethod
    def _the_first_metric_is_the_main_one(cls, said: Any) -> Any:
        if not isinstance(said, dict):
            return said
        metrics = said.get("metrics") or [said.get("metric", "eval/accuracy")]
        first = metrics[0] if isinstance(metrics, list) else None
        if said.get("metric", first) != first:
            raise ValueError(f"metrics: the first, {first}, is the main one: drop `metric: {said['metric']}`")
        return {**said, "metric": first, "metrics": metrics}

    @model_validator(mode="after")
    def _expectations_are_about_arms(self) -> "ComparisonConfig":
        for arm in self.own_budget:
            if arm not in self.arms:
                raise ValueError(f"own_budget: there is no arm {arm!r} (arms: {', '.join(self.arms)})")
        for text in self.expect:
            for arm in Expectation.parse(text).arms:
                if arm not in self.arms:
                    raise ValueError(f"expect: {text!r}: there is no arm {arm!r} (arms: {', '.join(self.arms)})")
        return self
