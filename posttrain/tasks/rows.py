"""A user's own rows as a task: any file or hub dataset, with a column mapping, and no judgement of its own."""

from typing import Literal

from posttrain.rewards.reward import Reward
from posttrain.tasks.file_task import FileTask, FileTaskConfig


class RowsConfig(FileTaskConfig):
    """For example ``{type: rows, path: data.jsonl, columns: {prompt: question}, eval_fraction: 0.05}``."""

    type: Literal["rows"] = "rows"

    def build(self) -> "RowsTask":
        """The task; its files are read when its examples are first asked for."""
        return RowsTask(self)


class RowsTask(FileTask):
    """The job names the reward."""

    def reward(self) -> Reward | None:
        """None."""
        return None
