"""URPO: without the other kinds it is GRPO, what the referee reads and earns, and what its guards see."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from posttrain.errors import DataError, TrainingDiverged
from posttrain.rewards.reward import RewardInput, RewardOutput
from posttrain.trainers.credit import training_sample
from posttrain.trainers.grpo import GRPOTrainer
from posttrain.trainers.urpo import URPOTrainer
from posttrain.trainers.urpo_config import Alarm, URPOConfig
from posttrain.trainers.urpo_guards import Alarms, RefereeGate, held_out_metrics, step_metrics
from posttrain.training.run_config import RunConfig
from posttrain.types import Example, FinishReason, Rollout, RolloutGroup, RolloutRequest, Sampling, TaskKind

ANSWERABLE = [Example(f"v{n}", f"{n}+1=", answer=str(n + 1), metadata={"gold": "a column"}) for n in range(6)]
RANKED = [Example(f"p{n}", f"{n}+2=", candidates=[str(n + 2), "0", "x"], task="preference") for n in range(6)]
OPEN = [Example(f"o{n}", f"{n}+3=", answer=str(n + 3), references=["r"], task="open") for n in range(6)]
EVERYTHING = [*OPEN, *RANKED, *ANSWERABLE]
VERIFIABLE_ONLY = {"task_mix": {"verifiable": 1.0, "preference": 0.0, "open": 0.0}}
FEEDBACK = {"referee_min_accuracy": 0.0, "max_error_fraction": 1.0}


class Varied:
    """The parity of the completion's tokens: some spread in most groups."""

    def score(self, inputs: Sequence[RewardInput]) -> list[RewardOutput]:
        return [RewardOutput(float(sum(item.completion_ids) % 2)) for item in inputs]

    def close(self) -> None:
        pass


class Scripted:
    """Turns what an engine draws for a referee into ``Scores`` by rule, as a skilled policy would write them."""

    def __init__(self, engine: Any, score: Any) -> None:
        self.engine, self.rule, self.log = engine, score, []  # type: ignore[var-annotated]
        self.asked: dict[str, RolloutRequest] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        self.asked |= {request.id: request for request in requests}
        self.log += [("submit", request.role, request.id) for request in requests]
        self.engine.submit(requests)

    def finished(self) -> Iterator[Rollout]:
        for rollout in self.engine.finished():
            self.log.append(("done", rollout.role, rollout.request_id))
            if rollout.role == "player":
                rollout.text = rollout.text.replace("|", "/")  # the compact question does not defend itself
            else:
                question = self.engine.tokenizer.decode(rollout.prompt_ids, skip_special_tokens=True)
                answers = question.partition("=")[2].split("|")
                rollout.text = f"Scores: {[self.rule(text.removesuffix('~'), rollout.index) for text in answers]}"
                rollout.finish_reason = "stop"
            yield rollout


def hashed(text: str, index: int) -> int:
    """Scores that differ between answers and between rollouts."""
    return 1 + sum(map(ord, text)) * (index + 1) % 9


def make(trainer: type[GRPOTrainer], folder: Path, model: Path, examples: Sequence[Example], **keys: Any) -> Any:
    settings: dict[str, Any] = {
        "steps": 4,
        "prompts_per_step": 4,
        "rollouts_per_prompt": 4,
        "learning_rate": 1e-3,
        "sampling": Sampling(max_completion_tokens=5),
    }
    if trainer is URPOTrainer:
        settings |= {"referee_max_completion_tokens": 12, "referee_template": "compact"}
    return trainer(
        model,
        trainer.config_class.model_validate({**settings, **keys}),
        reward=Varied(),
        train_dataset=examples,
        run=RunConfig(folder=str(folder)),
    )


