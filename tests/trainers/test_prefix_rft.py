"""Prefix-RFT: its limits are GRPO and SFT, its numbers those worked out for it, and bad demonstrations are named."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.normalizers import Lowercase
from transformers import AutoModelForCausalLM

from posttrain.errors import DataError
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.demonstrations import Demonstrations
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.prefix_rft import PrefixRFTTrainer
from posttrain.trainers.prefix_rft_config import PrefixRFTConfig
from posttrain.training.packing import collate
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, Origin, Rollout, RolloutGroup, Sampling, TrainingSample

EXAMPLES = [
    Example(id=f"p{n}", prompt=f"{n}+1=", answer=str(n + 1), demonstration=f"so 1+{n}={n + 1}") for n in range(6)
]
BARE = [replace(example, demonstration=None) for example in EXAMPLES]
GRPO_SETTINGS: dict[str, Any] = {"loss": "dr_grpo", "advantage_scale": "none", "dual_clip": 3.0}


class Varied:
    """The parity of the completion's first token: some spread in most groups."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids) % 2)) for item in inputs]

    def close(self) -> None:
        pass


def make(
    trainer: type[GRPOTrainer], folder: Path, model: Path, examples: Sequence[Example] = EXAMPLES, **keys: Any
) -> Any:
    settings: dict[str, Any] = {
        "steps": 4,
        "prompts_per_step": 3,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-3,
        "sampling": Sampling(max_completion_tokens=16),
    }
    return trainer(
        model,
        trainer.config_class.model_validate({**settings, **keys}),
        reward=Varied(),
        train_dataset=examples,
        run=RunConfig(folder=str(folder)),
    )


# ---- limits ---------------------------------------------------------------------------------------------------------

FIXED = {"prefix_ratio_high": {"initial": 0.0}, "prefix_ratio_low": {"initial": 0.0}}


@pytest.mark.parametrize("how", ["no ratio", "no demonstrations", "no share of them", "no hybrids"])
def test_without_prefixes_it_is_grpo_to_the_bit(how: str, tmp_path: Path, tiny_model_folder: Path) -> None:
    keys: dict[str, Any] = {
        "no ratio": FIXED,
        "no demonstrations": {},
        "no share of them": {"demonstration_fraction": 0.0},
        "no hybrids": {"prefix_rollouts_per_prompt": 0},
    }[how]
    examples = BARE if how == "no demonstrations" else EXAMPLES
    ours = make(PrefixRFTTrainer, tmp_path / "ours", tiny_model_folder, examples, **keys)
    grpo = make(GRPOTrainer, tmp_path / "grpo", tiny_model_folder, examples, **GRPO_SETTINGS)
    for _ in range(2):
        metrics, _, samples = ours.train_step()
        expected, _, expected_samples = grpo.train_step()
        assert samples == expected_samples
        assert any(any(sample.token_weights) for sample in samples)
        assert metrics["policy/loss"] == expected["policy/loss"]
    theirs = dict(grpo.causal_lm.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in ours.causal_lm.named_parameters())


