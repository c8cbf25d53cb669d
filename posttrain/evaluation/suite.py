"""A suite: named sets of prompts, and how each is answered and judged. Importing this imports no torch."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from posttrain.config import Config
from posttrain.errors import JobError
from posttrain.rewards.config import RewardConfig
from posttrain.rollout.config import EngineConfig, TransformersEngineConfig
from posttrain.tasks.config import TaskConfig
from posttrain.training.model_config import ModelSource
from posttrain.types import Sampling


class SetConfig(Config):
    """The held-out examples of a task; all rows of a file task that holds none out.

    Examples of preferences are not answered: the reward scores their candidates, and the score is the share of the
    worse ones that the best one beats.
    """

    task: TaskConfig
    reward: RewardConfig | None = Field(default=None, description="null: the task's own")
    sampling: Sampling = Field(default_factory=lambda: Sampling(temperature=0.0, max_completion_tokens=1024))
    rollouts: int = Field(default=1, ge=1, description="of each prompt: the n of mean@n and of pass@k")
    limit: int | None = Field(default=None, ge=1, description="only the first examples")
    vote: Literal["math", "letter", "text"] | None = Field(
        default=None, description="which answer of a completion votes in maj@k; null: no vote"
    )
    category: str | None = Field(default=None, description="a column of the rows; a score for each of its values")
    length_control: bool = Field(
        default=False, description="scores are wins over the first reference: also the win rate at equal length"
    )

    @model_validator(mode="after")
    def _rollouts_differ(self) -> "SetConfig":
        if self.rollouts > 1 and self.sampling.temperature == 0:
            raise ValueError("rollouts above 1 are all equal at sampling.temperature 0; raise it, or take one")
        return self


class ContaminationConfig(Config):
    """Which prompts share a run of words with the rows of a training file."""

    path: str = Field(description="a data file, a dataset folder or a hub dataset; all texts of a row count")
    split: str = "train"
    words: int = Field(default=13, ge=1, description="in a row, as in arXiv 2005.14165; of shorter prompts: all")


class SuiteConfig(Config):
    """The whole of a suite file."""

    sets: dict[Annotated[str, Field(pattern=r"^[\w.-]+$")], SetConfig] = Field(min_length=1)
    model: ModelSource | None = Field(default=None, description="of a suite that brings its own; --model replaces it")
    engine: EngineConfig = Field(default_factory=TransformersEngineConfig)
    seed: int = Field(default=0, ge=0, description="equal to a run's, an evaluation repeats the run's own")
    contamination: ContaminationConfig | None = None


def model_folder(model: str) -> str:
    """The model of a run folder; any other folder or hub id as it is.

    Raises:
        JobError: a run without a model, a folder that is no model, or one without a tokenizer.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise JobError(f"--model: there is no folder {model!r}")
        return model
    if (folder / "job.yaml").is_file():
        folder = folder / "model"
        if not folder.is_dir():
            raise JobError(f"--model: the run {model} has no model yet; go on with it: posttrain train --resume auto")
    if not (folder / "config.json").is_file():
        raise JobError(f"--model: {folder} is neither a run nor a model: it has no config.json")
    if not any(folder.glob("tokenizer*")):
        raise JobError(f"--model: {folder} has no tokenizer; copy tokenizer* from the model that it was made from")
    return str(folder)
