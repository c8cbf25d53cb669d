"""The environments that a job may name by ``type:``; ``package.module:Name`` is one's own."""

from posttrain.agents.crafting import CraftingConfig
from posttrain.agents.vault import VaultConfig
from posttrain.config import component_union

AnyEnvironmentConfig = component_union(VaultConfig, CraftingConfig)
