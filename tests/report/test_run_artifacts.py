"""A real run of three steps: its log, its tracker and its page tell the same."""

from pathlib import Path

import pytest

from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import logged_steps, read_metrics, read_rollouts
from posttrain.types import Example, Sampling


class LengthReward:
    """The number of characters, so that every group has a spread."""

    def score(self, inputs: list[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(score=len(one.completion) / 10, parts={"length": len(one.completion)}) for one in inputs]

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def run(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from posttrain.trainers.grpo import GRPOTrainer

    folder = tmp_path_factory.mktemp("run")
    examples = [Example(id=f"sum-{n}", prompt=f"{n}+1=", answer=str(n + 1)) for n in range(8)]
    config = GRPOConfig(
        steps=3,
        prompts_per_step=2,
        rollouts_per_prompt=4,
        learning_rate=1e-3,
        eval_rollouts=1,
        sampling=Sampling(max_completion_tokens=8),
    )
    run = RunConfig(folder=str(folder), trackers=["tensorboard"])
    trainer = GRPOTrainer(
        tiny_model_folder, config, reward=LengthReward(), train_dataset=examples, eval_dataset=examples[:2], run=run
    )
    trainer.train()
    return folder


def test_tensorboard_holds_what_the_log_holds(run: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = next(run.rglob("events.out.tfevents.*"))
    accumulator = EventAccumulator(str(events.parent)).Reload()
    metrics = read_metrics(run)
    assert [line["step"] for line in metrics] == [0, 1, 2, 3]
    names = {name for line in metrics for name in line if name != "step"}
    assert {"reward/mean", "policy/loss", "eval/accuracy"} <= names
    assert set(accumulator.Tags()["scalars"]) == names
    for name in names:
        tracked = {event.step: event.value for event in accumulator.Scalars(name)}
        logged = {int(line["step"]): line[name] for line in metrics if name in line}
        assert tracked == pytest.approx(logged, rel=1e-6)  # tensorboard keeps float32


def test_rollouts_are_logged_at_every_step_with_their_weights(run: Path) -> None:
    assert logged_steps(run) == [1, 2, 3]
    for record in read_rollouts(run, 2):
        for rollout in record["rollouts"]:
            sizes = {len(rollout[name]) for name in ("tokens", "weights", "origin", "logprobs")}
            assert rollout["kept"] and len(sizes) == 1
            assert rollout["reward_parts"]["length"] == len(rollout["text"])
        assert abs(sum(rollout["weights"][0] for rollout in record["rollouts"])) < 1e-4  # a group's advantages


def test_the_page_is_written(run: Path) -> None:
    assert "sum-" in (run / "report.html").read_text()
