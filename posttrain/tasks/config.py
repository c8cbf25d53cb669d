"""The tasks that a job's ``data`` section chooses from by ``type``."""

from posttrain.config import component_union
from posttrain.tasks.addition_referee import AdditionRefereeConfig
from posttrain.tasks.arithmetic import ArithmeticConfig
from posttrain.tasks.attempts import AttemptsConfig
from posttrain.tasks.environment import EnvironmentDemonstrationsConfig, EnvironmentTaskConfig
from posttrain.tasks.file_task import RowsConfig
from posttrain.tasks.gsm8k import GSM8KConfig
from posttrain.tasks.mixture import MixtureConfig
from posttrain.tasks.multiple_choice import MultipleChoiceTaskConfig
from posttrain.tasks.preference import PreferenceConfig
from posttrain.tasks.rewriting import RewritingConfig
from posttrain.tasks.totals_preference import TotalsPreferenceConfig

TaskConfig = component_union(
    ArithmeticConfig,
    GSM8KConfig,
    MultipleChoiceTaskConfig,
    RewritingConfig,
    EnvironmentTaskConfig,
    AttemptsConfig,
    EnvironmentDemonstrationsConfig,
    RowsConfig,
    PreferenceConfig,
    TotalsPreferenceConfig,
    AdditionRefereeConfig,
    MixtureConfig,
)
for refers_to_tasks in (AttemptsConfig, MixtureConfig):
    refers_to_tasks.model_rebuild(_types_namespace={"TaskConfig": TaskConfig})
