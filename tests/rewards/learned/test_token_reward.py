"""OREAL's token reward model on its own: saved, loaded, and the same scores as in training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from posttrain.errors import JobError
from posttrain.rewards.checked import score_checked
from posttrain.rewards.learned.token_reward import TokenReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rewards.scoring.reward_file import load_reward_config
from posttrain.trainers.oreal import OREALTrainer
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.token_reward_model import TokenRewardModel
from posttrain.training.model import add_adapter, load_causal_lm
from posttrain.training.model_config import LoRAConfig, ModelConfig
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Origin, Sampling, TrainingSample

OREAL_TOKEN = Path(__file__).parents[3] / "reward_models" / "oreal-token.yaml"
CHAT: list[dict[str, str]] = [{"role": "user", "content": "How many?"}]
INPUTS = [
    RewardInput(Example("chat", CHAT), "It is 7."),
    RewardInput(Example("text", "How many?"), " 12, or more: 1" * 5),
    RewardInput(Example("cut", CHAT), "It is", finish_reason="length"),
]
TEXTS = [
    ("<|user|>How many?<|end|><|assistant|>", "It is 7.<|end|>"),
    ("How many?", " 12, or more: 1" * 5 + "<|end|>"),
    ("<|user|>How many?<|end|><|assistant|>", "It is"),
]


def token_model(folder: Path, score_position: str, adapted: bool = False) -> TokenRewardModel:
    """With a head, and an adapter, that a training step might have left."""
    torch.manual_seed(3)
    causal_lm = load_causal_lm(folder, ModelConfig(path=str(folder)))
    if adapted:
        causal_lm = add_adapter(causal_lm, LoRAConfig(rank=4, alpha=8))
        for name, parameter in causal_lm.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model = TokenRewardModel(causal_lm, score_position)
    torch.nn.init.normal_(model.head, std=0.3)
    return model


@torch.no_grad()
def scores_in_training(model: TokenRewardModel, folder: Path) -> list[list[float]]:
    """The logits of the completions' tokens as ``before_update`` computes them, packed end to end."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    samples = []
    for name, (prompt, completion) in enumerate(TEXTS):
        before, after = tokenizer(prompt)["input_ids"], tokenizer(completion)["input_ids"]
        size, trained = len(before) + len(after), [0] * len(before) + [1] * len(after)
        samples.append(
            TrainingSample(str(name), before + after, [Origin.POLICY] * size, trained, [1.0] * size, [0.0] * size)
        )
    batch = collate(samples)
    return [part.tolist() for part in model(batch).split(batch.trained_lengths.tolist())]


def judged(folder: Path, inputs: list[RewardInput] = INPUTS, **keys: Any) -> list[RewardOutput]:
    return score_checked(TokenReward(model=str(folder), **keys).build(), inputs)


@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "adapter"])
@pytest.mark.parametrize("score_position", ["before_token", "after_token"])
def test_a_saved_model_scores_as_in_training(
    tmp_path: Path, tiny_model_folder: Path, score_position: str, adapted: bool
) -> None:
    model = token_model(tiny_model_folder, score_position, adapted)
    expected = scores_in_training(model, tiny_model_folder)
    model.save(tmp_path, AutoTokenizer.from_pretrained(tiny_model_folder), is_main=True)
    outputs = judged(tmp_path)
    for output, scores in zip(outputs, expected, strict=True):
        assert torch.tensor(scores).std() > 0.05, "tokens must differ"
        assert output.token_scores == pytest.approx(scores, abs=1e-4)
        mean = torch.tensor(scores, dtype=torch.float64).mean()
        assert output.score == pytest.approx(torch.sigmoid(mean).item(), abs=1e-4)
        assert output.parts == pytest.approx({"truncated_tokens": 0.0, "mean_logit": mean.item()}, abs=1e-4)
    assert [len(output.token_scores) for output in outputs] == [9, 76, 5]
    alone = [judged(tmp_path, [item])[0] for item in INPUTS]
    for one, many in zip(alone, outputs, strict=True):
        assert one.token_scores == pytest.approx(many.token_scores, abs=1e-4)


