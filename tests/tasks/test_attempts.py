"""A task with answers as an environment: what answers lead to, and that its prompts are the task's, token by token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from posttrain.agents.environment import StepResult
from posttrain.agents.environment_pool import Position
from posttrain.data.chat import PromptEncoder
from posttrain.errors import JobError
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.tasks.attempts import AttemptsTask
from posttrain.tasks.config import TaskConfig
from posttrain.types import Example, RolloutRequest, Sampling

ADDITIONS = {"type": "arithmetic", "max_operand": 9, "terms": 4, "train_size": 20, "eval_size": 4}
WRONG = "Wrong. Try again."


def attempts(task: dict[str, Any] = ADDITIONS, **keys: Any) -> AttemptsTask:
    config: Any = TypeAdapter(TaskConfig).validate_python({"type": "attempts", "task": task, **keys})
    built = config.build()
    assert isinstance(built, AttemptsTask)
    return built


def play(task: AttemptsTask, *answers: str) -> list[StepResult]:
    """What each of ``answers`` to the first problem leads to; ``=`` stands for the right one."""
    example = task.train_examples()[0]
    turns = tuple(answer.replace("=", str(example.answer)) for answer in answers)
    return task.at([Position(example.id, 0, turns[:end]) for end in range(1, len(turns) + 1)])


@pytest.mark.parametrize(
    ("answers", "led_to"),
    [
        (["="], [("Right.", 1.0, True)]),
        (["1,2,="], [("Right.", 1.0, True)]),
        (["99", "="], [(WRONG, 0.0, False), ("Right.", 1.0, True)]),
        (["99", "98", "97"], [(WRONG, 0.0, False), (WRONG, 0.0, False), (WRONG, 0.0, True)]),
        (["", "what?", "That was a mistake.\n="], [(WRONG, 0.0, False), (WRONG, 0.0, False), ("Right.", 1.0, True)]),
    ],
)
def test_episodes(answers: list[str], led_to: list[tuple[str, float, bool]]) -> None:
    results = play(attempts(attempts=3), *answers)
    assert [(result.observation, result.reward, result.done) for result in results] == led_to
    assert not any(result.failed for result in results)


def test_no_answer_is_heard_after_the_attempts_and_the_oracle_knows_a_wrong_one() -> None:
    task = attempts(wrong="No.")
    first, second, third = play(task, "99", "98", "=")
    assert (first.observation, second.done, third.failed) == ("No.", True, "the attempts were used up before")
    example = task.train_examples()[0]
    judged = [task.went_wrong(example.id, 0, turns) for turns in (["99"], ["99", str(example.answer)])]
    assert judged == [True, False]


@pytest.mark.parametrize("chat", [False, True])
def test_the_first_context_is_that_of_the_task(tiny_model_folder: Path, chat: bool) -> None:
    """A prompt has the task's tokens, and the first turn of an episode is what the engine samples for the task."""
    problems = {**ADDITIONS, "format": {"chat": chat, "template": "Add {problem}"}}
    task = attempts(problems, max_turn_tokens=5, wrong="No.")
    inside = TransformersEngineConfig().build(model_path=tiny_model_folder, seed=0)
    engine = task.engine(TransformersEngineConfig()).build(tiny_model_folder, seed=0)
    encoder = PromptEncoder(inside.tokenizer)
    asked, played = task.task.train_examples(), task.train_examples()
    assert [encoder.prompt_ids(example) for example in played] == [encoder.prompt_ids(example) for example in asked]
    assert [example.id for example in played] == [example.id for example in asked]
    assert task.at([Position(asked[0].id, 0)])[0].observation == f"Add {asked[0].id.removeprefix('train:')}="
    (rollout,) = engine.generate([_request(encoder, played[0], max_completion_tokens=60)])
    turn = rollout.completion_ids[: rollout.action_mask.index(0)]
    between = encoder.next_turn_ids("No.", turn_ended=turn[-1] == inside.tokenizer.eos_token_id)
    assert rollout.prompt_ids == encoder.prompt_ids(asked[0])
    assert rollout.completion_ids[len(turn) : len(turn) + len(between)] == between
    assert rollout.outcome == 0.0 and len(rollout.turns) == 2
    held_out = _request(encoder, task.eval_examples()[0], max_completion_tokens=5)
    assert engine.generate([held_out]) == inside.generate([held_out])
    engine.close()


def _request(encoder: PromptEncoder, example: Example, max_completion_tokens: int) -> RolloutRequest:
    sampling = Sampling(max_completion_tokens=max_completion_tokens)
    return RolloutRequest("r", example, encoder.prompt_ids(example), sampling, seed=3)


def test_an_episode_is_scored_by_its_end_and_a_held_out_answer_by_the_task() -> None:
    task = attempts()
    train, held_out = task.train_examples()[0], task.eval_examples()[0]
    assert task.eval_examples() == task.task.eval_examples()
    right = RewardInput(held_out, f"1,{held_out.answer}")
    inputs = [RewardInput(train, "9", outcome=1.0), RewardInput(train, str(train.answer)), right]
    outputs = task.reward().score(inputs)
    assert [(output.score, output.error) for output in outputs] == [(1.0, None), (None, "crashed"), (1.0, None)]


class Unjudged:
    """A task of one's own whose reward fails, in a way of its own for each answer."""

    def train_examples(self) -> list[Example]:
        return [Example("one", [{"role": "user", "content": "Say one."}])]

    def eval_examples(self) -> list[Example]:
        return []

    def reward(self) -> "Unjudged":
        return self

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(None, error="timeout") for _ in inputs]

    def close(self) -> None:
        pass


def test_an_answer_that_cannot_be_judged_fails_its_episode() -> None:
    task = attempts({"type": f"{__name__}:Unjudged"})
    begun, answered = task.at([Position("one", 0), Position("one", 0, ("1",))])
    assert begun.observation == "Say one." and answered.failed == "timeout: "


def test_what_cannot_be_verified_is_refused() -> None:
    with pytest.raises(JobError, match=r"data\.task: rows has no judgement of its own"):
        attempts({"type": "rows", "path": "rows.jsonl"}).reward()
    referee = attempts({"type": "addition_referee", "problems": {"train_size": 20, "eval_size": 4}})
    with pytest.raises(JobError, match=r"example 'pair:train:.*' is preference; attempts are for answers"):
        referee.train_examples()