def test_a_whole_demonstration_of_weight_one_is_sft(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Gradient of the prefix tokens: the sum of their negative log-likelihoods over B L_max."""
    trainer = make(
        PrefixRFTTrainer, tmp_path, tiny_model_folder, prefix_entropy_selection="all", expert_ratio="one",
        expert_weight=1.0, prefix_ratio_high={"initial": 1.0}, prefix_ratio_low={"initial": 1.0},
    )  # fmt: skip
    groups = trainer.collect(EXAMPLES[:3])
    hybrids = [s for s in trainer.assign_credit(groups) if Origin.EXPERT in s.origin]
    assert len(hybrids) == 3
    for sample in hybrids:  # the sampled tokens out of it
        for token, origin in enumerate(sample.origin):
            if origin == Origin.POLICY:
                sample.trained[token], sample.token_weights[token] = 0, 0.0
    minibatch = trainer.minibatch(hybrids)
    trainer.enter(minibatch)
    trainer.update.backward(minibatch.batches, trainer.policy_loss)
    gradients = {name: parameter.grad for name, parameter in trainer.causal_lm.named_parameters()}
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    nll = torch.zeros(())
    for sample in hybrids:
        logits = plain(torch.tensor([sample.input_ids])).logits[0, :-1].log_softmax(-1)
        picked = logits.gather(1, torch.tensor(sample.input_ids[1:])[:, None]).squeeze(1)
        nll = nll - (picked * torch.tensor(sample.trained[1:])).sum()
    (nll / (3 * 16)).backward()
    for name, parameter in plain.named_parameters():
        assert torch.allclose(gradients[name], parameter.grad, atol=1e-6), name


# ---- what is sampled ------------------------------------------------------------------------------------------------


def test_one_rollout_of_the_group_continues_the_demonstration(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, [*EXAMPLES[:3], *BARE[3:]])
    groups = trainer.collect([*EXAMPLES[:2], *BARE[3:4]])
    assert [len(group.rollouts) for group in groups] == [4, 4, 4]
    hybrids = [[r for r in group.rollouts if not all(r.action_mask)] for group in groups]
    assert [len(some) for some in hybrids] == [1, 1, 0]
    for group, (hybrid,) in zip(groups[:2], hybrids[:2], strict=True):
        demonstration = trainer.tokenizer.encode(group.example.demonstration)
        length = hybrid.action_mask.count(0)
        assert hybrid.completion_ids[:length] == demonstration[:length]
        assert 0 < length < len(demonstration)
        assert hybrid.action_mask == [0] * length + [1] * (len(hybrid.completion_ids) - length)


def test_a_cut_inside_a_character_is_no_cut_in_the_ids(tmp_path: Path, tiny_model_folder: Path) -> None:
    window = {"prompts_per_step": 1, "prefix_ratio_low": {"initial": 0.1}}
    example = Example(id="u", prompt="1=", answer="1", demonstration="\u4e2d=1")
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, [example], **window)
    ids = trainer.demonstrations.ids["u"][0]
    cuts = set()
    for _ in range(40):
        for request in trainer.plan([example])[1:]:
            assert request.prefix_ids == ids[: len(request.prefix_ids)]
            cuts.add("\ufffd" in trainer.encoder.text(request.prefix_ids))
    assert cuts == {False, True}


def test_prefixes_get_shorter(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, steps=10)
    lengths = []
    for step in (0, 9):
        trainer.collecting = step
        requests = [r for _ in range(40) for r in trainer.plan(EXAMPLES) if r.prefix_ids]
        lengths.append(sum(len(r.prefix_ids) for r in requests) / len(requests))
    assert lengths[0] > lengths[1] + 1


# ---- credit ---------------------------------------------------------------------------------------------------------


def rows(trainer: PrefixRFTTrainer, rewards: Sequence[float]) -> list[RolloutGroup]:
    """Two rollouts of the policy's own and a hybrid with three expert tokens."""
    own = [
        Rollout("000000/000000", i, [60], ids, [1] * len(ids), [-1.0] * len(ids), "stop", 0, "", reward=r)
        for i, (ids, r) in enumerate(zip(([61, 62], [63, 64, 65]), rewards, strict=False))
    ]
    ids = [66, 67, 68, 69]
    hybrid = Rollout(
        "000000/000000.prefix0", 0, [60], ids, [0, 0, 0, 1], [0.0] * 3 + [-1.0], "stop", 0, "", reward=rewards[2]
    )
    return [RolloutGroup(EXAMPLES[0], [*own, hybrid])]


@pytest.mark.parametrize(
    ("rewards", "keys", "weights"),
    [
        ([0.0, 1.0, 1.0], {"prefix_entropy_selection": "all"}, [1 / 3] * 4),
        ([0.0, 1.0, 1.0], {}, [1 / 3, 1 / 3]),
        ([0.0, 1.0, 0.0], {}, [-1 / 3, -1 / 3]),
        ([0.0, 1.0, 0.0], {"expert_negative": "zero"}, [-1 / 3]),
        ([0.0, 0.0, 1.0], {"prefix_entropy_selection": "none"}, [2 / 3]),
        ([0.0, 1.0, 1.0], {"advantage": "prefix_baseline"}, [0.5, 1.0]),
        ([0.0, 1.0, 1.0], {"expert_weight": 0.25}, [0.25, 1 / 3]),
        ([1.0, 1.0, 1.0], {}, [0.0]),
    ],
)
def test_what_a_prefix_token_weighs(
    rewards: list[float], keys: dict[str, Any], weights: list[float], tmp_path: Path, tiny_model_folder: Path
) -> None:
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, **keys)
    sample = trainer.assign_credit(rows(trainer, rewards))[2]
    assert [w for w, t in zip(sample.token_weights, sample.trained, strict=True) if t] == pytest.approx(weights)
    assert sample.origin == [Origin.PROMPT] + [Origin.EXPERT] * 3 + [Origin.POLICY]


