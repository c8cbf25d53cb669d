"""OREAL's trainer on a real tiny model: which rollouts it keeps, what each part trains, what depends on what."""

from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.trainers.oreal import CLONE, PUSH_DOWN, OREALTrainer
from posttrain.trainers.oreal_config import OREALConfig, TokenRewardModelConfig
from posttrain.trainers.token_reward_model import TokenRewardModel
from posttrain.training.model import load_causal_lm
from posttrain.training.model_config import ModelConfig
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Origin, Rollout, RolloutGroup, Sampling, TrainingSample

EXAMPLES = [Example(id=f"{a}+{b}", prompt=f"{a}+{b}=", answer=str(a + b)) for a in range(4) for b in range(4)]


def rollout(request: str, index: int, reward: float | None, tokens: int = 3, finish: Any = "stop") -> Rollout:
    return Rollout(
        request_id=request,
        index=index,
        prompt_ids=[60, 61],
        completion_ids=[70 + index + t for t in range(tokens)],
        action_mask=[1] * tokens,
        logprobs=[-1.0] * tokens,
        finish_reason=finish,
        policy_version=0,
        text="",
        reward=reward,
        error=None if reward is not None else "timeout",
    )


def group(request: str, rewards: list[float | None]) -> RolloutGroup:
    return RolloutGroup(EXAMPLES[0], [rollout(request, i, reward) for i, reward in enumerate(rewards)])


def make(folder: Path, model: Path, **keys: Any) -> OREALTrainer:
    settings: dict[str, Any] = {
        "steps": 10,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "sampling": Sampling(max_completion_tokens=4),
        "learning_rate": 1e-3,
        "policy_freeze_steps": 0,
        "warmup_steps": 0,
        "token_reward_model": TokenRewardModelConfig(learning_rate=1e-2),
    }
    return OREALTrainer(
        model,
        OREALConfig.model_validate(settings | keys),
        reward=ExactIntegerReward(),
        train_dataset=EXAMPLES,
        run=RunConfig(folder=str(folder), seed=3),
    )


@pytest.fixture
def trainer(tmp_path: Path, tiny_model_folder: Path) -> OREALTrainer:
    return make(tmp_path, tiny_model_folder)


def parameters(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if not torch.equal(before[name], parameter)}


def test_one_pair_a_group_with_leave_one_out_weights(trainer: OREALTrainer) -> None:
    samples = trainer.assign_credit([group("a", [1, 0, 0, 0]), group("b", [1, 1, 1, 1]), group("c", [0, 0, 0, 0])])
    assert [sample.objective for sample in samples] == [CLONE, PUSH_DOWN]
    right, wrong = samples
    assert right.token_weights == pytest.approx([0, 0, 2.0, 2.0, 2.0])
    assert wrong.token_weights == pytest.approx([0, 0, -2 / 3, -2 / 3, -2 / 3])
    assert right.origin == [Origin.PROMPT] * 2 + [Origin.POLICY] * 3


def test_the_pair_depends_on_seed_and_request_alone(trainer: OREALTrainer) -> None:
    rewards: list[float | None] = [1, 1, 0, 0]
    chosen = {tuple(s.id for s in trainer.assign_credit([group(f"{i:02d}", rewards)])) for i in range(40)}
    assert len({tuple(name.split("/")[1] for name in pair) for pair in chosen}) == 4
    alone = trainer.assign_credit([group("07", rewards)])
    among = trainer.assign_credit([group(f"{i:02d}", rewards) for i in range(20)])
    assert [s.id for s in alone] == [s.id for s in among if s.id.startswith("07/")]


def test_a_failed_reward_leaves_the_group(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, pair_selection="all")
    with_error = trainer.assign_credit([group("a", [1, 0, 0, None])])
    without = trainer.assign_credit([group("a", [1, 0, 0])])
    assert with_error == without
    assert trainer.assign_credit([group("a", [1, None, None, None])]) == []


def test_a_truncated_rollout_is_wrong(trainer: OREALTrainer) -> None:
    cut = RolloutGroup(EXAMPLES[0], [rollout("a", 0, 1.0), rollout("a", 1, 1.0, finish="length")])
    assert [(s.id, s.objective) for s in trainer.assign_credit([cut])] == [("a/0", CLONE), ("a/1", PUSH_DOWN)]


