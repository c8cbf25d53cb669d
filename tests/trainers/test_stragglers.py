"""Steps that do not wait for their longest completions: what is trained on when; nothing is lost, nothing doubled."""

import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from posttrain.errors import CheckpointError, JobError
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.trainers.agent_r_config import AgentRConfig
from posttrain.trainers.bleuberi_config import BLEUBERIConfig
from posttrain.trainers.credit import training_sample
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.grpo_config import GRPOConfig
from posttrain.trainers.oreal import OREALTrainer
from posttrain.trainers.oreal_config import OREALConfig
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.trainers.policy_trainer import PolicyTrainer
from posttrain.trainers.raft import RAFTTrainer
from posttrain.trainers.raft_config import RAFTConfig
from posttrain.trainers.stragglers import Stragglers
from posttrain.trainers.urpo_config import URPOConfig
from posttrain.training.packing import MicroBatch, collate
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import rollout_records
from posttrain.training.update import LossOutput
from posttrain.types import Example, Rollout, RolloutGroup, RolloutRequest, Sampling

EXAMPLES = [Example(id=f"{n:02d}", prompt=f"{n}=", answer=str(n)) for n in range(40)]
STEPS = 6
STOPS = tuple(range(40, 60))  # of 259 tokens: an untrained model's completions have about 13, seldom 40
METHODS: dict[type[PolicyTrainer], type[PolicyTrainerConfig]] = {
    GRPOTrainer: GRPOConfig,
    RAFTTrainer: RAFTConfig,
    OREALTrainer: OREALConfig,
}


class Parity:
    """1 where the token ids of the completion have an even sum."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids) % 2 == 0)) for item in inputs]

    def close(self) -> None:
        pass


class Constant(Parity):
    """No group has a spread: the policy stays as it is."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(1.0) for _ in inputs]


def make(folder: Path, model: Path, method: Any = GRPOTrainer, reward: Any = None, **keys: Any) -> Any:
    settings: dict[str, Any] = {
        "steps": STEPS,
        "prompts_per_step": 3,
        "rollouts_per_prompt": 3,
        "oversample": 0.5,
        "learning_rate": 1e-2,
        "eval_rollouts": 1,
        "sampling": Sampling(max_completion_tokens=40, stop_token_ids=STOPS),
    }
    return method(
        model,
        METHODS[method].model_validate({**settings, **keys}),
        reward=reward or Parity(),
        train_dataset=EXAMPLES,
        engine=TransformersEngineConfig(device="cpu"),
        run=RunConfig(folder=str(folder)),
    )


def forward(model: Any, rollout: Rollout) -> list[float]:
    """Log-probs of the completion under ``model``, from one pass."""
    ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1)[range(len(logits)), rollout.completion_ids].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("keys", [{}, {"max_staleness": 1}, {"dynamic_sampling": True}], ids=str)