def test_the_filter_takes_the_most_uncertain_of_a_real_forward_pass(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder)
    samples = trainer.assign_credit(rows(trainer, [0.0, 1.0, 1.0]))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    logits = plain(torch.tensor([samples[2].input_ids])).logits[0].double().log_softmax(-1)
    entropies = -(logits.exp() * logits).sum(-1)[0:3]  # of the positions that predict the prefix
    (kept,) = [i for i in range(3) if samples[2].trained[1 + i]]
    assert kept == int(entropies.argmax())
    assert samples[2].behaviour_logprobs[1 + kept] == pytest.approx(float(logits[kept, 66 + kept]), abs=1e-5)
    everything = make(PrefixRFTTrainer, tmp_path / "all", tiny_model_folder, prefix_entropy_selection="all")
    assert everything.assign_credit(rows(everything, [0.0, 1.0, 1.0]))[:2] == samples[:2]


# ---- the loss -------------------------------------------------------------------------------------------------------

TABLE_ROWS = {  # logits of each token, and the token
    "a": [([0, 0, 0], 0), ([1, 0, -1], 1)],
    "b": [([0.5, 0, 0], 0), ([0, 2, 0], 1), ([0, 0, 1], 2)],
    "h": [([2, 0, 0], 1), ([0, 0, 0], 2), ([0, 1, 0], 1), ([1, 0, 0], 0)],
}
FIRST_ALL = [
    [0.021860723393, -0.024819250586, 0.002958527192],
    [0.009259259259, 0.009259259259, -0.018518518519],
    [0.005887265489, -0.011774530979, 0.005887265489],
    [-0.011774530979, 0.005887265489, 0.005887265489],
]
ZERO = [0.0, 0.0, 0.0]
AT_RATIO_ONE: list[tuple[list[float], list[int], float, list[list[float]]]] = [
    ([-2 / 3, 1 / 3, 1 / 3], [0, 1, 2], -1 / 12, FIRST_ALL),
    ([-2 / 3, 1 / 3, 1 / 3], [1], -1 / 36, [ZERO, FIRST_ALL[1], ZERO, FIRST_ALL[3]]),
    (
        [-1 / 3, 2 / 3, -1 / 3],
        [1],
        -1 / 18,
        [ZERO, [-x for x in FIRST_ALL[1]], ZERO, [-x for x in FIRST_ALL[3]]],
    ),
    (
        [-1 / 3, -1 / 3, 2 / 3],
        [1],
        1 / 36,
        [ZERO, [2 * x for x in FIRST_ALL[1]], ZERO, [2 * x for x in FIRST_ALL[3]]],
    ),
]