def test_a_zero_head_gives_no_weight_and_trains_only_the_head(trainer: OREALTrainer) -> None:
    assert trainer.token_model is not None
    samples = trainer.assign_credit([group("a", [1, 0, 0, 0])])
    before = parameters(trainer.token_model.model)
    weighted, metrics = trainer.before_update(samples)
    assert not any(weight for sample in weighted for weight in sample.token_weights)
    assert metrics["oreal/token_model_loss"] == pytest.approx(0.6931471806, abs=1e-6)
    # AdamW's decay scales the backbone; the gradient of a zero head does not reach it
    decay = 1 - trainer.rate(trainer.config.token_reward_model) * trainer.config.weight_decay
    for name, parameter in trainer.token_model.model.named_parameters():
        if name == "head":
            assert parameter.abs().sum() > 0
        else:
            torch.testing.assert_close(parameter.detach(), before[name] * decay, rtol=1e-6, atol=1e-9)


def test_the_models_do_not_reach_each_other(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, weight_decay=0.0)
    assert trainer.token_model is not None
    samples = trainer.assign_credit([group("a", [1, 0, 0, 0])])
    policy = parameters(trainer.causal_lm)
    trainer.before_update(samples)
    assert changed(policy, trainer.causal_lm) == set()
    token_model = parameters(trainer.token_model.model)
    weighted, _ = trainer.before_update(samples)
    after = parameters(trainer.token_model.model)
    trainer.update_policy(weighted)
    assert changed(after, trainer.token_model.model) == set()
    assert changed(token_model, trainer.token_model.model)
    assert changed(policy, trainer.causal_lm)


def test_a_frozen_policy_stays_while_the_token_model_learns(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, policy_freeze_steps=2)
    policy = parameters(trainer.causal_lm)
    samples = trainer.assign_credit([group("a", [1, 0, 0, 0])])
    for step in range(2):
        trainer.step = step
        weighted, _ = trainer.before_update(samples)
        trainer.update_policy(weighted)
    assert changed(policy, trainer.causal_lm) == set()
    trainer.step = 2
    weighted, _ = trainer.before_update(samples)
    trainer.update_policy(weighted)
    assert changed(policy, trainer.causal_lm)


def test_the_loss_does_not_depend_on_the_cut(tmp_path: Path, tiny_model_folder: Path) -> None:
    results = []
    for number, budget in enumerate((4096, 16)):
        trainer = make(
            tmp_path / str(number),
            tiny_model_folder,
            tokens_per_micro_batch=budget,
            token_weighting="none",
            pair_selection="all",
        )
        samples = trainer.assign_credit([group("a", [1, 0, 0, 0]), group("b", [1, 1, 0, 0])])
        metrics = trainer.update_policy(samples)
        results.append((metrics, parameters(trainer.causal_lm)))
    (whole, one), (cut, many) = results
    assert (whole["batch/micro_batches"], cut["batch/micro_batches"]) == (1.0, 3.0)
    assert cut["policy/loss"] == pytest.approx(whole["policy/loss"], rel=1e-5)
    for name, parameter in one.items():
        torch.testing.assert_close(many[name], parameter, rtol=0, atol=2e-5)


@pytest.mark.parametrize(("position", "tokens"), [("before_token", [61, 70, 71]), ("after_token", [70, 71, 72])])
def test_where_a_token_s_score_is_read(tiny_model_folder: Path, position: str, tokens: list[int]) -> None:
    """A backbone that answers with its input id shows which state a score comes from."""

    class Echo(torch.nn.Module):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            states = input_ids[..., None].float().expand(-1, -1, 64)
            return type("Output", (), {"last_hidden_state": states})()

    model = TokenRewardModel(load_causal_lm(tiny_model_folder, ModelConfig(path="-")), position)
    model.backbone = Echo()
    with torch.no_grad():
        model.head[0] = 1.0
    (sample,) = [
        TrainingSample(
            "a", [60, 61, 70, 71, 72], [Origin.PROMPT] * 2 + [Origin.POLICY] * 3, [0, 0, 1, 1, 1], *[[0.0] * 5] * 2
        )
    ]
    assert model(collate([sample])).tolist() == pytest.approx(tokens)


def test_the_token_model_as_an_adapter_on_the_reference(tmp_path: Path, tiny_model_folder: Path) -> None:
    sharing = TokenRewardModelConfig(sharing="lora_on_reference", lora_rank=4, learning_rate=1e-2)
    trainer = make(tmp_path, tiny_model_folder, token_reward_model=sharing)
    assert trainer.token_model is not None
    assert trainer.reference is not None
    shared = {p.data_ptr() for p in trainer.reference.parameters()}
    assert {p.data_ptr() for p in trainer.token_model.model.backbone.parameters()} <= shared
    samples = trainer.assign_credit([group("a", [1, 0, 0, 0])])
    batch = trainer.update.micro_batches(samples)[0]
    trainer.prepare(batch)
    assert batch.reference_logprobs is not None
    first = batch.reference_logprobs.clone()
    for _ in range(3):
        trainer.before_update(samples)
    trainer.prepare(batch)
    torch.testing.assert_close(batch.reference_logprobs, first, rtol=0, atol=0)
