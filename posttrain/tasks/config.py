"""The tasks that a job's ``data`` section chooses from by ``type``."""

from posttrain.config import component_union
from posttrain.tasks.addition_referee import AdditionRefereeConfig
from posttrain.tasks.arithmetic import ArithmeticConfig, TotalsPreferenceConfig
from posttrain.tasks.attempts import AttemptsTask
from posttrain.tasks.environment import EnvironmentDemonstrationsConfig, EnvironmentTask
from posttrain.tasks.file_task import RowsConfig
from posttrain.tasks.gsm8k import GSM8KConfig
from posttrain.tasks.mixture import MixtureConfig
from posttrain.tasks.multiple_choice import MultipleChoiceTaskConfig
from posttrain.tasks.preference import PreferenceConfig
from posttrain.tasks.rewriting import RewritingConfig

TaskConfig = component_union(
    ArithmeticConfig,
    GSM8KConfig,
    MultipleChoiceTaskConfig,
    RewritingConfig,
    EnvironmentTask,
    AttemptsTask,
    EnvironmentDemonstrationsConfig,
    RowsConfig,
    PreferenceConfig,
    TotalsPreferenceConfig,
    AdditionRefereeConfig,
    MixtureConfig,
)
for refers_to_tasks in (AttemptsTask, MixtureConfig):
    refers_to_tasks.model_rebuild(_types_namespace={"TaskConfig": TaskConfig})
