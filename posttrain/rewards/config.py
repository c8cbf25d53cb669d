"""``RewardConfig``: the rewards that a job can name by ``type``. Importing it imports no reward's libraries."""

import inspect
from typing import TYPE_CHECKING

from pydantic import ConfigDict

from posttrain.config import CustomConfig, component_union, load_object
from posttrain.rewards.code.code import CodeReward
from posttrain.rewards.composition import (
    EnsembleConfig,
    GateConfig,
    ProductConfig,
    RouteConfig,
    WeightedPart,
    WeightedSumConfig,
)
from posttrain.rewards.format import FormatReward, RegexMatchReward
from posttrain.rewards.instructions.instructions import InstructionsConfig
from posttrain.rewards.instructions.json_schema import JsonSchemaReward
from posttrain.rewards.instructions.multiple_choice import MultipleChoiceReward
from posttrain.rewards.judge.generative import GenerativeReward, RefereeReward
from posttrain.rewards.learned.goal_conditioned import GoalConditionedReward
from posttrain.rewards.learned.learned import LearnedReward
from posttrain.rewards.learned.token_reward import TokenReward
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.math.math_answer import MathAnswerReward
from posttrain.rewards.on_error import BaseRewardConfig
from posttrain.rewards.penalties import OverlongReward, RepetitionReward
from posttrain.rewards.references.bleu import BleuConfig, BleuRougeConfig
from posttrain.rewards.references.reference import ChrfConfig, ExactMatchConfig, RougeLConfig, TokenF1Config
from posttrain.rewards.remote.remote import RemoteReward
from posttrain.rewards.rescaling import ClipConfig, NormaliseConfig, ShuffledReward
from posttrain.rewards.reward import Reward
from posttrain.rewards.trl_function import TRLFunctionReward


class CustomRewardConfig(BaseRewardConfig, CustomConfig):  # type: ignore[misc]  # its ``build`` is a reward's
    """A user's own reward: a class with ``score`` and ``close``, or a function in TRL's form.

    The other keys go to the class (see ``CustomConfig``), or to the function as keyword arguments.
    """

    model_config = ConfigDict(extra="allow")

    def make(self) -> Reward:
        component = load_object(self.type)
        if inspect.isclass(component):
            reward: Reward = CustomConfig.build(self)
            return reward
        return TRLFunctionReward(function=component, arguments=self.model_extra or {})


REWARDS: tuple[type[BaseRewardConfig], ...] = (
    MathAnswerReward,
    ExactIntegerReward,
    CodeReward,
    FormatReward,
    RegexMatchReward,
    MultipleChoiceReward,
    InstructionsConfig,
    JsonSchemaReward,
    OverlongReward,
    RepetitionReward,
    TRLFunctionReward,
    BleuConfig,
    BleuRougeConfig,
    ChrfConfig,
    RougeLConfig,
    ExactMatchConfig,
    TokenF1Config,
    WeightedSumConfig,
    ProductConfig,
    ClipConfig,
    NormaliseConfig,
    GateConfig,
    RouteConfig,
    ShuffledReward,
    RemoteReward,
    LearnedReward,
    GoalConditionedReward,
    TokenReward,
    EnsembleConfig,
    GenerativeReward,
    RefereeReward,
)

if TYPE_CHECKING:
    RewardConfig = BaseRewardConfig
else:
    RewardConfig = component_union(*REWARDS, custom=CustomRewardConfig)

WeightedPart.model_rebuild(_types_namespace={"RewardConfig": RewardConfig})
for _config in REWARDS:
    _config.model_rebuild(_types_namespace={"RewardConfig": RewardConfig})
