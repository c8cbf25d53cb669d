"""RAFT and RAFT++ against the numbers of the papers' formulas, TRL's SFT, and what a run that dies leaves."""

import copy
import json
import runpy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_dataset
from transformers import AutoModelForCausalLM

from posttrain.errors import DataError, TrainingDiverged
from posttrain.rewards.math.exact_integer import ExactIntegerReward
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.candidates import Candidates
from posttrain.trainers.raft import KEPT, REJECTED, RAFTTrainer
from posttrain.trainers.raft_config import RAFTConfig
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Rollout, RolloutGroup, Sampling, TrainingSample

EXAMPLES = [Example(id=f"p{n}", prompt=f"{n}+1=", answer=str(n + 1)) for n in range(8)]
OLD = [[-0.9, -1.1], [-0.5, -1.2, -0.1, -0.7], [-0.3, -2.0, -0.8], [-1.6]]
NEW = [[-0.9, -1.1], [-0.4, -0.9, -0.15, -0.9], [-0.3, -1.7, -1.2], [-1.6]]
REWARDS = [0.0, 1.0, 1.0, 0.0]


class TokenSum:
    """The sum of the token ids of a completion: a reward that varies, and costs nothing."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids))) for item in inputs]

    def close(self) -> None:
        pass


def make(folder: Path, model: Path, reward: Any = None, **keys: object) -> RAFTTrainer:
    settings: dict[str, object] = {
        "steps": 2,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-3,
        "sampling": Sampling(max_completion_tokens=6),
    }
    return RAFTTrainer(
        model,
        RAFTConfig.model_validate({**settings, **keys}),
        reward=reward or TokenSum(),
        train_dataset=EXAMPLES,
        run=RunConfig(folder=str(folder)),
    )


def group(rewards: Sequence[float | None], name: str = "000000/000000") -> RolloutGroup:
    rollouts = [
        Rollout(name, i, [5], list(range(10, 10 + len(OLD[i]))), [1] * len(OLD[i]), OLD[i], "stop", 0, str(i), reward=r)
        for i, r in enumerate(rewards)
    ]
    return RolloutGroup(EXAMPLES[0], rollouts)


@pytest.fixture
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def loss_of(trainer: RAFTTrainer, samples: list[TrainingSample], new: Sequence[Sequence[float]]) -> tuple[Any, ...]:
    """Loss, and the gradient by the log-probs of each trained rollout, in the order of the rollouts."""
    minibatch = trainer.minibatch(samples)
    trainer.enter(minibatch)
    kept = [sample for sample in samples if trainer.has_gradient(sample)]
    batch = collate(kept)
    batch.behaviour_logprobs = torch.tensor([x for s in kept for x in OLD[int(s.id[-1])]])
    logprobs = torch.tensor([x for s in kept for x in new[int(s.id[-1])]], requires_grad=True)
    loss = trainer.loss(logprobs, torch.zeros_like(logprobs), batch).loss
    (gradient,) = torch.autograd.grad(loss, logprobs)
    return loss.item(), [part.tolist() for part in gradient.split([len(OLD[int(s.id[-1])]) for s in kept])]


# ---- losses (R1, R2, R3) ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalizer", "selection", "loss", "gradient"),
    [
        ("selected_tokens", "best", 0.625, [[-0.25] * 4]),
        ("selected_tokens", "all_best", 0.8, [[-1 / 7] * 4, [-1 / 7] * 3]),
        ("rollouts", "all_best", 0.8291666667, [[-0.125] * 4, [-0.1666666667] * 3]),
        ("all_tokens", "all_best", 0.56, [[-0.1] * 4, [-0.1] * 3]),
    ],
)
@pytest.mark.usefixtures("in_float64")
def test_raft_on_policy(
    normalizer: str, selection: str, loss: float, gradient: list[list[float]], tmp_path: Path, tiny_model_folder: Path
) -> None:
    trainer = make(tmp_path, tiny_model_folder, selection=selection, tie_break="first", loss_normalizer=normalizer)
    value, slopes = loss_of(trainer, trainer.assign_credit([group(REWARDS)]), OLD)
    assert value == pytest.approx(loss, abs=1e-9)
    assert [pytest.approx(part, abs=1e-9) for part in gradient] == slopes


Y1 = [-0.1381463648, 0.0, -0.1189036781, -0.1023413441]
Y2 = [-0.1666666667, 0.0, -0.1117200077]
OFF_POLICY: list[tuple[dict[str, Any], float, list[list[float]]]] = [
    ({"loss_normalizer": "rollouts"}, -0.9877780613, [Y1, Y2]),
    ({"loss_normalizer": "rollouts", "clip_low": 0.0}, -0.9877780613, [Y1, Y2]),
    (
        {"loss_normalizer": "selected_tokens"},
        -0.9922073060,
        [[-0.1578815597, 0.0, -0.1358899178, -0.1169615362], [-0.1428571429, 0.0, -0.0957600066]],
    ),
    ({"loss_normalizer": "rollouts", "clip_high": 0.28}, -1.0111113946, [Y1, Y2]),
    (
        {"loss_normalizer": "rollouts", "clip_high": None},
        -1.0314868802,
        [[-0.1381463648, -0.1687323509, -0.1189036781, -0.1023413441], [-0.1666666667, -0.2249764679, -0.1117200077]],
    ),
]


@pytest.mark.parametrize(("keys", "loss", "gradient"), OFF_POLICY)
@pytest.mark.usefixtures("in_float64")
def test_raft_plus_plus_off_policy(
    keys: dict[str, Any], loss: float, gradient: list[list[float]], tmp_path: Path, tiny_model_folder: Path
) -> None:
    plus_plus = {"selection": "all_best", "importance_sampling": "token", "updates_per_step": 2, **keys}
    trainer = make(tmp_path, tiny_model_folder, **plus_plus)
    value, slopes = loss_of(trainer, trainer.assign_credit([group(REWARDS)]), NEW)
    assert value == pytest.approx(loss, abs=1e-9)
    assert [pytest.approx(part, abs=1e-9) for part in gradient] == slopes


@pytest.mark.usefixtures("in_float64")
def test_at_ratio_one_raft_plus_plus_is_raft(tmp_path: Path, tiny_model_folder: Path) -> None:
    slopes = []
    for ratio in ("none", "token"):
        trainer = make(
            tmp_path / ratio, tiny_model_folder, selection="all_best", loss_normalizer="rollouts",
            importance_sampling=ratio, updates_per_step=2,
        )  # fmt: skip
        value, slope = loss_of(trainer, trainer.assign_credit([group(REWARDS)]), OLD)
        slopes.append(slope)
    assert value == pytest.approx(-1.0, abs=1e-12)
    assert [pytest.approx(part, abs=1e-12) for part in slopes[0]] == slopes[1]


# ---- selection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "kept"),
    [
        ({"accept_threshold": 0.0}, [[2], []]),
        ({}, [[2], [0]]),
        ({"selection": "threshold", "accept_threshold": 0.4}, [[0, 2], []]),
        ({"selection": "global_top", "keep_fraction": 0.375}, [[0, 1, 2], []]),
        ({"selection": "all_best", "max_kept_per_prompt": 2}, [[2], [0, 1]]),
        ({"selection": "all_best", "accept_threshold": -5.0, "drop_all_correct": True}, [[], []]),
    ],
)
def test_what_is_kept(keys: dict[str, Any], kept: list[list[int]], tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, tie_break="first", **keys)
    groups = [group([0.5, 0.3, 0.9, None]), group([-1.0, -1.0, -1.0, -1.0], "000000/000001")]
    samples = trainer.assign_credit(groups)
    assert [s.id for s in samples] == [f"000000/00000{g}/{i}" for g, some in enumerate(kept) for i in some]
    assert {s.objective for s in samples} <= {KEPT}


def test_a_rejected_rollout_counts_under_all_tokens_and_is_not_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, loss_normalizer="all_tokens")
    samples = trainer.assign_credit([group(REWARDS)])
    assert [s.objective for s in samples].count(REJECTED) == 3
    minibatch = trainer.minibatch(samples)
    assert (minibatch.samples, minibatch.counts.total.tokens) == (1, 10)


def test_one_rollout_without_threshold_is_self_training(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, rollouts_per_prompt=1)
    groups = trainer.collect(EXAMPLES[:4])
    samples = trainer.assign_credit(groups)
    assert [s.input_ids for s in samples] == [g.rollouts[0].prompt_ids + g.rollouts[0].completion_ids for g in groups]
    assert all(set(s.token_weights) <= {0.0, 1.0} and sum(s.token_weights) == sum(s.trained) for s in samples)


def test_equal_completions_count_once(tmp_path: Path, tiny_model_folder: Path) -> None:
    twice = group([1.0, 1.0, 1.0, 1.0])
    twice.rollouts[2].completion_ids = twice.rollouts[1].completion_ids
    trainer = make(tmp_path, tiny_model_folder, selection="all_best", accept_threshold=0.0, deduplicate=True)
    assert [s.id[-1] for s in trainer.assign_credit([twice])] == ["0", "1", "3"]


def test_the_rank_key_holds_the_policy_near_the_reference(tmp_path: Path, tiny_model_folder: Path) -> None:
    """On the first step policy and reference are equal: the key is the reward. Afterwards they differ."""
    trainer = make(tmp_path, tiny_model_folder, kl_rank_coef=10.0, learning_rate=1e-2)
    trainer.train_step()
    first = ranked_rows(tmp_path, 0)
    assert [row["rank_key"] for row in first] == pytest.approx([row["reward"] for row in first], abs=1e-3)
    trainer.train_step()
    assert max(abs(row["rank_key"] - row["reward"]) for row in ranked_rows(tmp_path, 1)) > 0.1


def test_the_kl_to_the_initial_policy_is_measured(tmp_path: Path, tiny_model_folder: Path) -> None:
    """0 before the first update; later the mean log-ratio, computed here from the two models' full distributions. The
    measurement changes nothing."""
    trainer = make(tmp_path, tiny_model_folder, measure_kl=True, learning_rate=1e-2)
    initial = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    assert trainer.train_step()[0]["raft/kl_to_initial"] == pytest.approx(0.0, abs=1e-4)
    trainer.save_model(tmp_path / "first")
    sampled_from = AutoModelForCausalLM.from_pretrained(tmp_path / "first", dtype=torch.float32)
    metrics, groups, _ = trainer.train_step()
    ratios = [log_likelihood(sampled_from, r) - log_likelihood(initial, r) for g in groups for r in g.rollouts]
    assert metrics["raft/kl_to_initial"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-3)
    assert metrics["raft/kl_to_initial"] > 0.1
    unmeasured = make(tmp_path / "without", tiny_model_folder, learning_rate=1e-2)
    unmeasured.train_step()
    unmeasured.train_step()
    assert equal_weights(trainer, unmeasured)


@torch.no_grad()
def log_likelihood(model: Any, rollout: Rollout) -> float:
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    logprobs = model(ids).logits.double().log_softmax(-1)[0, :-1].gather(-1, ids[0, 1:, None])
    return float(logprobs[len(rollout.prompt_ids) - 1 :].sum())


def equal_weights(one: RAFTTrainer, other: RAFTTrainer) -> bool:
    pairs = zip(one.causal_lm.parameters(), other.causal_lm.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_the_tradeoff_pairs_an_evaluation_with_the_kl_of_the_same_weights() -> None:
    points = runpy.run_path(str(Path(__file__).parents[2] / "recipes/raft/tradeoff.py"))["points"]
    rows = [
        {"step": 0, "eval/accuracy": 0.1},
        {"step": 1, "raft/kl_to_initial": 0.0},
        {"step": 2, "raft/kl_to_initial": 0.2, "eval/accuracy": 0.3},
        {"step": 3, "raft/kl_to_initial": 0.4, "eval/accuracy": 0.5},  # nothing was sampled after it
    ]
    assert points(rows) == [(0.0, 0.1), (0.4, 0.3)]


# ---- restart --------------------------------------------------------------------------------------------------------


def test_a_restarted_step_is_the_first_step_of_a_new_run(tmp_path: Path, tiny_model_folder: Path) -> None:
    """With ``restart: initial`` the second step gives the weights of the initial policy after one update on the second
    step's samples; the samples are those of the policy after the first step. The first step restarts from itself."""
    restarted = make(tmp_path / "initial", tiny_model_folder, restart="initial")
    going_on = make(tmp_path / "current", tiny_model_folder)
    restarted.train_step()
    going_on.train_step()
    assert equal_weights(restarted, going_on)
    _, _, samples = restarted.train_step()
    fresh = make(tmp_path / "fresh", tiny_model_folder)
    fresh.update_policy(samples)
    assert equal_weights(restarted, fresh)
    assert samples == going_on.train_step()[2]
    assert not equal_weights(restarted, going_on)