def test_tokens_keep_the_policy_that_sampled_them(
    tmp_path: Path, tiny_model_folder: Path, keys: dict[str, Any]
) -> None:
    """Every token's log-prob is that of the policy of its version; no prompt is lost, none is sampled twice."""
    trainer = make(tmp_path, tiny_model_folder, **keys)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    policies = [deepcopy(trainer.causal_lm.state_dict())]
    trained: list[str] = []
    begun: dict[tuple[str, int], list[int]] = {}
    mixed = 0
    for step in range(STEPS):
        metrics, groups, _ = trainer.train_step()
        policies.append(deepcopy(trainer.causal_lm.state_dict()))
        assert [len(group.rollouts) for group in groups] == [3, 3, 3]
        rollouts = [rollout for group in groups for rollout in group.rollouts]
        for rollout in rollouts:
            assert rollout.finish_reason in ("stop", "length")
            start = begun.get((rollout.request_id, rollout.index), [])
            assert rollout.completion_ids[: len(start)] == start
            assert len(rollout.versions) == len(rollout.completion_ids)
            assert rollout.versions == sorted(rollout.versions) and rollout.versions[-1] <= step
            for version in set(rollout.versions):
                model.load_state_dict(policies[version])
                expected = forward(model, rollout)
                places = [place for place, each in enumerate(rollout.versions) if each == version]
                assert [rollout.logprobs[p] for p in places] == pytest.approx([expected[p] for p in places], abs=1e-4)
            mixed += len(set(rollout.versions)) > 1
        older = sum(version < step for rollout in rollouts for version in rollout.versions)
        assert metrics["batch/tokens_of_older_policies"] == older
        assert metrics["batch/older_token_fraction"] == older / sum(len(r.completion_ids) for r in rollouts)
        trained += [group.example.id for group in groups]
        kept = trainer.stragglers.requests
        begun = {(r.id, i): each.completion_ids for r in kept for i, each in r.begun.items()}
    assert mixed >= 3
    waiting = [group.example.id for batch in trainer.batches.ready for group in batch.groups]
    known = [*trained, *waiting, *(request.example.id for request in kept)]
    assert len(kept) == 2 and len(set(known)) == len(known)
    if not trainer.config.dynamic_sampling:  # which drops groups
        drawn = [example.id for example in make(tmp_path / "other", tiny_model_folder).sampler.next(len(known))]
        assert sorted(known) == sorted(drawn)


