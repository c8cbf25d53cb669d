"""Clip and normalise: scores, groups, errors, and BLEUBERI's mean of two z-scores."""

from collections.abc import Sequence

import pytest
import yaml
from pydantic import TypeAdapter, ValidationError

from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import weighted_sum
from posttrain.rewards.config import RewardConfig
from posttrain.rewards.rescaling import clip, normalise
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.types import Example

FAILED = RewardOutput(None, {"seen": 1.0}, error="timeout", message="no result after 5 s")


class Listed:
    """The given outputs, one after the other."""

    name = "listed"

    def __init__(self, *outputs: RewardOutput | float | None) -> None:
        self.outputs = outputs

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [output if isinstance(output, RewardOutput) else RewardOutput(output) for output in self.outputs]

    def close(self) -> None:
        pass


def inputs(*ids: str) -> list[RewardInput]:
    return [RewardInput(Example(id, "question"), "completion") for id in ids]


def test_clip_keeps_the_score_as_it_was_in_the_parts() -> None:
    outputs = score_checked(clip(Listed(-3.0, 0.25, 7.0, FAILED), low=-1.0, high=2.0), inputs(*"aabb"))
    assert outputs[:3] == [
        RewardOutput(-1.0, {"listed": -3.0}),
        RewardOutput(0.25, {"listed": 0.25}),
        RewardOutput(2.0, {"listed": 7.0}),
    ]
    assert (outputs[3].score, outputs[3].error, outputs[3].parts) == (None, "timeout", {"listed/seen": 1.0})
    assert outputs[3].message == "listed: no result after 5 s"


def test_clip_on_one_side() -> None:
    assert [o.score for o in score_checked(clip(Listed(-3.0, 7.0), low=-1.0), inputs(*"ab"))] == [-1.0, 7.0]
    assert [o.score for o in score_checked(clip(Listed(-3.0, 7.0), high=1.0), inputs(*"ab"))] == [-3.0, 1.0]


def test_z_scores_are_of_the_group() -> None:
    reward = normalise(Listed(1.0, 2.0, 3.0, 10.0, 30.0))
    outputs = score_checked(reward, inputs(*"aaabb"))
    assert [o.score for o in outputs] == pytest.approx([-1, 0, 1, -(0.5**0.5), 0.5**0.5])
    assert outputs[3].parts == {"listed": 10.0}


def test_min_max_is_of_the_group() -> None:
    outputs = score_checked(normalise(Listed(1.0, 2.0, 5.0, -10.0, 30.0), "min_max"), inputs(*"aaabb"))
    assert [o.score for o in outputs] == [0.0, 0.25, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("method", ["z_score", "min_max"])
def test_a_group_without_spread_is_0(method: str) -> None:
    outputs = score_checked(normalise(Listed(0.1, 0.1, 0.1, 5.0), method), inputs(*"aaab"))  # type: ignore[arg-type]
    assert [o.score for o in outputs] == [0.0, 0.0, 0.0, 0.0]


def test_failed_rollouts_take_no_part_in_the_statistics() -> None:
    outputs = score_checked(normalise(Listed(1.0, FAILED, 3.0, None)), inputs(*"aaaa"))
    assert [o.score for o in outputs] == pytest.approx([-(0.5**0.5), None, 0.5**0.5, None])
    assert [o.error for o in outputs] == [None, "timeout", None, "invalid_input"]


def test_fixed_statistics_do_not_look_at_the_group() -> None:
    outputs = score_checked(normalise(Listed(1.0, 2.0, 9.0), "fixed", mean=1.0, std=4.0), inputs(*"aab"))
    assert [o.score for o in outputs] == [0.0, 0.25, 2.0]


def test_the_mean_of_two_z_scores() -> None:
    bleu = normalise(Listed(0.1, 0.2, 0.3))
    model = normalise(Listed(100.0, 50.0, 0.0))
    outputs = score_checked(weighted_sum({"bleu": (0.5, bleu), "rm": (0.5, model)}), inputs(*"aaa"))
    assert [o.score for o in outputs] == pytest.approx([0.0, 0.0, 0.0])
    assert outputs[0].parts == pytest.approx({"bleu": -1, "bleu/listed": 0.1, "rm": 1, "rm/listed": 100})


def test_in_yaml() -> None:
    config = """
    type: product
    parts:
      clipped: {type: clip, low: 0, high: 0.5, reward: {type: exact_integer}}
      fixed: {type: normalise, method: fixed, mean: -1, std: 2, reward: {type: exact_integer}}
    """
    adapter: TypeAdapter[RewardConfig] = TypeAdapter(RewardConfig)
    reward = adapter.validate_python(yaml.safe_load(config)).build()
    output = score_checked(reward, [RewardInput(Example("a", "2+3=", "5"), "5")])[0]
    assert output.score == 0.5
    assert {"clipped": 0.5, "clipped/exact_integer": 1.0, "fixed": 1.0}.items() <= output.parts.items()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "clip"}, "clip asks for nothing"),
        ({"type": "clip", "low": 1, "high": 1}, r"low \(1\) must be below high \(1\)"),
        ({"type": "normalise", "method": "fixed"}, "mean and std belong to method: fixed, which needs them"),
        ({"type": "normalise", "mean": 3}, "mean and std belong to method: fixed"),
        ({"type": "normalise", "method": "fixed", "mean": 0, "std": 0}, "std"),
    ],
)
def test_mistakes_are_named(config: dict[str, object], message: str) -> None:
    adapter: TypeAdapter[RewardConfig] = TypeAdapter(RewardConfig)
    with pytest.raises(ValidationError, match=message):
        adapter.validate_python({**config, "reward": {"type": "exact_integer"}})
