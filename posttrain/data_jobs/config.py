"""The YAML of ``posttrain data``. Importing this imports no torch."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from posttrain.agents.workplace import WorkplaceConfig
from posttrain.config import Config, component_union
from posttrain.data.selection import SelectionMode
from posttrain.data_jobs.pool import PoolConfig, PromptRowsConfig
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.judge.chat_endpoint import EndpointConfig
from posttrain.rewards.judge.judge_engine import EngineJudgeConfig
from posttrain.rewards.references.bleu import BleuConfig
from posttrain.rollout.config import EngineConfig, TransformersEngineConfig
from posttrain.tasks.rewriting import RewritingConfig
from posttrain.training.model_config import ModelSource
from posttrain.types import Sampling

if TYPE_CHECKING:
    PoolOrTask = Any
    AnswererConfig = EndpointConfig | EngineJudgeConfig
else:
    PoolOrTask = component_union(PoolConfig, RewritingConfig)
    AnswererConfig = component_union(EndpointConfig, EngineJudgeConfig)


class PoolSampling(Sampling):
    """As BLEUBERI's release answers its pool (arXiv 2505.11080)."""

    temperature: float = Field(default=0.7, ge=0.0, description="0 is greedy")
    top_p: float = Field(default=0.9, gt=0.0, le=1.0)


class SelectHardConfig(Config):
    """``posttrain data select-hard``: the model answers every row, and those it does worst on are kept."""

    model: ModelSource
    engine: EngineConfig = Field(default_factory=TransformersEngineConfig)
    data: PoolOrTask
    metric: RewardConfig = Field(default_factory=BleuConfig, description="any reward, of an answer to its row")
    sampling: PoolSampling = Field(default_factory=PoolSampling)
    select: SelectionMode = Field(default="hard", description="random: no row is answered or scored")
    size: int = Field(ge=1, description="rows that are kept; 5,000 in the paper")
    seed: int = Field(default=42, ge=0)
    output: str = Field(description="folder")


class ReferenceModelConfig(Config):
    """A model that writes references: behind an endpoint, or in an engine of this process."""

    answerer: AnswererConfig
    input_price: float = Field(default=0.0, ge=0, description="of a million tokens, for the estimate")
    output_price: float = Field(default=0.0, ge=0, description="of a million tokens, for the estimate")
    expected_tokens: int | None = Field(default=None, ge=1, description="of an answer, for the estimate; null: most")
    expected_seconds: float = Field(default=10.0, gt=0, description="of a call, for the estimate")
    stop_after_failures: int = Field(default=20, ge=1, description="calls in a row that fail before it is left alone")


class AddReferencesConfig(Config):
    """``posttrain data add-references``: each model answers every row, into a column ``ref_output_NAME``."""

    data: PromptRowsConfig
    models: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], ReferenceModelConfig] = Field(min_length=1)
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.0, max_completion_tokens=1024))
    seed: int = Field(default=42, ge=0)
    output: str = Field(description="folder")


class InstructionPairsConfig(Config):
    """``posttrain data instruction-pairs``: harmful instructions and their benign twins."""

    environment: WorkplaceConfig
    split: Literal["train", "eval"] = "train"
    output: str = Field(description="file")