def test_without_anything_kept_the_policy_stays(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, restart="initial")
    trainer.train_step()
    before = copy.deepcopy(trainer.causal_lm.state_dict())
    trainer.before_update([])
    assert all(torch.equal(value, before[name]) for name, value in trainer.causal_lm.state_dict().items())


# ---- equal to supervised fine-tuning --------------------------------------------------------------------------------


def test_the_gradient_is_that_of_trl_sft_on_the_kept(tmp_path: Path, tiny_model_folder: Path) -> None:
    from trl import SFTConfig, SFTTrainer

    trainer = make(tmp_path, tiny_model_folder)
    samples = trainer.assign_credit(trainer.collect(EXAMPLES[:4]))
    minibatch = trainer.minibatch(samples)
    trainer.enter(minibatch)
    loss, _, _ = trainer.update.backward(minibatch.batches, trainer.policy_loss)
    theirs = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32),
        SFTConfig(output_dir=str(tmp_path / "trl"), report_to=[], use_cpu=True, bf16=False, loss_type="nll"),
        train_dataset=load_dataset("json", data_files=write_rows(tmp_path, samples), split="train"),
        processing_class=trainer.tokenizer,
    )
    rows = [{"input_ids": s.input_ids, "labels": labels(s)} for s in samples]
    width = max(len(row["input_ids"]) for row in rows)
    padded = {
        "input_ids": torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(r["input_ids"]) + [0] * (width - len(r["input_ids"])) for r in rows]),
    }
    expected = theirs.compute_loss(theirs.model.train(), padded)
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-6)
    for name, parameter in theirs.model.named_parameters():
        ours = dict(trainer.causal_lm.named_parameters())[name].grad
        assert torch.allclose(ours, parameter.grad, atol=1e-6), name