@pytest.fixture
def urpo(tmp_path: Path, tiny_model_folder: Path) -> Any:
    """``urpo(score=rule, **settings)``: a trainer whose referee scores by rule, if one is given."""

    def build(score: Any = None, examples: Sequence[Example] = EVERYTHING, **keys: Any) -> Any:
        trainer = make(URPOTrainer, tmp_path, tiny_model_folder, examples, **keys)
        if score is not None:
            trainer.engine = Scripted(trainer.engine, score)
        return trainer

    return build


def by_task(groups: Sequence[RolloutGroup], task: str) -> list[RolloutGroup]:
    return [group for group in groups if group.example.task == task]


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_of_verifiable_prompts_alone_it_is_grpo_to_the_bit(tmp_path: Path, tiny_model_folder: Path) -> None:
    ours = make(URPOTrainer, tmp_path / "ours", tiny_model_folder, EVERYTHING, **VERIFIABLE_ONLY)
    grpo = make(GRPOTrainer, tmp_path / "grpo", tiny_model_folder, ANSWERABLE)
    ours.engine = Scripted(ours.engine, None)
    requests = [replace(request, role="policy") for request in ours.plan(ANSWERABLE[:3])]
    assert requests == grpo.plan(ANSWERABLE[:3])
    for _ in range(2):
        metrics, _, samples = ours.train_step()
        expected, _, expected_samples = grpo.train_step()
        assert samples == expected_samples and any(any(sample.token_weights) for sample in samples)
        assert metrics["policy/loss"] == expected["policy/loss"]
    assert {role for _, role, _ in ours.engine.log} == {"player"}
    theirs = dict(grpo.causal_lm.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in ours.causal_lm.named_parameters())


def test_the_gradient_of_a_mixed_step_is_the_sum_over_its_kinds(urpo: Any) -> None:
    trainer = urpo(score=hashed, min_group_std=0.0, **FEEDBACK)
    groups = trainer.collect(trainer.sampler.next(8))
    samples = trainer.assign_credit(groups)
    task_of = {f"{r.request_id}/{r.index}": group.example.task for group in groups for r in group.rollouts}
    parts = [[s for s in samples if task_of[s.id] == task] for task in ("verifiable", "preference", "open")]
    assert all(any(any(sample.token_weights) for sample in part) for part in parts)
    counts = trainer.minibatch(samples).counts

    def gradient(some: Any) -> torch.Tensor:
        trainer.update.optimizer.zero_grad()
        minibatch = trainer.minibatch(some)
        minibatch.counts = counts  # the tokens of the whole step
        trainer.enter(minibatch)
        trainer.update.backward(minibatch.batches, trainer.policy_loss)
        return torch.cat([p.grad.flatten().double() for p in trainer.causal_lm.parameters()])

    whole, summed = gradient(samples), sum(map(gradient, parts))
    assert whole.norm() > 0 and torch.allclose(whole, summed, atol=1e-7)  # type: ignore[arg-type]


# ---- the referee ----------------------------------------------------------------------------------------------------


def test_a_group_shares_one_order_and_visits_differ(urpo: Any) -> None:
    trainer = urpo()
    orders = []
    for step in range(8):
        trainer.collecting = step
        (request,) = trainer.plan(RANKED[:1])
        assert (request.role, request.n) == ("referee", 4)
        assert request.sampling == Sampling(max_completion_tokens=12)
        gold = dict(zip(request.example.candidates, request.example.metadata["gold"], strict=True))
        assert gold == {"2": -1.0, "0": -2.0, "x": -3.0}
        assert trainer.tokenizer.decode(request.prompt_ids, skip_special_tokens=True) == "0+2=" + "|".join(gold)
        orders.append(tuple(gold))
        assert trainer.plan(RANKED[:1])[0].example.candidates != [] and trainer.planned
        trainer.planned = 0
    assert len(set(orders)) > 2
    trainer.collecting = 0
    assert tuple(trainer.plan(RANKED[:1])[0].example.candidates) == orders[0]  # a function of the step alone