def test_a_zero_head_predicts_one_half(tmp_path: Path, tiny_model_folder: Path) -> None:
    model = token_model(tiny_model_folder, "before_token")
    torch.nn.init.zeros_(model.head)
    model.save(tmp_path, AutoTokenizer.from_pretrained(tiny_model_folder), is_main=True)
    assert [output.score for output in judged(tmp_path)] == [0.5, 0.5, 0.5]
    assert judged(tmp_path)[2].token_scores == [0.0] * 5


def test_the_head_stays_in_float32_under_bfloat16(tmp_path: Path, tiny_model_folder: Path) -> None:
    model = token_model(tiny_model_folder, "before_token")
    model.backbone.bfloat16()
    model.save(tmp_path, AutoTokenizer.from_pretrained(tiny_model_folder), is_main=True)
    reward = load_reward_config(OREAL_TOKEN, [f"model={tmp_path}"]).build()
    weights = reward.scorer._classifier.model  # type: ignore[attr-defined]
    assert torch.equal(weights.score.weight[0], model.head)
    assert weights.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    exact = scores_in_training(token_model(tiny_model_folder, "before_token"), tiny_model_folder)
    assert score_checked(reward, INPUTS)[0].token_scores == pytest.approx(exact[0], abs=0.1)


def test_what_cannot_be_judged(tmp_path: Path, tiny_model_folder: Path) -> None:
    token_model(tiny_model_folder, "before_token").save(
        tmp_path, AutoTokenizer.from_pretrained(tiny_model_folder), True
    )
    empty = RewardInput(Example("row", CHAT), "", finish_reason="length")
    long = RewardInput(Example("row", CHAT), "7" * 300)
    outputs = judged(tmp_path, [empty, long, INPUTS[0]])
    assert [output.error for output in outputs] == ["invalid_input", "invalid_input", None]
    assert outputs[0].message == "the completion has no token"
    assert outputs[1].message.startswith("the completion has 301 tokens")
    assert outputs[1].token_scores == []
    long_prompt = RewardInput(Example("row", [{"role": "user", "content": "?" * 300}]), "It is 7.")
    output = judged(tmp_path, [long_prompt])[0]
    assert output.parts["truncated_tokens"] == 303 + 9 - 256
    assert len(output.token_scores) == 9


def test_a_model_that_is_not_of_this_kind(tmp_path: Path, tiny_model_folder: Path) -> None:
    model = token_model(tiny_model_folder, "nowhere")
    model.save(tmp_path, AutoTokenizer.from_pretrained(tiny_model_folder), is_main=True)
    with pytest.raises(JobError, match=r"no token-level reward model; name the folder token_reward_model of an OREAL"):
        judged(tmp_path)
    with pytest.raises(JobError, match="not a sequence classifier"):
        judged(tiny_model_folder)


class RightWhereEven:
    def score(self, inputs: list[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(len(item.completion_ids) % 2 == 0)) for item in inputs]

    def close(self) -> None: ...


@pytest.mark.parametrize("sharing", ["separate", "lora_on_reference"])
def test_oreal_keeps_its_token_model_beside_the_policy(tmp_path: Path, tiny_model_folder: Path, sharing: Any) -> None:
    config = OREALConfig(
        steps=2, prompts_per_step=2, rollouts_per_prompt=4, policy_freeze_steps=0, warmup_steps=0,
        sampling=Sampling(max_completion_tokens=5), pair_selection="all", drop_uniform_groups=False,
        token_reward_model={"learning_rate": 1e-2, "sharing": sharing, "lora_rank": 2},
    )  # fmt: skip
    prompts = [Example(f"p{n}", CHAT, "7") for n in range(4)]
    trainer = OREALTrainer(
        tiny_model_folder, config, reward=RightWhereEven(), train_dataset=prompts, run=RunConfig(folder=str(tmp_path))
    )
    summary = trainer.train()
    assert trainer.token_model is not None
    expected = scores_in_training(trainer.token_model.model, tiny_model_folder)  # type: ignore[arg-type]
    assert any(abs(score) > 1e-3 for score in expected[0])
    outputs = judged(summary.model_folder / "token_reward_model")
    for output, scores in zip(outputs, expected, strict=True):
        assert output.token_scores == pytest.approx(scores, abs=1e-4)
