"""The numbers of an iteration, and of the steps that its episodes took."""

import pytest

from posttrain.agents.episodes import count_turns
from posttrain.agents.reflection import Pair
from posttrain.agents.revision import Revision
from posttrain.trainers.agent_r_record import TreeCounts, iteration_metrics
from posttrain.trainers.step_metrics import rollout_metrics
from posttrain.types import Example, Origin, Rollout, RolloutGroup

EXAMPLE = Example(id="vault/1/0", prompt="u", task="environment")


def test_the_kept_share_is_told_by_the_number_of_bad_steps() -> None:
    found = [
        (1, "spliced"),
        (1, "recovered"),
        (1, "spliced"),
        (1, "failed"),
        (3, "failed"),
        (4, "spliced"),
        (9, "failed"),
    ]
    revisions = [Revision("r", EXAMPLE, Pair(0, 1, 2), bad, 10, how, environment_steps=7) for bad, how in found]
    trees = [TreeCounts(30, 0, [3, 2]), TreeCounts(20, 1, [1])]
    metrics = iteration_metrics(0.7, trees, revisions, without_verdict=2)
    after = {name: value for name, value in metrics.items() if name.startswith("agent_r/spliced_after")}
    assert after == {
        "agent_r/spliced_after_1": 0.5,  # of four, two
        "agent_r/spliced_after_3": 0.0,
        "agent_r/spliced_after_4": 0.5,  # 4 and 9
    }
    assert metrics["batch/environment_steps"] == 30 + 20 + 7 * 7
    assert metrics["agent_r/spliced"] == pytest.approx(3 / 7)
    assert metrics["agent_r/children"] == 2.0 and metrics["agent_r/environment_failures"] == 1.0


def test_an_episode_takes_a_step_for_each_turn() -> None:
    masks, given = [[1, 1, 0, 0, 1, 0, 1], [0, 1], []], [Origin.ENVIRONMENT, Origin.ENVIRONMENT, Origin.ENVIRONMENT]
    assert [count_turns(mask) for mask in masks] == [3, 1, 0]
    rollouts = [
        Rollout("q", index, [1], [1] * len(mask), mask, [0.0] * len(mask), "stop", 0, "", given=origin, reward=0.0)
        for index, (mask, origin) in enumerate(zip(masks, given, strict=True))
    ]
    assert rollout_metrics([RolloutGroup(EXAMPLE, rollouts)], {}, 0)["batch/environment_steps"] == 4.0
    for rollout in rollouts:
        rollout.given = Origin.PROMPT
    assert "batch/environment_steps" not in rollout_metrics([RolloutGroup(EXAMPLE, rollouts)], {}, 0)
