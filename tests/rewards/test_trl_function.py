"""TRL reward functions as rewards, rewards as TRL reward functions, and TRL's own trainer using one of ours."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import RewardFailure
from posttrain.rewards.checked import score_checked
from posttrain.rewards.composition import weighted_sum
from posttrain.rewards.math.math_answer import MathAnswerReward
from posttrain.rewards.reward import Reward, RewardInput, RewardOutput
from posttrain.rewards.trl_function import TRLFunctionReward, as_trl_function
from posttrain.types import Example

MESSAGES = [{"role": "user", "content": "2 + 3?"}]
ROWS = [
    RewardInput(Example("a", MESSAGES, "5", metadata={"level": 1}), "five", [1, 2]),
    RewardInput(Example("b", "plain", "6"), "six", [3]),
]


def test_the_function_is_called_as_trl_calls_it() -> None:
    seen: dict[str, Any] = {}

    def function(prompts: Any, completions: Any, **kwargs: Any) -> list[float]:
        seen.update(prompts=prompts, completions=completions, **kwargs)
        return [1, 0]

    outputs = score_checked(TRLFunctionReward(function=function), ROWS)
    assert outputs == [RewardOutput(1.0), RewardOutput(0.0)]
    assert seen["prompts"] == [MESSAGES, "plain"]
    assert seen["completions"] == [[{"role": "assistant", "content": "five"}], "six"]
    assert seen["completion_ids"] == [[1, 2], [3]]
    assert (seen["answer"], seen["level"], seen["id"]) == (["5", "6"], [1, None], ["a", "b"])


def test_a_function_without_kwargs_gets_what_it_names() -> None:
    def function(completions: list[Any], solution: list[str], bonus: float = 0.0) -> list[float]:
        return [float(text == "5") + bonus for text in solution]

    reward = TRLFunctionReward(function=function, columns={"solution": "answer"}, arguments={"bonus": 0.5})
    assert [output.score for output in score_checked(reward, ROWS)] == [1.5, 0.5]
    with pytest.raises(RewardFailure, match=r"reward function function needs solution; the examples have answer, comp"):
        score_checked(TRLFunctionReward(function=function), ROWS)
    with pytest.raises(RewardFailure, match=r"columns maps 'solution' to 'soluton', which the examples do not have"):
        score_checked(TRLFunctionReward(function=function, columns={"solution": "soluton"}), ROWS)


def test_none_leaves_the_part_out() -> None:
    def only_first(completions: list[Any], **kwargs: Any) -> list[float | None]:
        return [2.0, None]

    other = TRLFunctionReward(function=lambda completions, **kwargs: [1.0] * len(completions))
    both = weighted_sum({"first": (1.0, TRLFunctionReward(function=only_first)), "other": (1.0, other)})
    assert [output.score for output in score_checked(both, ROWS)] == [3.0, 1.0]
    assert [output.error for output in score_checked(TRLFunctionReward(function=only_first), ROWS)] == [
        None,
        "invalid_input",
    ]


def test_a_bad_function_is_named() -> None:
    def short(completions: list[Any], **kwargs: Any) -> list[float]:
        return [1.0]

    with pytest.raises(RewardFailure, match=r"TRLFunctionReward 'short' returned 1 outputs for 2 completions"):
        score_checked(TRLFunctionReward(function=short), ROWS)

    def fails(completions: list[Any], **kwargs: Any) -> list[float]:
        raise ValueError("no luck")

    with pytest.raises(RewardFailure, match=r"TRLFunctionReward 'fails' raised ValueError: no luck \(at .*test_trl"):
        score_checked(TRLFunctionReward(function=fails), ROWS)

    def nothing(completions: list[Any], **kwargs: Any) -> None:
        return None

    with pytest.raises(RewardFailure, match=r"function nothing returned NoneType, not a list"):
        score_checked(TRLFunctionReward(function=nothing), ROWS)


class Seen:
    """Remembers its inputs and fails on empty completions."""

    def __init__(self) -> None:
        self.inputs: list[RewardInput] = []

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        self.inputs = list(inputs)
        empty = RewardOutput(None, error="unparseable", message="empty")
        return [RewardOutput(len(item.completion)) if item.completion else empty for item in inputs]

    def close(self) -> None:
        pass


def test_a_reward_in_trls_form() -> None:
    seen = Seen()
    function = as_trl_function(seen)
    assert function.__name__ == "seen"
    scores = function(
        prompts=[MESSAGES, MESSAGES],
        completions=[[{"role": "assistant", "content": "five"}], ""],
        completion_ids=[[1, 2], []],
        answer=["5", "6"],
        level=[1, 2],
        trainer_state=object(),
    )
    assert scores == [4.0, None]
    assert seen.inputs[0] == RewardInput(Example("0", MESSAGES, "5", metadata={"level": 1}), "five", [1, 2])


def test_there_and_back_is_the_same_reward() -> None:
    reward: Reward = MathAnswerReward(timeout_s=20)
    there_and_back = TRLFunctionReward(function=as_trl_function(reward))
    rows = [RewardInput(Example("a", MESSAGES, "1/2"), r"\boxed{0.5}"), RewardInput(Example("b", "?", "2"), "it is 3")]
    assert there_and_back.name == "math_answer"
    assert [output.score for output in score_checked(there_and_back, rows)] == [1.0, 0.0]
    reward.close()


def test_trls_own_functions_are_rewards() -> None:
    trl_rewards = pytest.importorskip("trl.rewards")
    accuracy = TRLFunctionReward(function=trl_rewards.accuracy_reward, columns={"solution": "answer"})
    rows = [
        RewardInput(Example("a", MESSAGES, "$\\frac{1}{2}$"), r"\boxed{0.5}"),
        RewardInput(Example("b", MESSAGES, "$\\frac{1}{2}$"), r"\boxed{2}"),
    ]
    assert [output.score for output in score_checked(accuracy, rows)] == [1.0, 0.0]
    thinking = TRLFunctionReward(function=trl_rewards.think_format_reward)
    row = RewardInput(Example("a", MESSAGES), "<think>\nso\n</think>\n5")
    assert score_checked(thinking, [row])[0].score == 1.0


@pytest.mark.slow
def test_trls_trainer_trains_on_one_of_our_rewards(tiny_model_folder: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    class Length(Seen):
        """Judges every other completion only."""

        calls = 0

        def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
            self.calls += 1
            outputs = [RewardOutput(len(item.completion_ids)) for item in inputs]
            return [*outputs[:-1], RewardOutput(None, error="timeout", message="on purpose")]

    length, accuracy = Length(), MathAnswerReward(timeout_s=20)
    rows = {"prompt": [[{"role": "user", "content": f"{n} + 1 ="}] for n in range(4)], "answer": list("1234")}
    arguments = GRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], save_strategy="no", logging_steps=1,
        max_steps=2, per_device_train_batch_size=4, num_generations=2, max_completion_length=8, disable_tqdm=True,
        gradient_checkpointing=False, seed=0,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=str(tiny_model_folder),
        reward_funcs=[as_trl_function(length), as_trl_function(accuracy)],
        args=arguments,
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(tiny_model_folder),
    )
    trainer.train()
    accuracy.close()
    logged = [entry for entry in trainer.state.log_history if "rewards/length/mean" in entry]
    assert length.calls == 2 and len(logged) == 2
    assert all(entry["rewards/length/mean"] > 0 and "rewards/math_answer/mean" in entry for entry in logged)