def test_open_groups_are_scored_by_the_policy_while_others_are_drawn(urpo: Any) -> None:
    trainer = urpo(score=lambda text, index: 1 + len(text), referee_samples=2, **FEEDBACK)
    trainer.engine.engine.config = trainer.engine.engine.config.model_copy(update={"max_num_seqs": 4})
    groups = trainer.collect(trainer.sampler.next(8))
    for group in by_task(groups, "open"):
        lengths = [len(rollout.text.strip()) for rollout in group.rollouts]
        assert [r.reward for r in group.rollouts] == pytest.approx([length / 9 for length in lengths])
        assert all(rollout.role == "player" for rollout in group.rollouts)
    asked = [name for what, role, name in trainer.engine.log if what == "submit" and ".referee" in name]
    assert asked == [f"{g.rollouts[0].request_id}.referee{n}" for g in _in_order(groups, asked) for n in range(2)]
    log = trainer.engine.log
    first = next(place for place, entry in enumerate(log) if ".referee" in entry[2])
    assert any(entry[0] == "done" and ".referee" not in entry[2] for entry in log[first:])  # players still on their way
    samples = trainer.assign_credit(groups)
    assert not any(".referee" in sample.id for sample in samples)


def _in_order(groups: Sequence[RolloutGroup], asked: Sequence[str]) -> list[RolloutGroup]:
    open_groups = by_task(groups, "open")
    return sorted(open_groups, key=lambda group: asked.index(f"{group.rollouts[0].request_id}.referee0"))


def test_constant_scores_leave_no_sample_and_labelled_referees_are_trained(urpo: Any) -> None:
    trainer = urpo(score=lambda text, index: 5 if text not in "02345678x" else 9 - index, **FEEDBACK)
    groups = trainer.collect(trainer.sampler.next(8))
    samples = trainer.assign_credit(groups)
    ids = {task: {r.request_id for g in by_task(groups, task) for r in g.rollouts} for task in ("open", "preference")}
    assert ids["open"] and not any(sample.id.rsplit("/", 1)[0] in ids["open"] for sample in samples)
    assert sum(sample.id.rsplit("/", 1)[0] in ids["preference"] for sample in samples) == 2 * 4
    assert trainer.watched["referee/constant_fraction"] == 1.0


def test_equal_answers_are_not_asked_about(urpo: Any) -> None:
    trainer = urpo(
        score=hashed, rollouts_per_prompt=2, sampling=Sampling(temperature=0.0, max_completion_tokens=3), **FEEDBACK
    )
    groups = trainer.collect(trainer.sampler.next(8))
    assert [(r.reward, r.error) for g in by_task(groups, "open") for r in g.rollouts] == [(None, None)] * 4
    assert not any(".referee" in name for _, _, name in trainer.engine.log)
    trainer.assign_credit(groups)
    assert "referee/unjudged_fraction" not in trainer.watched


def test_garbage_from_the_referee_drops_the_group_and_costs_a_ranking_its_reward(urpo: Any) -> None:
    trainer = urpo(score=lambda text, index: "?", **FEEDBACK)
    groups = trainer.collect(trainer.sampler.next(8))
    assert {r.error for g in by_task(groups, "open") for r in g.rollouts} == {"unparseable"}
    assert {r.reward for g in by_task(groups, "preference") for r in g.rollouts} == {-0.5}
    trainer.assign_credit(groups)
    assert trainer.watched["referee/malformed_fraction"] == trainer.watched["referee/unjudged_fraction"] == 1.0


def test_a_referee_that_is_cut_off_is_malformed(urpo: Any) -> None:
    trainer = urpo(**FEEDBACK)  # an untrained model rambles to the end of its budget
    groups = trainer.collect(trainer.sampler.next(8))
    rollouts = [rollout for group in by_task(groups, "preference") for rollout in group.rollouts]
    assert {r.reward for r in rollouts} == {-0.5}
    assert "cut off" in "".join(r.error_message for g in by_task(groups, "open") for r in g.rollouts)


