"""Q-values are cosines to the goal state that the training run kept; decoding follows them."""

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from posttrain.data.chat import PromptEncoder
from posttrain.errors import JobError
from posttrain.rewards.learned.goal_conditioned import GoalConditionedReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.trainers.reward_model import RewardModelTrainer
from posttrain.trainers.reward_model_config import RewardModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Rollout, RolloutRequest, Sampling

RECIPE = runpy.run_path(str(Path(__file__).parents[3] / "recipes/reward_model/guided_decoding.py"))
PROMPT = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def reward_model(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained to prefer letters to digits."""
    folder = tmp_path_factory.mktemp("reward_model")
    texts = [("abcdefgh"[n % 8] * (3 + n % 4), "01234567"[n % 8] * (3 + n % 3)) for n in range(32)]
    pairs = [Example(id=f"{n}", prompt=PROMPT, candidates=list(pair)) for n, pair in enumerate(texts)]
    config = RewardModelConfig(steps=60, batch_size=16, learning_rate=1e-3, contrastive={"samples": 2})
    trainer = RewardModelTrainer(tiny_model_folder, config, train_dataset=pairs, run=RunConfig(folder=str(folder)))
    return trainer.train().model_folder


@pytest.fixture(scope="module")
def reward(reward_model: Path) -> GoalConditionedReward:
    made = GoalConditionedReward(model=str(reward_model)).build()
    assert isinstance(made, GoalConditionedReward)
    return made


def item(text: str, finished: bool = True) -> RewardInput:
    return RewardInput(Example(id="x", prompt=PROMPT), text, finish_reason="stop" if finished else "length")


def test_q_is_the_cosine_of_every_state_to_the_goal(reward: GoalConditionedReward, reward_model: Path) -> None:
    (output,) = reward.score([item("abc1")])
    model = AutoModelForSequenceClassification.from_pretrained(reward_model)
    ids, start = PromptEncoder(reward.scorer.tokenizer).judged_ids(Example(id="x", prompt=PROMPT), "abc1")
    with torch.no_grad():
        read = model(torch.tensor([ids]), output_hidden_states=True)
    goal = load_file(reward_model / "goal_states.safetensors")["preferred"]
    expected = torch.cosine_similarity(read.hidden_states[-1][0, start:], goal[None], dim=-1)
    assert output.token_scores == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(output.token_scores) == 5  # four characters and the end of the turn
    assert output.score == output.parts["q_last"] == output.token_scores[-1]
    assert output.parts["q_min"] == min(output.token_scores)
    assert output.parts["q_mean"] == pytest.approx(sum(output.token_scores) / 5)
    assert output.parts["reward_model"] == pytest.approx(read.logits.item(), abs=1e-5)


def test_a_beginning_has_the_q_values_of_the_whole(reward: GoalConditionedReward) -> None:
    whole, beginning = reward.score([item("abc1"), item("abc", finished=False)])
    assert beginning.token_scores == pytest.approx(whole.token_scores[:3], abs=1e-5)


def test_beginnings_that_go_well_have_the_higher_q(reward: GoalConditionedReward) -> None:
    good, bad = reward.score([item("abab", finished=False), item("1212", finished=False)])
    assert good.score is not None and bad.score is not None
    assert good.score > bad.score


def test_the_score_is_the_q_that_was_asked_for(reward: GoalConditionedReward) -> None:
    lowest = reward.model_copy(update={"pooling": "min"})
    (output,) = lowest.score([item("abc1")])
    assert output.score == min(output.token_scores)


def test_nothing_has_no_q(reward: GoalConditionedReward) -> None:
    (output,) = reward.score([item("", finished=False)])
    assert (output.score, output.error) == (None, "invalid_input")


def test_the_file_people_copy(reward_model: Path) -> None:
    file = Path(__file__).parents[3] / "reward_models" / "goal-conditioned.yaml"
    copied = load_reward_config(file, [f"model={reward_model}"]).build()
    (output,) = copied.score([item("abc")])
    assert output.score == output.parts["q_last"]


def test_missing_goals_are_named(reward_model: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"'prefered' is none of the goals .*did you mean preferred"):
        GoalConditionedReward(model=str(reward_model), goal="prefered").build()
    for file in reward_model.iterdir():
        if file.name != "goal_states.safetensors":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(JobError, match=r"has no goal_states\.safetensors; train one with method: reward_model"):
        GoalConditionedReward(model=str(tmp_path)).build()


class MoreLetters:
    """The number of letters a to h in the completion, for tests of decoding."""

    def score(self, inputs: list[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(c in "abcdefgh" for c in each.completion))) for each in inputs]

    def close(self) -> None:
        pass


def decoded(model: Path, reward: object, chunk: int, candidates: int, seed: int = 0, most: int = 12) -> Rollout:
    engine = TransformersEngineConfig(device="cpu").build(model)
    request = RolloutRequest(
        id="r",
        example=Example(id="x", prompt=PROMPT),
        prompt_ids=PromptEncoder(engine.tokenizer).prompt_ids(Example(id="x", prompt=PROMPT)),  # type: ignore[attr-defined]
        sampling=Sampling(max_completion_tokens=most),
        seed=seed,
    )
    rollout: Rollout = RECIPE["decode_guided"](engine, reward, request, chunk_tokens=chunk, candidates=candidates)
    return rollout


def test_decoding_keeps_the_best_chunk(tiny_model_folder: Path) -> None:
    """An untrained model draws a to h in 3 % of its tokens; the best of 64 single tokens is nearly always one."""
    guided = decoded(tiny_model_folder, MoreLetters(), chunk=1, candidates=64)
    plain = decoded(tiny_model_folder, MoreLetters(), chunk=1, candidates=1)
    assert guided.reward is not None and plain.reward is not None
    assert len(guided.completion_ids) <= 12
    assert guided.reward >= 8 > plain.reward
    assert decoded(tiny_model_folder, MoreLetters(), 1, 64).completion_ids == guided.completion_ids


def test_one_chunk_is_best_of_n(tiny_model_folder: Path) -> None:
    best = decoded(tiny_model_folder, MoreLetters(), chunk=12, candidates=32)
    assert best.action_mask == [1] * len(best.completion_ids)
    assert best.request_id == "r"


def test_decoding_towards_a_goal_raises_its_q(tiny_model_folder: Path, reward: GoalConditionedReward) -> None:
    scores = {
        candidates: [decoded(tiny_model_folder, reward, 2, candidates, seed, most=6).reward for seed in range(4)]
        for candidates in (1, 16)
    }
    assert all(guided > plain for plain, guided in zip(scores[1], scores[16], strict=True))  # type: ignore[operator]
