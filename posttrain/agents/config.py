"""The environments that a job may name by ``type:``; ``package.module:Name`` is one's own."""

from posttrain.agents.crafting import CraftingConfig
from posttrain.agents.http_environment import HTTPEnvironmentConfig
from posttrain.agents.scienceworld import ScienceWorldConfig
from posttrain.agents.textworld import TextWorldConfig
from posttrain.agents.vault import VaultConfig
from posttrain.agents.workplace import WorkplaceConfig
from posttrain.config import CustomConfig, component_union


class CustomEnvironmentConfig(CustomConfig):
    """A user's own ``Environment``, which itself names its tasks."""

    def task_ids(self, split: str) -> list[str]:
        """The tasks of ``split``, train or eval; the two share none."""
        ids: list[str] = self.build().task_ids(split)
        return ids


AnyEnvironmentConfig = component_union(
    VaultConfig, CraftingConfig, ScienceWorldConfig, TextWorldConfig, WorkplaceConfig, HTTPEnvironmentConfig,
    custom=CustomEnvironmentConfig,
)  # fmt: skip