def test_pairs_earn_a_half_for_ties_and_their_mean_is_the_accuracy(urpo: Any) -> None:
    pairs = [replace(example, candidates=example.candidates[:2]) for example in RANKED]
    rule = itertools.cycle([7, 3, 3, 7, 5, 5, 2])
    mix = {"verifiable": 0.0, "preference": 1.0, "open": 0.0}
    trainer = urpo(score=lambda text, index: next(rule), examples=pairs, task_mix=mix)
    groups = trainer.collect(trainer.sampler.next(6))
    rewards = [rollout.reward for group in groups for rollout in group.rollouts]
    assert set(rewards) == {0.0, 0.5, 1.0}
    trainer.assign_credit(groups)
    assert trainer.watched["referee/pair_accuracy"] == pytest.approx(sum(rewards) / len(rewards))


def test_the_answer_to_an_open_prompt_stays_out_unless_a_separate_reward_reads_it(urpo: Any) -> None:
    withheld = urpo().sampler.samplers["open"].examples
    assert all((example.answer, example.references) == (None, []) for example in withheld)
    separate = urpo(open_reward="separate", score=lambda text, index: 5)
    assert separate.sampler.samplers["open"].examples == OPEN
    assert separate.gate.mix["open"] and not separate.config.gated
    groups = separate.collect(separate.sampler.next(8))
    assert not any(".referee" in name for _, _, name in separate.engine.log)
    parity = [float(sum(r.completion_ids) % 2) for g in by_task(groups, "open") for r in g.rollouts]
    assert [r.reward for g in by_task(groups, "open") for r in g.rollouts] == parity


def test_task_weights_multiply_the_advantages(urpo: Any) -> None:
    plain = urpo(score=hashed, **FEEDBACK)
    weighted = urpo(score=hashed, **FEEDBACK, task_weight={"preference": 2.5, "open": 0.0})
    groups = plain.collect(plain.sampler.next(8))
    factors = {"verifiable": 1.0, "preference": 2.5, "open": 0.0}
    task_of = {f"{r.request_id}/{r.index}": group.example.task for group in groups for r in group.rollouts}
    for one, other in zip(plain.assign_credit(groups), weighted.assign_credit(groups), strict=True):
        assert other.token_weights == pytest.approx([w * factors[task_of[one.id]] for w in one.token_weights])
    shares = [weighted.watched[f"batch/token_share_{task}"] for task in factors]
    assert sum(shares) == pytest.approx(1.0) and min(shares) > 0
    assert weighted.watched["advantage/open"] == 0.0 < weighted.watched["advantage/preference"]


def test_an_audit_changes_no_reward_and_measures_the_referee(urpo: Any) -> None:
    mix = {"verifiable": 1.0, "preference": 0.0, "open": 0.0}
    plain = urpo(task_mix=mix)
    audited = urpo(score=lambda text, index: 1 + len(text), task_mix=mix, verifiable_audit_fraction=1.0)
    examples = plain.sampler.next(4)
    expected, groups = plain.collect(examples), audited.collect(examples)
    assert [r.reward for g in groups for r in g.rollouts] == [r.reward for g in expected for r in g.rollouts]
    assert all(
        r.reward_parts["self_score"] == pytest.approx(len(r.text.strip()) / 9) for g in groups for r in g.rollouts
    )
    assert plain.assign_credit(expected) == audited.assign_credit(groups)
    assert -1 <= audited.watched["referee/audit_tau"] <= 1


