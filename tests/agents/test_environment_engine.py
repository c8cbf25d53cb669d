"""Episodes as rollouts: ids flow untouched, observations are not trained, and a broken environment costs its own."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from posttrain.agents.environment_engine import EnvironmentEngine
from posttrain.rewards.checked import score_checked
from posttrain.rollout.transformers_engine import TransformersEngine
from posttrain.tasks.environment import EnvironmentTask
from posttrain.trainers.collection import reward_inputs
from posttrain.trainers.credit import training_sample
from posttrain.types import Example, Origin, Rollout, RolloutGroup, RolloutRequest, Sampling


def engine_of(task: EnvironmentTask, policy: Any) -> EnvironmentEngine:
    return EnvironmentEngine(policy, task._pool, task.max_turn_tokens)


def requests_of(
    engine: EnvironmentEngine, examples: Sequence[Example], n: int = 2, budget: int = 200
) -> list[RolloutRequest]:
    return [
        RolloutRequest(
            example.id, example, engine.encoder.prompt_ids(example), Sampling(max_completion_tokens=budget), 7, n
        )
        for example in examples
    ]


class Recording:
    """The engine inside, with what it sampled."""

    def __init__(self, inside: TransformersEngine) -> None:
        self.inside = inside
        self.sampled: dict[str, Rollout] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inside, name)

    def finished(self) -> Iterator[Rollout]:
        for rollout in self.inside.finished():
            self.sampled[rollout.request_id] = rollout
            yield rollout


def test_ids_and_logprobs_flow_untouched(task_of: Callable[..., EnvironmentTask], policy: TransformersEngine) -> None:
    recording = Recording(policy)
    task = task_of("Parity")
    engine = engine_of(task, recording)
    for rollout in engine.generate(requests_of(engine, task.train_examples()[:3])):
        turns = [recording.sampled[f"{rollout.request_id}/{rollout.index}/{number}"] for number in range(3)]
        sampled = [
            (i, p)
            for i, p, bit in zip(rollout.completion_ids, rollout.logprobs, rollout.action_mask, strict=True)
            if bit
        ]
        assert sampled == [pair for turn in turns for pair in zip(turn.completion_ids, turn.logprobs, strict=True)]
        # what the policy read before its last turn is what the rollout says it read
        assert turns[-1].prompt_ids + turns[-1].completion_ids == rollout.prompt_ids + rollout.completion_ids
        even = sum(len(turn.text.encode()) % 2 == 0 for turn in turns)
        assert rollout.outcome == pytest.approx(even / 3)
        assert rollout.finish_reason == "stop"
        assert "ok 1" in rollout.text and "ok 2" in rollout.text and "ok 3" not in rollout.text


def test_observations_are_of_the_environment_and_have_no_weight(parity: EnvironmentEngine, task_of: Any) -> None:
    (rollout,) = parity.generate(requests_of(parity, task_of("Parity").train_examples()[:1], n=1))
    sample = training_sample(rollout, 0.5)
    start = len(rollout.prompt_ids)
    assert {Origin.POLICY, Origin.ENVIRONMENT} == set(sample.origin[start:])
    for origin, trained, weight in zip(sample.origin, sample.trained, sample.token_weights, strict=True):
        assert (trained, weight) == ((1, 0.5) if origin == Origin.POLICY else (0, 0.0))
    said = [
        token for token, origin in zip(sample.input_ids, sample.origin, strict=True) if origin == Origin.ENVIRONMENT
    ]
    assert "<|user|>ok 1<|end|><|assistant|>" in parity.encoder.text(said)


def test_an_episode_does_not_depend_on_the_others(parity: EnvironmentEngine, task_of: Any) -> None:
    requests = requests_of(parity, task_of("Parity").train_examples(), n=3)
    together = parity.generate(requests)
    alone = [rollout for request in requests for rollout in parity.generate([request])]
    assert [rollout.completion_ids for rollout in together] == [rollout.completion_ids for rollout in alone]


@pytest.mark.parametrize("budget", [40, 1000])
def test_budget_and_context_end_an_episode(task_of: Any, policy: TransformersEngine, budget: int) -> None:
    task = task_of("Endless")
    engine = engine_of(task, policy)
    for rollout in engine.generate(requests_of(engine, task.train_examples()[:2], budget=budget)):
        assert rollout.finish_reason == "length" and rollout.outcome == 0.0
        assert rollout.action_mask[-1] == 1
        assert len(rollout.completion_ids) <= budget
        assert len(rollout.prompt_ids) + len(rollout.completion_ids) <= policy.context_length


def test_a_failing_environment_costs_its_rollout_alone(task_of: Any, policy: TransformersEngine) -> None:
    task = task_of("Failing", deadline_s=1.5, workers=2)
    engine = engine_of(task, policy)
    examples = task.train_examples()
    rollouts = engine.generate(requests_of(engine, examples, n=1))
    outputs = {
        example.id: score_checked(task.reward(), reward_inputs(RolloutGroup(example, [rollout])))[0]
        for example, rollout in zip(examples, rollouts, strict=True)
    }
    assert {name for name, output in outputs.items() if output.error} == {
        f"{how}/0" for how in ("raise", "hang", "nan", "high", "no text", "die", "says")
    }
    assert outputs["negative/0"].score == 0.0
    assert outputs["fine/0"].score is not None


def test_an_episode_goes_on_from_turns_and_a_forced_beginning(parity: EnvironmentEngine, task_of: Any) -> None:
    example = task_of("Parity").train_examples()[0]
    example.metadata["turns"] = ["ab", "cd"]
    (request,) = requests_of(parity, [example], n=1)
    request.prefix_ids = parity.encoder.completion_ids("xyz")
    (rollout,) = parity.generate([request])
    assert rollout.completion_ids[:3] == request.prefix_ids and rollout.action_mask[:4] == [0, 0, 0, 1]
    assert len(rollout.completion_ids) <= 3 + 3
    assert rollout.outcome in (pytest.approx(2 / 3), 1.0)  # two even turns were taken, one was left
