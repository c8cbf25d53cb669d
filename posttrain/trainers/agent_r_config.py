"""Settings of Agent-R."""

from typing import Literal

from pydantic import Field, model_validator

from posttrain.agents.reflection import ReflectionConfig
from posttrain.agents.tree_search import SearchConfig
from posttrain.tasks.config import TaskConfig
from posttrain.trainers.policy_config import PolicyTrainerConfig

NO_ENVIRONMENT = "agent_r searches an environment; set data.type to environment, or attempts"


class AgentRConfig(PolicyTrainerConfig):
    """Defaults are those of arXiv 2501.11425. A step is one iteration: search ``prompts_per_step`` tasks, revise, and
    fine-tune ``updates_per_step`` times over the data, in ``minibatches_per_step`` updates each.

    ``rollouts_per_prompt`` is not used: a tree decides.
    """

    steps: int = Field(default=3, ge=1, description="iterations of search and training")
    search: SearchConfig = Field(default_factory=SearchConfig)
    reflection: ReflectionConfig = Field(default_factory=ReflectionConfig)
    train_on: Literal["revisions_and_good", "good_only", "revisions_only"] = Field(
        default="revisions_and_good", description="good_only: the search without its revisions"
    )
    restart_from: Literal["previous", "base"] = Field(
        default="previous", description="the policy that an iteration fine-tunes; base: the first, with a new optimizer"
    )
    general: TaskConfig | None = Field(default=None, description="demonstrations of other data, mixed in")
    agent_fraction: float = Field(default=0.2, gt=0, le=1, description="eta: share of the sequences, where general is")

    @model_validator(mode="after")
    def _a_tree_has_no_groups(self) -> "AgentRConfig":
        for name in ("oversample", "budget_schedule", "importance_correction"):
            if getattr(self, name):
                raise ValueError(f"{name} is not for agent_r, which trains on what it takes from trees; leave it out")
        return self
