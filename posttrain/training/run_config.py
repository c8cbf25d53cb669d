"""Where a run lives and what makes it repeatable."""

from typing import Literal

from pydantic import Field

from posttrain.config import Config


class RunConfig(Config):
    folder: str = Field(default="runs/latest", description="everything that the run writes")
    seed: int = Field(default=0, ge=0)
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of torch in each process; null: its choice"
    )
    trackers: list[Literal["tensorboard", "wandb", "trackio"]] = Field(default_factory=list)
    warm_start_folder: str | None = Field(
        default=None, description="keep the warm-started model here and reuse it; null: inside the run folder"
    )