def table_samples(advantages: Sequence[float], kept: Sequence[int]) -> list[TrainingSample]:
    samples = []
    for name, advantage in zip("abh", advantages, strict=True):
        tokens = [token for _, token in TABLE_ROWS[name]]
        expert = [name == "h" and t < 3 for t in range(len(tokens))]
        trained = [int(not e or t in kept) for t, e in enumerate(expert)]
        samples.append(
            TrainingSample(
                name, [0, *tokens], [Origin.PROMPT, *(Origin.EXPERT if e else Origin.POLICY for e in expert)],
                [0, *trained], [0.0, *(advantage * t for t in trained)], [0.0] * (len(tokens) + 1),
            )
        )  # fmt: skip
    return samples


def table_loss(
    trainer: PrefixRFTTrainer, advantages: Sequence[float], kept: Sequence[int], ratios: dict[str, list[float]] | None
) -> tuple[float, list[list[float]]]:
    """The loss, and its gradient by the logits of the hybrid's tokens (0 for those that are not trained)."""
    samples = table_samples(advantages, kept)
    trainer.enter(trainer.minibatch(samples))
    batch = collate(samples)
    batch.weights = torch.tensor([w for s in samples for w, t in zip(s.token_weights, s.trained, strict=True) if t])
    logits = {
        name: torch.tensor([row for row, _ in rows], dtype=torch.float64, requires_grad=True)
        for name, rows in TABLE_ROWS.items()
    }
    logprobs, old = [], []
    for sample in samples:
        for t, (_, token) in enumerate(TABLE_ROWS[sample.id]):
            if sample.trained[1 + t]:
                logprobs.append(logits[sample.id][t].log_softmax(-1)[token])
                old.append(logprobs[-1].item() - math.log(ratios[sample.id][t] if ratios else 1.0))
    batch.behaviour_logprobs = torch.tensor(old)
    loss = trainer.loss(torch.stack(logprobs), torch.zeros(len(old)), batch).loss
    gradient = torch.autograd.grad(loss, [logits["h"]])[0]
    return loss.item(), gradient.tolist()


@pytest.fixture(autouse=True)
def single_precision_after() -> Any:
    yield
    torch.set_default_dtype(torch.float32)


def for_table(folder: Path, model: Path, **keys: Any) -> PrefixRFTTrainer:
    trainer: PrefixRFTTrainer = make(
        PrefixRFTTrainer, folder, model, sampling=Sampling(max_completion_tokens=4), updates_per_step=2,
        demonstration_fraction=0.0, **keys,
    )  # fmt: skip
    torch.set_default_dtype(torch.float64)
    return trainer


@pytest.mark.parametrize(("advantages", "kept", "loss", "gradient"), AT_RATIO_ONE)
def test_loss_and_gradient_at_ratio_one(
    advantages: list[float], kept: list[int], loss: float, gradient: list[list[float]], tmp_path: Path,
    tiny_model_folder: Path,
) -> None:  # fmt: skip
    value, slopes = table_loss(for_table(tmp_path, tiny_model_folder), advantages, kept, None)
    assert value == pytest.approx(loss, abs=1e-9)
    assert slopes == [pytest.approx(row, abs=1e-9) for row in gradient]


RATIOS = {"a": [1.5, 0.5], "b": [1.5, 0.7, 1.0], "h": [2.0, 0.4, 1.0, 1.1]}


@pytest.mark.parametrize(
    ("advantages", "clip", "loss", "row", "slope"),
    [
        ([-2 / 3, 1 / 3, 1 / 3], True, -0.055555555556, 0, ZERO),
        ([-2 / 3, 1 / 3, 1 / 3], False, -0.077777777778, 0, [0.043721446787, -0.049638501171, 0.005917054384]),
        ([-1 / 3, 2 / 3, -1 / 3], True, 0.038888888889, 1, ZERO),
        ([-1 / 3, 2 / 3, -1 / 3], False, 0.027777777778, 1, [-0.003703703704, -0.003703703704, 0.007407407407]),
    ],
)
def test_clip_of_expert_tokens(
    advantages: list[float], clip: bool, loss: float, row: int, slope: list[float], tmp_path: Path,
    tiny_model_folder: Path,
) -> None:  # fmt: skip
    value, slopes = table_loss(for_table(tmp_path, tiny_model_folder, expert_clip=clip), advantages, [0, 1, 2], RATIOS)
    assert value == pytest.approx(loss, abs=1e-9)
    assert slopes[row] == pytest.approx(slope, abs=1e-9)


