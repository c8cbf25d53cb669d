"""Rewards in YAML: every type, nested to any depth, and a user's own class or function."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from posttrain.errors import RewardFailure
from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import GateReward, JoinedReward
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.types import Example

HERE = Path(__file__).parent
# What needs a model, a server or a sandbox has one in test_learned, test_token_reward, test_generative, test_client and
# test_code.
NEED_MORE = {"code.yaml", "learned-serve.yaml", "ensemble.yaml", "oreal-token.yaml", "judge.yaml", "remote.yaml"}
NEED_MORE |= {"referee.yaml"}  # in test_referee
NEED_MORE |= {"goal-conditioned.yaml"}  # in test_goal_conditioned
# Jobs that train a reward model are in test_reward_model.
FILES = sorted(p for p in (HERE.parents[1] / "reward_models").glob("*.yaml") if not p.stem.endswith("-train"))
REWARD_MODELS = [path for path in FILES if path.name not in NEED_MORE]
ADAPTER: TypeAdapter[Any] = TypeAdapter(RewardConfig)


@pytest.fixture(autouse=True)
def custom_rewards_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def build(config: Mapping[str, Any]) -> Reward:
    reward: Reward = ADAPTER.validate_python(config).build()
    return reward


def judge(reward: Reward, completion: str, answer: str = "5") -> RewardOutput:
    instructions = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    example = Example("row", "question", answer, [completion], metadata=instructions)
    return score_checked(reward, [RewardInput(example, completion, [1] * 90)])[0]


NESTED = """
type: weighted_sum
parts:
  answer:
    reward:
      type: gate
      condition: {type: format, boxed: true}
      otherwise: -1
      reward:
        type: route
        routes: {verifiable: {type: custom_rewards:Constant, value: 0.75}}
  overlong: {weight: 0.5, reward: {type: overlong, max_completion_tokens: 100, buffer_tokens: 20}}
"""


def test_nested_rewards() -> None:
    reward = build(yaml.safe_load(NESTED))
    assert judge(reward, r"\boxed{5}") == RewardOutput(
        0.5,
        {
            "answer": 0.75,
            "answer/format": 1.0,
            "answer/format/boxed": 1.0,
            "answer/route": 0.75,
            "answer/route/verifiable": 0.75,
            "overlong": -0.5,
        },
    )
    assert judge(reward, "5").score == -1.25


def test_a_config_survives_being_written_and_read() -> None:
    config = ADAPTER.validate_python(yaml.safe_load(NESTED))
    assert ADAPTER.validate_python(yaml.safe_load(yaml.safe_dump(ADAPTER.dump_python(config, mode="json")))) == config


GOOD_COMPLETIONS = {"json.yaml": '{"answer": "5"}'}


@pytest.mark.parametrize("path", REWARD_MODELS, ids=lambda path: path.name)
def test_reward_model_files_load(path: Path) -> None:
    reward = build(yaml.safe_load(path.read_text())["reward"])
    assert judge(reward, GOOD_COMPLETIONS.get(path.name, r"the answer is \boxed{5.0}")).score == 1
    reward.close()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_reward_model_files_are_valid(path: Path) -> None:
    assert ADAPTER.validate_python(yaml.safe_load(path.read_text())["reward"]).type


def test_a_class_with_plain_keywords() -> None:
    output = judge(build({"type": "custom_rewards:Failing", "reason": "out of order"}), "x")
    assert (output.error, output.message) == ("unavailable", "out of order")


def test_a_trl_function_by_its_path() -> None:
    assert judge(build({"type": "custom_rewards:length_reward", "scale": 0.5}), "four").score == 2
    assert judge(build({"type": "trl_function", "function": "custom_rewards:length_reward"}), "four").score == 4


def test_on_error_at_any_depth() -> None:
    failing = {"type": "custom_rewards:Failing"}
    scored = build(
        {"type": "gate", "condition": {**failing, "on_error": "score", "error_score": 1.0}, "reward": failing}
    )
    assert isinstance(scored, GateReward)
    output = judge(scored, "x")
    assert (output.score, output.error) == (None, "unavailable")
    assert output.parts == {"condition": 1.0, "condition/error/unavailable": 1.0}

    parts = {"a": {"reward": failing}}
    whole = build({"type": "weighted_sum", "parts": parts, "on_error": "score", "error_score": -0.5})
    assert judge(whole, "x").score == -0.5
    with pytest.raises(RewardFailure, match=r"failing could not judge .*'row': unavailable \(no judge\)"):
        judge(build({**failing, "on_error": "stop"}), "x")
    assert isinstance(build({"type": "weighted_sum", "parts": parts}), JoinedReward)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "math_anser"}, "math_anser"),
        ({"type": "math_answer", "timeout": 3}, "timeout"),
        ({"type": "gate", "condition": {"type": "format"}, "reward": {"type": "math_answer"}}, "asks for nothing"),
        ({"type": "format", "pattern": "(a"}, "is not a regular expression"),
        ({"type": "overlong", "max_completion_tokens": 10, "buffer_tokens": 20}, r"buffer_tokens \(20\)"),
        ({"type": "weighted_sum", "parts": {}}, "parts"),
        ({"type": "math_answer", "on_error": "score"}, "on_error: score and error_score belong together"),
        ({"type": "math_answer", "error_score": 0.0}, "on_error: score and error_score belong together"),
        ({"type": "custom_rewards:Missing"}, "module 'custom_rewards' has no 'Missing'"),
        ({"type": "custom_rewards:Constant", "valeu": 1}, "valeu"),
        ({"type": "trl_function", "function": "custom_rewards:HERE"}, "has no 'HERE'"),
    ],
)
def test_mistakes_are_named(config: Mapping[str, Any], message: str) -> None:
    with pytest.raises((ValidationError, ValueError), match=message):
        ADAPTER.validate_python(config)