def test_a_straggler_ends_as_if_it_had_not_been_cut(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Greedy, with weights that stay the same; they are far from an untrained model's, which repeats one token."""
    greedy = Sampling(temperature=0.0, max_completion_tokens=40, stop_token_ids=STOPS)
    trainer = make(tmp_path, tiny_model_folder, reward=Constant(), sampling=greedy)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer.causal_lm.parameters():
            parameter.add_(0.25 * torch.randn(parameter.shape, generator=generator))
    trainer.sync()
    rollouts = [r for _ in range(STEPS) for group in trainer.train_step()[1] for r in group.rollouts]
    continued = [rollout for rollout in rollouts if rollout.token_versions]
    assert {len(set(rollout.versions)) for rollout in continued} >= {2, 3}  # some are cut twice
    for rollout in continued:
        request = trainer.request(EXAMPLES[0], 0)
        (uncut,) = trainer.engine.generate([replace(request, prompt_ids=rollout.prompt_ids, n=1)])
        assert (rollout.completion_ids, rollout.text) == (uncut.completion_ids, uncut.text)
        assert rollout.finish_reason == uncut.finish_reason
        assert rollout.logprobs == pytest.approx(uncut.logprobs, abs=1e-4)
    record = rollout_records(1, [RolloutGroup(EXAMPLES[0], continued[:1])], [], trainer.tokenizer)[0]["rollouts"][0]
    assert [version for version, _ in record["versions"]] == sorted(set(continued[0].versions))
    assert sum(count for _, count in record["versions"]) == len(continued[0].completion_ids)


def test_what_is_kept_comes_first_and_a_failed_step_loses_nothing(
    tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    trainer.train_step()
    kept = {request.id for request in trainer.stragglers.requests}
    before = (trainer.stragglers.state_dict(), trainer.sampler.state_dict())
    submitted: list[RolloutRequest] = []
    real = trainer.engine.submit

    def submit(requests: Sequence[RolloutRequest]) -> None:
        submitted.extend(requests)
        real(requests)

    def broken(inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.engine, "submit", submit)
    with monkeypatch.context() as patch:
        patch.setattr(trainer.reward, "score", broken)
        with pytest.raises(KeyboardInterrupt):
            trainer.train_step()
    assert (trainer.stragglers.state_dict(), trainer.sampler.state_dict()) == before
    assert {request.id for request in submitted[:2]} == kept and [r.group for r in submitted] == list(range(5))
    again = len(submitted)
    trainer.train_step()
    assert submitted[again:] == submitted[:again]


def test_two_ranks_share_what_is_kept(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rank ends with its share of the groups; both know all, and what is kept is dealt out anew."""
    boxes: dict[int, list[Any]] = {}
    barrier = threading.Barrier(2, timeout=60)

    def gather(accelerator: Any, items: list[Any], group: Any) -> list[Any]:
        boxes[accelerator.process_index] = items
        barrier.wait()
        everything = [*boxes[0], *boxes[1]]
        barrier.wait()
        return everything

    monkeypatch.setattr("posttrain.trainers.policy_trainer.gather_lists", gather)
    trainers = [make(tmp_path / str(rank), tiny_model_folder) for rank in range(2)]
    seen: list[list[list[RolloutGroup]]] = [[], []]

    def collect(rank: int) -> None:
        trainers[rank].accelerator = SimpleNamespace(process_index=rank, num_processes=2)
        for step in range(4):
            seen[rank].append(trainers[rank].collect_batch(step).groups)

    threads = [threading.Thread(target=collect, args=[rank]) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen[0] == seen[1] and [len(groups) for groups in seen[0]] == [3] * 4
    assert trainers[0].stragglers.requests == trainers[1].stragglers.requests
    kept = [request.example.id for request in trainers[0].stragglers.requests]
    known = [*(group.example.id for groups in seen[0] for group in groups), *kept]
    assert len(known) == len(set(known)) == 3 * 4 + 2
    assert any(request.begun for request in trainers[0].stragglers.requests)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.method)
def test_tokens_of_older_policies_are_weighed_in_every_method(
    tmp_path: Path, tiny_model_folder: Path, method: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ratios as under staleness; none without oversampling."""
    rollout = Rollout("r", 0, [70, 71], [80, 81, 82], [1, 1, 1], [0.0] * 3, "stop", 0, "")
    for oversample, factors in ((0.5, [2.0, 3.0, 0.5]), (0.0, [1.0, 1.0, 1.0])):
        trainer = make(tmp_path, tiny_model_folder, method, oversample=oversample)
        now = trainer.trainer_logprobs(collate([training_sample(rollout, 0.25)]))
        rollout.logprobs = (now - torch.tensor([2.0, 5.0, 0.5]).log()).tolist()
        batch = collate([training_sample(rollout, 0.25)])
        trainer.tokens_run, seen = 3, list[MicroBatch]()
        monkeypatch.setattr(trainer, "loss", lambda p, _, batch, seen=seen: seen.append(batch) or LossOutput(p.sum()))
        trainer.prepare(batch)
        trainer.policy_loss(batch)
        assert seen[0].weights.tolist() == pytest.approx([0.25 * factor for factor in factors], rel=1e-4)


@pytest.mark.parametrize("method", [RAFTTrainer, OREALTrainer], ids=lambda method: method.method)
def test_other_methods_take_whole_groups(tmp_path: Path, tiny_model_folder: Path, method: Any) -> None:
    trainer = make(tmp_path, tiny_model_folder, method)
    examples = []
    for _ in range(3):
        metrics, groups, _ = trainer.train_step()
        examples += [group.example.id for group in groups if len(group.rollouts) == 3]
    assert len(set(examples)) == 9
    assert metrics["batch/older_token_fraction"] > 0


def test_raft_goes_on_with_the_groups_that_a_dead_run_had_collected(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer, dead = (make(tmp_path / name, tiny_model_folder, RAFTTrainer) for name in ("whole", "dead"))
    whole = trainer.collect_batch(0).groups
    dead.collect_batch(0)
    file = tmp_path / "dead" / "collected" / "step_000000.rank0.jsonl"
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    again = make(tmp_path / "dead", tiny_model_folder, RAFTTrainer)
    assert again.collect_batch(0).groups == whole
    assert [r.id for r in again.stragglers.requests] == [r.id for r in trainer.stragglers.requests]


def test_raft_trains_no_more_groups_than_a_step_has(tmp_path: Path, tiny_model_folder: Path) -> None:
    """One rank had collected three; of two ranks, this one's share is two. The third waits with the others."""
    make(tmp_path, tiny_model_folder, RAFTTrainer).collect_batch(0)
    trainer = make(tmp_path, tiny_model_folder, RAFTTrainer)
    requests = trainer.plan(trainer.sampler.next(5))
    trainer.stragglers.enough = 2
    whole = [group.rollouts[0].request_id for group in trainer.sample(requests)]
    assert len(whole) == 2
    assert sorted([*whole, *(request.id for request in trainer.stragglers.requests)]) == [r.id for r in requests]


def test_the_budget_of_a_step(tmp_path: Path, tiny_model_folder: Path) -> None:
    schedule = [{"step": 1, "max_completion_tokens": 4}, {"step": 3, "max_completion_tokens": 9}]
    sampling = Sampling(max_completion_tokens=12)
    config = GRPOConfig.model_validate({"sampling": sampling, "budget_schedule": schedule})
    assert [config.sampling_at(step).max_completion_tokens for step in range(5)] == [12, 4, 4, 9, 9]
    trainer = make(tmp_path, tiny_model_folder, sampling=sampling, budget_schedule=schedule, oversample=0.0)
    for budget in (12, 4, 4, 9):
        metrics, groups, _ = trainer.train_step()
        assert metrics["batch/max_completion_tokens"] == budget
        assert max(len(rollout.completion_ids) for group in groups for rollout in group.rollouts) == budget
    trainer.eval_dataset = EXAMPLES[:3]
    assert trainer.evaluate()["eval/length_mean"] > 9


@pytest.mark.parametrize(
    ("config", "keys", "message"),
    [
        (GRPOConfig, {"budget_schedule": [{"step": 3}]}, "max_completion_tokens"),
        (
            GRPOConfig,
            {"budget_schedule": [{"step": s, "max_completion_tokens": 9} for s in (0, 4, 4)]},
            r"each step of budget_schedule must be after the one before it, not \[0, 4, 4\]",
        ),
        (
            GRPOConfig,
            {"budget_schedule": [{"step": 7, "max_completion_tokens": 513}]},
            r"513 tokens from step 7 on, more than sampling.max_completion_tokens \(512\)",
        ),
        (GRPOConfig, {"oversample": -0.1}, "greater than or equal to 0"),
        (URPOConfig, {"oversample": 0.5}, "oversample is not for URPO"),
        (AgentRConfig, {"oversample": 0.5}, "oversample is not for agent_r"),
        (AgentRConfig, {"importance_correction": "token_mask"}, "importance_correction is not for agent_r"),
        (RAFTConfig, {"candidates": "some.jsonl", "oversample": 0.5}, "there is no importance_correction, oversample"),
    ],
)
def test_settings_that_do_not_fit(config: type[PolicyTrainerConfig], keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config.model_validate(keys)


def test_a_run_without_room_does_not_go_on_with_what_was_begun(tmp_path: Path, tiny_model_folder: Path) -> None:
    trainer = make(tmp_path, tiny_model_folder)
    trainer.train_step()
    make(tmp_path, tiny_model_folder, oversample=0.6).load_state_dict(trainer.state_dict())
    with pytest.raises(CheckpointError, match=r"holds 2 groups that were begun, and trainer.oversample has room for 0"):
        make(tmp_path, tiny_model_folder, oversample=0.0).load_state_dict(trainer.state_dict())


def test_data_that_does_not_fit() -> None:
    config = BLEUBERIConfig(prompts_per_step=20, oversample=0.25)
    assert Stragglers.of(config, EXAMPLES[:25]).spare == 5
    with pytest.raises(JobError, match=r"a step begins 20 \+ 5 prompts, there are 24 to train on"):
        Stragglers.of(config, EXAMPLES[:24])
    with pytest.raises(JobError, match="an episode of an environment cannot be cut"):
        Stragglers.of(config, [replace(example, task="environment") for example in EXAMPLES])
    assert Stragglers.of(BLEUBERIConfig(prompts_per_step=64), EXAMPLES).missing == 0
    with pytest.raises(JobError, match=r"max_completion_tokens \(512\) leaves no room for a prompt: .* 512 tokens"):
        config.prompt_budget(512)
    assert config.prompt_budget(600) == 88