# ---- several updates, and what is reported ---------------------------------------------------------------------------


def test_old_log_probs_of_the_prefix_are_the_policys(tmp_path: Path, tiny_model_folder: Path) -> None:
    """On the first pass over the batch every ratio is 1, the prefix's too; on the second they have moved."""
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, updates_per_step=2, prefix_entropy_selection="all")
    samples = trainer.assign_credit(trainer.collect(EXAMPLES[:3]))
    minibatch = trainer.minibatch(samples)
    trainer.enter(minibatch)
    for batch in minibatch.batches:
        trainer.prepare(batch)
        logprobs = trainer.trainer_logprobs(batch)
        assert int((batch.origins == Origin.EXPERT).sum()) > 0
        assert torch.allclose(logprobs, batch.behaviour_logprobs, atol=1e-5)


def test_hybrids_are_reported_beside_the_policys_own(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder)
    metrics, _, _ = trainer.train_step()
    assert metrics["prefix/hybrid_rollouts"] == 3
    assert metrics["prefix/ratio_low"] == metrics["prefix/ratio_high"] == 0.95
    assert metrics["prefix/length_mean"] > 1
    assert {"prefix/own_reward", "prefix/hybrid_reward"} <= metrics.keys()


def test_the_bounds_that_are_reported_are_those_of_the_trained_step(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Also while the next step is sampled beside it."""
    falling = {"initial": 0.9, "final": 0.1, "schedule": "linear"}
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, max_staleness=1, prefix_ratio_low=falling)
    reported = [trainer.train_step()[0]["prefix/ratio_low"] for _ in range(3)]
    assert reported == pytest.approx([0.9, 0.7, 0.5])


# ---- bad demonstrations ----------------------------------------------------------------------------------------------


def test_demonstrations_that_cannot_be_used(
    tmp_path: Path, tiny_model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    example = EXAMPLES[0]
    eos = make(PrefixRFTTrainer, tmp_path, tiny_model_folder).tokenizer.eos_token
    with pytest.raises(
        DataError, match=r"the demonstration of example 'p0' holds '.*', which begins a text or ends a completion"
    ):
        make(PrefixRFTTrainer, tmp_path, tiny_model_folder, [replace(example, demonstration=f"1{eos}")])
    trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder)
    trainer.tokenizer.bos_token = "<|system|>"
    with pytest.raises(DataError, match=r"holds '<\|system\|>', which begins a text"):
        Demonstrations.encode([replace(example, demonstration="<|system|>12")], trainer.encoder, max_tokens=16)
    trainer.tokenizer.backend_tokenizer.normalizer = Lowercase()
    with pytest.raises(DataError, match=r"p0' is not what the policy's tokenizer says it is: from character 3 on"):
        Demonstrations.encode([replace(example, demonstration="is Two")], trainer.encoder, max_tokens=16)
    for text in ("", "1" * 17):
        trainer = make(PrefixRFTTrainer, tmp_path, tiny_model_folder, [replace(example, demonstration=text)])
        assert trainer.demonstrations.ids == {}
    assert "1 demonstrations have more than 16 tokens and are left out (examples p0)" in caplog.text


def test_the_group_needs_a_rollout_of_the_policys_own() -> None:
    with pytest.raises(ValueError, match="less than rollouts_per_prompt"):
        PrefixRFTConfig(rollouts_per_prompt=4, prefix_rollouts_per_prompt=4)