# ---- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"task_mix": {"verifiable": 0.5, "preference": 0.25, "open": 0.5}}, r"must sum to 1; it sums to 1\.25"),
        ({"task_mix": {"verifiable": 0.5, "preference": 0.0, "open": 0.5}}, "set referee_min_accuracy to 0"),
        ({"dynamic_sampling": True}, "leave it out"),
        ({"max_staleness": 1}, "not for URPO"),
        ({"alarms": [{"metric": "referee/score_std"}]}, "never rings"),
    ],
)
def test_settings_that_do_not_fit(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        URPOConfig.model_validate(config)


def test_data_that_does_not_fit(urpo: Any) -> None:
    with pytest.raises(DataError, match="gives open a share"):
        urpo(examples=[*ANSWERABLE, *RANKED])
    tied = replace(RANKED[0], metadata={"ranks": [1, 1, 1]})
    with pytest.raises(DataError, match=r"preference example 'p0'.*not all equal"):
        urpo(examples=[*OPEN, *ANSWERABLE, tied])
    endless = replace(RANKED[0], candidates=["8" * 150, "9" * 150])
    with pytest.raises(DataError, match=r"example 'p0' has .* tokens, more than"):
        urpo(examples=[*OPEN, *ANSWERABLE, endless])
    cut = urpo(examples=[*OPEN, *ANSWERABLE, endless], referee_candidate_tokens=20)
    assert cut.referee.shown(endless, [0, 1]).prompt[0]["content"].count("~") == 2


# ---- guards ---------------------------------------------------------------------------------------------------------


def test_the_running_accuracy_of_the_gate() -> None:
    gate, seen = RefereeGate(URPOConfig()), []
    for accuracy in (0.5, 0.6, 0.7, 0.7, 0.8):
        gate.observe(accuracy)
        seen.append(gate.metrics["referee/running_accuracy"])
    assert seen == pytest.approx([0.5, 0.51, 0.529, 0.5461, 0.57149])
    assert gate.metrics["referee/gate_open"] == 0.0


def test_the_gate_opens_stays_and_closes(caplog: pytest.LogCaptureFixture) -> None:
    gate, history = RefereeGate(URPOConfig(referee_close_steps=3)), []
    assert gate.mix == {"verifiable": 0.5, "preference": 0.5, "open": 0.0}
    for accuracy in [1.0] * 3 + [0.0] * 4 + [1.0]:
        gate.observe(accuracy)
        history.append(gate.metrics["referee/gate_open"])
    # 0.55, 0.595, 0.636 | 0.572, 0.515, 0.463, 0.417: three in a row below 0.55
    assert history == [0, 0, 1, 1, 1, 1, 0, 0]
    assert "give way to preferences again" in caplog.text
    plain = RefereeGate(URPOConfig(referee_min_accuracy=0.0))
    for _ in range(30):
        plain.observe(0.0)
    assert plain.mix == {"verifiable": 0.5, "preference": 0.25, "open": 0.25}


def test_open_prompts_wait_for_the_gate(urpo: Any) -> None:
    right = {str(n + 2): 9 for n in range(6)} | {"0": 4, "x": 1}
    trainer = urpo(score=lambda text, index: right.get(text, 5), referee_min_accuracy=0.56, max_error_fraction=1.0)
    kinds = []
    for _ in range(3):
        examples = trainer.sampler.next(4)
        kinds.append([example.task for example in examples])
        trainer.assign_credit(trainer.collect(examples))
        trainer.step += 1
    assert kinds == [["verifiable"] * 2 + ["preference"] * 2] * 2 + [["verifiable"] * 2 + ["preference", "open"]]
    assert trainer.watched["referee/running_accuracy"] == pytest.approx(1 - 0.5 * 0.9**3, abs=0.02)


def test_an_alarm_rings_after_its_steps_in_a_row() -> None:
    alarms = Alarms([Alarm(metric="a", above=0.5, steps=3), Alarm(metric="b", below=0.1, steps=2)])
    for value in (0.6, 0.6, 0.4, 0.6, 0.6):
        alarms.check(1, {"a": value})
    alarms.check(6, {"b": 0.0})  # says nothing of a
    with pytest.raises(TrainingDiverged, match=r"a is 0\.9, above 0\.5 for 3 reports in a row \(step 7\)"):
        alarms.check(7, {"a": 0.9})
    with pytest.raises(TrainingDiverged, match=r"b is 0\.05, below 0\.1 for 2 reports in a row"):
        alarms.check(8, {"b": 0.05})


def test_a_degenerate_referee_stops_the_run(urpo: Any) -> None:
    alarm = {"metric": "referee/constant_fraction", "above": 0.5, "steps": 2}
    trainer = urpo(score=lambda text, index: 5, alarms=[alarm], **FEEDBACK)
    trainer.train_step()
    with pytest.raises(TrainingDiverged, match="no longer to be trusted"):
        trainer.train_step()


def judged(task: TaskKind, rewards: Sequence[float], scores: Sequence[float], texts: Sequence[str]) -> RolloutGroup:
    rollouts = [
        Rollout(
            "r", i, [1], [2] * len(text), [1] * len(text), [-1.0] * len(text), "stop", 0, text, reward=reward,
            reward_parts={"self_score": score, "position": float(i), "disagreement": 0.0},
        )
        for i, (reward, score, text) in enumerate(zip(rewards, scores, texts, strict=True))
    ]  # fmt: skip
    return RolloutGroup(Example("e", "p", task=task), rollouts)


def test_what_the_numbers_say_of_a_referee() -> None:
    lengthy = judged("open", [1.0, 0.5, 0.0], [1.0, 0.5, 0.0], ["aaa", "aa", "Scores: [9]"[:1]])
    flat = judged("open", [0.5, 0.5], [0.5, 0.5], ["a", "b"])
    same = judged("open", [0.5, 0.5], [0.5, 0.5], ["a", "a"])
    audited = judged("verifiable", [1.0, 0.0, 0.0], [0.9, 0.9, 0.1], ["a", "b", "c"])
    sample = training_sample(flat.rollouts[0], 0.5)
    metrics = step_metrics([lengthy, flat, same, audited], {"open": [sample], "verifiable": [], "preference": []})
    assert metrics["referee/length_correlation"] == pytest.approx(1.0)
    assert metrics["referee/position_correlation"] == pytest.approx(-1.0)
    assert metrics["referee/constant_fraction"] == 0.5  # of the groups whose answers differ
    assert metrics["referee/saturated_fraction"] == pytest.approx((2 / 3) / 2)
    assert metrics["referee/audit_tau"] == pytest.approx(0.5)  # one pair right, one tied
    assert metrics["referee/audit_gap"] == pytest.approx(1.9 / 3 - 1 / 3)
    assert metrics["referee/score_std"] == pytest.approx(math.sqrt(1 / 6) / 2)
    assert metrics["batch/token_share_open"] == 1.0 and metrics["advantage/open"] == 0.5


@pytest.mark.parametrize(
    ("replies", "accuracy", "malformed", "bias"),
    [
        (["Scores: [9, 1]", "Scores: [9, 1]"], 0.5, 0.0, 8 / 9),  # always the first
        (["Scores: [9, 1]", "Scores: [1, 9]"], 1.0, 0.0, 0.0),
        (["Scores: [9, 1]", "the first"], 0.5, 0.5, 8 / 9),
        (["no", "no"], 0.0, 1.0, None),
    ],
)
def test_held_out_pairs_in_both_orders(
    replies: list[str], accuracy: float, malformed: float, bias: float | None, urpo: Any
) -> None:
    trainer = urpo()
    pair = replace(RANKED[0], candidates=["2", "0"])
    groups = []
    for order, text in zip(([0, 1], [1, 0]), replies, strict=True):
        shown = trainer.referee.shown(pair, order)
        reason: FinishReason = "stop"
        rollout = Rollout("r", 0, [1], [2], [1], [-1.0], reason, 0, text)
        (output,) = trainer.reward.score([RewardInput(shown, text)])
        rollout.reward, rollout.reward_parts = output.score, output.parts
        groups.append(RolloutGroup(shown, [rollout]))
    metrics = held_out_metrics(groups)
    assert metrics["eval/referee_accuracy"] == accuracy
    assert metrics["eval/referee_malformed_fraction"] == malformed
    assert metrics.get("eval/referee_position_bias") == (bias if bias is None else pytest.approx(bias))