def labels(sample: TrainingSample) -> list[int]:
    return [token if trained else -100 for token, trained in zip(sample.input_ids, sample.trained, strict=True)]


def write_rows(folder: Path, samples: Sequence[TrainingSample]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"input_ids": s.input_ids, "labels": labels(s)}) + "\n" for s in samples))
    return str(file)


# ---- mini-batches ---------------------------------------------------------------------------------------------------


def test_later_minibatches_are_off_policy(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The old log-probs are those from before the first update: the ratio leaves 1 with the second mini-batch."""
    keys = {"selection": "all_best", "importance_sampling": "token", "learning_rate": 1e-2}
    trainer = make(tmp_path, tiny_model_folder, minibatches_per_step=2, **keys)
    assert trainer.train_step()[0]["raft/ratio_gap"] > 1e-3
    once = make(tmp_path / "once", tiny_model_folder, **keys)
    assert once.train_step()[0]["raft/ratio_gap"] == 0.0


def test_nothing_accepted_stops_the_run_after_a_while(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder, ExactIntegerReward(), accept_threshold=2.0, max_empty_steps=2, steps=5)
    with pytest.raises(TrainingDiverged, match=r"nothing to learn from in 2 steps in a row .*none was accepted"):
        trainer.train()
    assert trainer.sampler.state_dict() != make(tmp_path / "b", tiny_model_folder).sampler.state_dict()


class AllEqual(TokenSum):
    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(0.5) for _ in inputs]


def test_equal_rewards_say_so_train_nothing_and_stop_the_run_after_a_while(
    tmp_path: Path, tiny_model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(tmp_path, tiny_model_folder, AllEqual(), max_empty_steps=2, steps=5)
    with pytest.raises(TrainingDiverged, match="nothing to learn from in 2 steps in a row"):
        trainer.train()
    assert "step 0: all 16 rank keys are 0.5: no update" in caplog.text
    assert not any(row["kept"] for row in ranked_rows(tmp_path, 1))
    assert equal_weights(trainer, make(tmp_path / "untrained", tiny_model_folder))


# ---- what is kept on disk -------------------------------------------------------------------------------------------


def ranked_rows(folder: Path, step: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "ranked" / f"step_{step:06d}.jsonl").read_text().splitlines()]


def test_the_ranking_is_a_dataset(tmp_path: Path, tiny_model_folder: Path) -> None:
    make(tmp_path, tiny_model_folder).train()
    files = [str(file) for file in sorted((tmp_path / "ranked").iterdir())]
    rows = list(load_dataset("json", data_files=files, split="train", streaming=True))
    assert len(rows) == 2 * 4 * 4
    assert sum(row["kept"] for row in rows) == 2 * 4
    assert all(row["rank"] == 0 or not row["kept"] for row in rows)
    assert {row["step"] for row in rows} == {0, 1}


class DiesInTheSecondStep(TokenSum):
    """Raises, as a crash would, when the second step has half of its groups."""

    def __init__(self) -> None:
        self.calls = 0

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        self.calls += 1
        if self.calls == 7:
            raise KeyboardInterrupt
        return super().score(inputs)


def test_a_run_that_died_while_sampling_keeps_what_it_had(tmp_path: Path, tiny_model_folder: Path) -> None:
    make(tmp_path / "whole", tiny_model_folder, save_every=1).train()
    dying = make(tmp_path / "run", tiny_model_folder, DiesInTheSecondStep(), save_every=1)
    with pytest.raises(KeyboardInterrupt):
        dying.train()
    (saved,) = (tmp_path / "run" / "collected").iterdir()
    groups = len(saved.read_text().splitlines())
    assert groups == 3  # scoring of the other groups goes on
    with saved.open("a") as file:
        file.write('{"request_id": "000001/0000')  # a write that a kill cut off

    class Counting(TokenSum):
        groups = 0

        def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
            self.groups += 1
            return super().score(inputs)

    reward = Counting()
    resumed = make(tmp_path / "run", tiny_model_folder, reward, save_every=1)
    resumed.train("auto")
    assert reward.groups == 4 - groups
    assert ranked_rows(tmp_path / "run", 1) == ranked_rows(tmp_path / "whole", 1)
    whole, again = (tmp_path / name / "model" / "model.safetensors" for name in ("whole", "run"))
    assert whole.read_bytes() == again.read_bytes()


# ---- offline --------------------------------------------------------------------------------------------------------


def write_candidates(folder: Path, *rows: dict[str, Any]) -> str:
    file = folder / "candidates.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_candidates_of_another_generator(tmp_path: Path, tiny_model_folder: Path) -> None:
    file = write_candidates(
        tmp_path,
        {"id": "p1", "completion": "2", "reward": 0.1},
        {"id": "p1", "completion": "two", "reward": 0.9},
        {"prompt": "3+1=", "completion": "5"},
        {"prompt": "3+1=", "completion": "4 and more"},
    )
    trainer = make(tmp_path, tiny_model_folder, candidates=file, prompts_per_step=2, steps=1)
    _, groups, samples = trainer.train_step()
    assert {g.example.id for g in groups} == {"p1", "p3"}
    kept = {trainer.tokenizer.decode(s.input_ids, skip_special_tokens=True) for s in samples}
    assert kept == {"1+1=two", "3+1=4 and "}  # TokenSum prefers the longer one; cut at the budget of 6 tokens
    assert not (tmp_path / "collected").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "p9", "completion": "x"}], "line 1: id p9 is no training prompt"),
        ([{"prompt": "9+9=", "completion": "x"}], "is no training prompt"),
        ([{"id": "p1", "completion": "x"}, {"id": "p1", "completion": "x"}], "line 2: .* is there twice"),
        ([{"completion": "x"}], "line 1: neither id nor prompt"),
        ([{"id": "p1"}], "line 1: completion: Field required"),
        ([{"id": "p1", "completion": "x", "reward": "high"}], "line 1: reward: "),
        ([], "is empty: it has no rows"),
    ],
)
def test_bad_candidates_are_named(
    rows: list[dict[str, Any]], message: str, tmp_path: Path, tiny_model_folder: Path
) -> None:
    with pytest.raises(DataError, match=message):
        make(tmp_path, tiny_model_folder, candidates=write_candidates(tmp_path, *rows))


def test_only_a_newline_ends_a_line_of_candidates(tmp_path: Path, tiny_model_folder: Path) -> None:
    file = tmp_path / "candidates.jsonl"
    file.write_text('\n{"id": "p1", "completion": "2\u2028two"}\n{"id": "p9", "completion": "x"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 3: id p9 is no training prompt"):
        make(tmp_path, tiny_model_folder, candidates=str(file))


@pytest.mark.parametrize("row", [{"prompt": "1+1=", "completion": "2"}, {"id": "p1", "completion": "2"}])
def test_a_candidate_of_several_examples_is_refused(row: dict[str, str], tmp_path: Path) -> None:
    file = write_candidates(tmp_path, {"id": "p0", "completion": "1"}, row)
    with pytest.raises(DataError, match=r"line 2: .* is that of 2 training examples"):
        Candidates.read(file, [*EXAMPLES, Example(id="p1", prompt="1+1=", answer="2")])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rollouts_per_prompt": 0}, "rollouts_per_prompt"),
        ({"selection": "threshold"}, "needs accept_threshold"),
        ({"drop_all_correct": True}, "needs accept_threshold"),
        ({"candidates": "x.jsonl", "importance_sampling": "token"}, "no log-probs of this policy"),
        ({"candidates": "x.jsonl", "measure_kl": True}, "no log-probs of this policy"),
        ({"restart": "initial", "importance_sampling": "token"}, "did not sample"),
        ({"restart": "initial", "importance_correction": "token_mask"}, "did not sample"),
        ({"restart": "initial", "oversample": 0.5}, "with oversample importance_correction too"),
    ],
)
def test_settings_that_cannot_work(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RAFTConfig.model_validate(keys)
