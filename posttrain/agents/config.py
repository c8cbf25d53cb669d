"""The environments that a job may name by ``type:``; ``package.module:Name`` is one's own."""

from posttrain.agents.crafting import CraftingConfig
from posttrain.agents.http_environment import HTTPEnvironmentConfig
from posttrain.agents.scienceworld import ScienceWorldConfig
from posttrain.agents.vault import VaultConfig
from posttrain.config import component_union

AnyEnvironmentConfig = component_union(VaultConfig, CraftingConfig, ScienceWorldConfig, HTTPEnvironmentConfig)
