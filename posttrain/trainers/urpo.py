"""URPO: the policy answers and, in the same batch, judges answers: its own too (arXiv 2507.17515)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from posttrain.data.chat import PromptEncoder
from posttrain.data.mixture import MixtureSampler
from posttrain.errors import DataError
from posttrain.evaluation.held_out import answer_and_score
from posttrain.rewards.composition import RouteReward
from posttrain.rewards.judge.judgement import Candidate, Conversation, Reply, load_template
from posttrain.rewards.judge.referee import AgreementReward, Referee, shuffled
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.collection import FollowUp, record_scores, reward_inputs
from posttrain.trainers.credit import scored
from posttrain.trainers.grpo import GRPOTrainer, rewards_of
from posttrain.trainers.urpo_config import URPOConfig
from posttrain.trainers.urpo_guards import Alarms, RefereeGate, held_out_metrics, pair_accuracy, step_metrics
from posttrain.types import Example, Rollout, RolloutGroup, RolloutRequest, TrainingSample


class URPOTrainer(GRPOTrainer):
    """GRPO (see there) over prompts of three kinds in one batch, with the rewards

    ::

        verifiable    the job's reward
        preference    (tau + 1) / 2 of the scores that the policy, as referee, gives to ranked candidates
        open          (s - 1) / 9 of the score s that the policy, as referee, gives to its own answer in its group

    Referee tokens are trained where there is a ranking, and not where they scored the policy's own answers.
    """

    method: ClassVar[str] = "urpo"
    config_class = URPOConfig
    config: URPOConfig

    def __init__(self, model: str | Path, config: URPOConfig, **components: Any) -> None:
        train = [_withheld(example, config) for example in components["train_dataset"]]
        held_out = components.get("eval_dataset", ())
        players, pairs = ([e for e in held_out if (e.task == "preference") == ranked] for ranked in (False, True))
        super().__init__(model, config, **components | {"train_dataset": train, "eval_dataset": players})
        judge, agreement = self.reward, AgreementReward(config.agreement, config.malformed_reward)
        self.reward = RouteReward({"verifiable": judge, "open": judge, "preference": agreement})
        self.referee = Referee(
            load_template(config.referee_template),
            config.referee_samples,
            config.referee_max_candidates,
            config.self_reward,
            self._shortened,
        )
        budget = {"max_completion_tokens": config.referee_max_completion_tokens}
        self.referee_sampling = config.sampling.model_copy(update=budget)
        judging = {"temperature": config.self_judgement_temperature}
        self.judgement_sampling = config.sampling.model_copy(update=budget | judging)
        room = self.engine.context_length - config.referee_max_completion_tokens
        self.referee_encoder = PromptEncoder(self.tokenizer, room)
        self.gate = RefereeGate(config)
        shares: dict[str, float] = config.task_mix.model_dump()
        self.sampler: MixtureSampler = MixtureSampler(train, shares, self.run.seed)  # type: ignore[assignment]
        self.sampler.mix = self.gate.mix
        self.alarms = Alarms(config.alarms)
        self.watched: dict[str, float] = {}
        self.held_out_pairs = [self.referee.shown(each, order) for each in pairs for order in _both_ways(each)]
        shown = (self.referee.shown(each, _both_ways(each)[0]) for each in train if each.task == "preference")
        self.referee_encoder.check([*shown, *self.held_out_pairs])

    def request(self, example: Example, number: int) -> RolloutRequest:
        """A preference is shown to the referee, its candidates in one order for the whole group."""
        request = super().request(example, number)
        if example.task != "preference":
            return replace(request, role="player")
        shown = self.referee.shown(example, shuffled(len(example.candidates), request.seed), request.seed)
        ids = self.referee_encoder.prompt_ids(shown)
        return replace(request, example=shown, prompt_ids=ids, sampling=self.referee_sampling, role="referee")

    def sample(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """A group of open answers asks its referee as soon as it is drawn, in the same batch of the engine."""
        return self.draw_and_score(requests, follow_up=self.follow_up)

    def follow_up(self, group: RolloutGroup) -> FollowUp | None:
        """The questions about a group of answers, none where all are equal; None: it is not self-scored."""
        is_open, name = group.example.task == "open", group.rollouts[0].request_id
        if not (self.config.open_reward == "referee" if is_open else self._is_audited(group)):
            return None
        if len({rollout.text for rollout in group.rollouts}) == 1:
            return FollowUp([], lambda rollouts: None, instead=is_open)
        seed = derive_seed(self.run.seed, "referee", name)
        judging = self.referee.judging(reward_inputs(group), seed, self._fits)
        requests = [
            RolloutRequest(
                id=f"{name}.referee{number}",
                example=group.example,
                prompt_ids=self.referee_encoder.prompt_ids(Example("question", question)),
                sampling=self.judgement_sampling,
                seed=derive_seed(seed, number),
                role="referee",
            )
            for number, question in enumerate(judging.questions)
        ]

        def conclude(rollouts: Sequence[Rollout]) -> None:
            outputs = judging.outputs(list(map(_reply, rollouts)))
            if is_open:
                record_scores(group.rollouts, outputs)
            else:
                for rollout, output in zip(group.rollouts, outputs, strict=True):
                    rollout.reward_parts |= output.parts

        return FollowUp(requests, conclude, instead=is_open)

    def _is_audited(self, group: RolloutGroup) -> bool:
        draw = Random(derive_seed(self.run.seed, "audit", group.rollouts[0].request_id))
        return group.example.task == "verifiable" and draw.random() < self.config.verifiable_audit_fraction

    def _fits(self, question: Conversation) -> bool:
        try:
            self.referee_encoder.check([Example("question", question)])
        except DataError:
            return False
        return True

    def _shortened(self, candidate: Candidate) -> Candidate:
        ids = self.encoder.completion_ids(candidate.text)
        if len(ids) <= (limit := self.config.referee_candidate_tokens):
            return candidate
        return Candidate(self.encoder.text(ids[:limit]), cut=True)

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """GRPO's, times the task's weight; no sample of open groups whose scores hardly differ."""
        kept = [group for group in groups if not self._is_flat(group)]
        task_of = {f"{r.request_id}/{r.index}": group.example.task for group in kept for r in group.rollouts}
        weights: dict[str, float] = self.config.task_weight.model_dump()
        samples = [_weighted(sample, weights[task_of[sample.id]]) for sample in super().assign_credit(kept)]
        self._watch(groups, {task: [s for s in samples if task_of[s.id] == task] for task in weights})
        return samples

    def _is_flat(self, group: RolloutGroup) -> bool:
        rewards, least = rewards_of(scored(group)), self.config.min_group_std
        return group.example.task == "open" and (len(rewards) < 2 or bool(rewards.std() <= least))

    def _watch(self, groups: Sequence[RolloutGroup], samples: Mapping[str, Sequence[TrainingSample]]) -> None:
        """The step's metrics, and what its preferences say of the gate."""
        self.watched = step_metrics(groups, samples)
        if (accuracy := pair_accuracy(groups)) is not None:
            self.watched["referee/pair_accuracy"] = accuracy
            self.gate.observe(accuracy)
            self.sampler.mix = self.gate.mix
        self.watched |= self.gate.metrics

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Only metrics, and the alarms that they ring."""
        self.alarms.check(self.step, self.watched)
        return samples, self.watched

    def evaluate(self) -> dict[str, float]:
        """mean@k over the player's held-out prompts, and the referee on held-out preferences."""
        metrics = super().evaluate()
        if self.held_out_pairs:
            asked = (self.accelerator, self.engine, self.referee_encoder, self.held_out_pairs, self.reward)
            groups = answer_and_score(*asked, sampling=self.judgement_sampling, n=1, seed=self.run.seed)
            metrics |= held_out_metrics(groups)
        self.alarms.check(self.step, metrics)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Also the gate and the alarms."""
        return super().state_dict() | {"gate": self.gate.state, "alarms": list(self.alarms.counts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        super().load_state_dict(state)
        self.gate.state = state["gate"]
        self.sampler.mix = self.gate.mix
        self.alarms.counts = list(state["alarms"])


def _withheld(example: Example, config: URPOConfig) -> Example:
    """An open example without what tells a good answer, unless a separate reward needs it."""
    if example.task != "open" or config.open_reward == "separate":
        return example
    return replace(example, answer=None, references=[], demonstration=None)


def _both_ways(example: Example) -> list[list[int]]:
    order = shuffled(len(example.candidates), derive_seed("held out", example.id))
    return [order, order[::-1]]


def _reply(rollout: Rollout) -> Reply:
    cut = rollout.finish_reason == "length"
    return Reply(error="unparseable", message="the referee was cut off") if cut else Reply(rollout.text)


def _weighted(sample: TrainingSample, factor: float) -> TrainingSample:
    return sample if factor == 1 else replace(sample, token_weights=[w * factor for w in sample.token_weights])
