"""The loop that every method shares: sample from the policy, score, assign credit, update, hand the weights back.

::

    sampler -Examples-> plan -RolloutRequests-> engine -Rollouts-> reward -RolloutGroups-> assign_credit
            -TrainingSamples-> pack -micro-batches-> update -weights-> engine

A method is a subclass that overrides only what its paper changes.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from posttrain.data.chat import PromptEncoder
from posttrain.data.sampler import ExampleSampler
from posttrain.errors import TrainingDiverged
from posttrain.evaluation.held_out import evaluate_held_out
from posttrain.report.terminal import TrainingSummary
from posttrain.rewards.checked import ErrorBudget
from posttrain.rewards.reward import Reward
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.seeds import derive_seed
from posttrain.rollout.weight_sync import sync_weights
from posttrain.trainers.batches import Batch, BatchQueue
from posttrain.trainers.collection import FollowUp, collect_groups
from posttrain.trainers.credit import MiniBatch, StepCounts
from posttrain.trainers.loop import run_training
from posttrain.trainers.mismatch import MismatchMonitor
from posttrain.trainers.policy_config import PolicyTrainerConfig
from posttrain.trainers.step_metrics import rollout_metrics
from posttrain.trainers.stragglers import Stragglers
from posttrain.training.accelerator import (
    gather_lists,
    group_for_a_thread,
    make_accelerator,
    set_max_grad_norm,
    sharded_if_zero3,
    zero_stage,
)
from posttrain.training.flops import utilisation
from posttrain.training.model import (
    PolicyModel,
    add_adapter,
    load_causal_lm,
    load_tokenizer,
    reference_logprobs,
    save_causal_lm,
)
from posttrain.training.model_config import ModelConfig
from posttrain.training.packing import MicroBatch
from posttrain.training.run_config import RunConfig
from posttrain.training.schedule import learning_rate
from posttrain.training.sequence_parallel import SequenceRanks
from posttrain.training.update import LossOutput, Update, UpdateResult, adamw
from posttrain.types import Example, RolloutGroup, RolloutRequest, TrainingSample


class PolicyTrainer:
    """Base of the methods. Subclasses define ``assign_credit`` and ``loss``; the other hooks have defaults.

    Args:
        model: folder or hub id of the policy.
        config: the method's settings, an instance of ``config_class``.
        reward: judges completions while training.
        train_dataset, eval_dataset: prompts to sample, and held-out prompts.
        grader: judges held-out completions; None: ``reward``.
        engine: an engine config (or any object with its ``build``); None: the embedded engine.
        model_config: how the policy is held (``path`` is taken from ``model``).
        run: folder, seed and trackers.
    """

    method: ClassVar[str]
    config_class: ClassVar[type[PolicyTrainerConfig]] = PolicyTrainerConfig

    def __init__(
        self,
        model: str | Path,
        config: Any,
        *,
        reward: Reward,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] = (),
        grader: Reward | None = None,
        engine: Any = None,
        model_config: ModelConfig | None = None,
        run: RunConfig | None = None,
    ) -> None:
        self.config = config
        self.run = run or RunConfig()
        self.model_path = str(model)
        self.model_config = model_config or ModelConfig(path=self.model_path)
        self.reward = reward
        self.grader = grader or reward
        self.eval_dataset = list(eval_dataset)
        self.accelerator = make_accelerator(list(self.run.trackers), self.run.folder, config.max_grad_norm)
        size = self.model_config.sequence_parallel
        self.sequence_ranks = SequenceRanks(size, self.accelerator) if size > 1 else None
        self.tokenizer = load_tokenizer(model, self.model_config.revision)
        self.sampler = ExampleSampler(list(train_dataset), seed=self.run.seed)
        self.stragglers = Stragglers.of(config, train_dataset)
        self.errors = ErrorBudget(config.max_error_fraction)
        self.step = 0
        self.planned = 0
        self.collecting = 0  # the step whose batch is sampled: beyond ``step`` where sampling runs ahead
        self.empty_steps = 0
        self.trained_tokens = 0
        self.updates: list[Update] = []
        self.timings: dict[str, float] = {}
        self.collection_timings: dict[str, float] = {}
        self.batches = BatchQueue(self.collect_batch, self.staleness, config.steps)
        self.mismatch = MismatchMonitor()
        self.collecting_group = group_for_a_thread(self.accelerator) if self.staleness else None
        self.base_fingerprint: dict[str, float] = {}

        set_seed(derive_seed(self.run.seed, "policy") % 2**32)  # Python's and NumPy's too: rewards may draw
        policy = load_causal_lm(model, self.model_config)
        if self.model_config.lora is not None:
            policy = add_adapter(policy, self.model_config.lora)
        self.policy = PolicyModel(policy, self.temperature, self.model_config.logits_chunk_size)
        self.update = self.prepared(self.policy)
        self.reference = self.reference_model()
        context = self.causal_lm.config.max_position_embeddings
        self.encoder = PromptEncoder(self.tokenizer, config.prompt_budget(context))
        self.encoder.check([*train_dataset, *eval_dataset])
        self.engine: RolloutEngine = (engine or TransformersEngineConfig()).build(model_path=model, seed=self.run.seed)

    # ---- one step of training -----------------------------------------------------------------------------------

    def train(self, resume: str | None = None) -> TrainingSummary:
        """Train to ``config.steps``; ``resume`` is "auto" or the path of a checkpoint."""
        return run_training(self, resume)

    def train_step(self) -> tuple[dict[str, float], list[RolloutGroup], list[TrainingSample]]:
        """One step: the metrics, and what was sampled and trained for the log."""
        self.timings = {}
        batch = self.batches.take(self.step)
        with self.batches.running_ahead(self.step):
            self.errors.record(self.step, batch.groups)
            samples = self.assign_credit(batch.groups)
            if self.staleness == 0:
                self.engine.sleep()
            with self.timed("update"):
                samples, metrics = self.before_update(samples)
                metrics |= self.update_policy(samples)
            metrics = rollout_metrics(batch.groups, batch.timings | self.timings, self.step) | metrics
            if self.config.budget_schedule:
                budget = self.config.sampling_at(self.step).max_completion_tokens
                metrics["batch/max_completion_tokens"] = float(budget)
            self.step += 1
            self.trained_tokens += int(metrics.get("batch/trained_tokens", 0))
        with self.timed("sync"):
            if self.staleness == 0:
                self.engine.wake()
            self.sync()
        metrics["time/sync"] = self.timings["sync"]
        return metrics, batch.groups, samples

    def collect_batch(self, step: int) -> Batch:
        """Sample and score what ``step`` trains on. If that fails, its examples are drawn again next time."""
        position, stragglers = self.sampler.state_dict(), self.stragglers.requests
        self.planned, self.collecting, self.collection_timings = 0, step, {}
        try:
            groups = self.collect(self.sampler.next(self.config.prompts_per_step))
        except BaseException:
            self.sampler.load_state_dict(position)
            self.stragglers.requests = stragglers
            raise
        return Batch(groups, self.collection_timings)

    @property
    def staleness(self) -> int:
        """How many steps older the sampling policy is than the one that learns from its rollouts."""
        return 0

    @property
    def finished(self) -> bool:
        """Whether the run's steps, or its budget of trained tokens, are used up."""
        budget = self.config.max_trained_tokens
        return self.step >= self.config.steps or (budget is not None and self.trained_tokens >= budget)

    # ---- hooks: what a method may change ------------------------------------------------------------------------

    def plan(self, examples: Sequence[Example]) -> list[RolloutRequest]:
        """What is sampled: by default ``rollouts_per_prompt`` rollouts of every example. May be called several times
        in a step; groups are numbered on."""
        first = self.planned
        self.planned += len(examples)
        return [self.request(example, number) for number, example in enumerate(examples, start=first)]

    def collect(self, examples: Sequence[Example]) -> list[RolloutGroup]:
        """How it is gathered: by default this rank samples and scores its share; every rank gets all groups. Under
        ``oversample`` what earlier steps did not wait for comes first."""
        first, kept = self.planned, self.stragglers.numbered(self.planned)
        self.planned += self.stragglers.groups
        requests = kept + self.plan([*examples, *self.sampler.next(self.stragglers.missing)])
        rank, ranks = self.accelerator.process_index, self.accelerator.num_processes
        mine = [request for request in requests if request.group % ranks == rank]
        self.stragglers.enough = len(range(first, first + len(examples))[(rank - first) % ranks :: ranks])
        gathered = gather_lists(self.accelerator, self.sample(mine), self.collecting_group)
        if self.config.oversample:
            self.stragglers.requests = gather_lists(self.accelerator, self.stragglers.requests, self.collecting_group)
        return sorted(gathered, key=lambda group: group.rollouts[0].request_id)

    def sample(self, requests: Sequence[RolloutRequest]) -> list[RolloutGroup]:
        """The scored groups of this rank's ``requests``."""
        return self.draw_and_score(requests)

    def draw_and_score(
        self,
        requests: Sequence[RolloutRequest],
        on_scored: Callable[[RolloutGroup], None] | None = None,
        follow_up: Callable[[RolloutGroup], FollowUp | None] = lambda group: None,
    ) -> list[RolloutGroup]:
        """Let the engine draw and the reward judge (see ``collect_groups``)."""
        stragglers = self.stragglers if self.config.oversample else None
        groups, times = collect_groups(self.engine, requests, self.reward, on_scored, follow_up, stragglers)
        timings = self.collection_timings
        timings["generate"] = timings.get("generate", 0.0) + times.generate
        timings["score"] = timings.get("score", 0.0) + times.score
        return groups

    def assign_credit(self, groups: Sequence[RolloutGroup]) -> list[TrainingSample]:
        """Which tokens are pushed, and how hard."""
        raise NotImplementedError(f"{type(self).__name__} must define assign_credit")

    def before_update(self, samples: list[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Change samples or train extra parts before the policy's update."""
        return samples, {}

    def loss(self, logprobs: Tensor, entropy: Tensor, batch: MicroBatch) -> LossOutput:
        """The paper's objective on one micro-batch, divided by the global ``self.counts``."""
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def prepare(self, batch: MicroBatch) -> None:
        """Add to a micro-batch, before the step's first update, what stays the same over its updates."""
        if self.reference is not None:
            batch.reference_logprobs = reference_logprobs(self.reference, batch)
        self.correct(batch)

    def correct(self, batch: MicroBatch) -> None:
        """Under an importance correction, the old policy is the trainer's and tokens are weighed for it. Where samples
        are trained once this is left to ``policy_loss``, which has the log-probs anyway."""
        if self.config.correction is not None and not self.config.one_update:
            batch.behaviour_logprobs = self.trainer_logprobs(batch)
            batch.weights = self.corrected_weights(batch.behaviour_logprobs, batch)

    def reference_model(self) -> nn.Module | None:
        """The frozen model that a divergence term holds the policy near; None: no such term."""
        return None

    def has_gradient(self, sample: TrainingSample) -> bool:
        """Whether the loss of ``sample`` depends on the policy; samples without gradient are not run."""
        return any(sample.token_weights) or (self.reference is not None and any(sample.trained))

    # ---- parts of a step ----------------------------------------------------------------------------------------

    def request(self, example: Example, number: int) -> RolloutRequest:
        """The rollouts of ``example``, the ``number``-th group of this step."""
        return RolloutRequest(
            id=f"{self.collecting:06d}/{number:06d}",
            example=example,
            prompt_ids=self.encoder.prompt_ids(example),
            sampling=self.config.sampling_at(self.collecting),
            seed=derive_seed(self.run.seed, self.collecting, number, example.id),
            n=self.config.rollouts_per_prompt,
            group=number,
        )

    def update_policy(self, samples: list[TrainingSample]) -> dict[str, float]:
        """``updates_per_step`` times over the mini-batches of ``samples``, an optimizer update each; the loss and its
        metrics are those of the last one."""
        self.counts = StepCounts.of(samples)
        self.mismatch = MismatchMonitor()
        minibatches = [part for part in map(self.minibatch, self.minibatches(samples)) if part.batches]
        metrics = {
            "batch/samples": float(sum(part.samples for part in minibatches)),
            "batch/trained_tokens": float(sum(part.tokens for part in minibatches) * self.config.updates_per_step),
            "batch/micro_batches": float(sum(len(part.batches) for part in minibatches)),
            "policy/learning_rate": self.learning_rate,
        }
        self.count_empty(not minibatches)
        for part in minibatches:
            self.enter(part)
            for batch in part.batches:
                self.prepare(batch)
        started = time.perf_counter()
        for _ in range(self.config.updates_per_step):
            for part in minibatches:
                self.enter(part)
                self.mismatch.clear()
                result = self.update.run(part.batches, self.policy_loss, self.learning_rate)
                self.guard(self.update, result)
                metrics |= result.metrics
                metrics |= self.mismatch.metrics(self.accelerator)
                metrics |= {"policy/loss": result.loss, "policy/gradient_norm": result.gradient_norm}
        seconds = (time.perf_counter() - started) / self.config.updates_per_step * self.update.sharing
        return metrics | utilisation(self.causal_lm, [batch for part in minibatches for batch in part.batches], seconds)

    def minibatches(self, samples: list[TrainingSample]) -> list[list[TrainingSample]]:
        """``samples`` in ``minibatches_per_step`` near-equal parts, in their order."""
        parts = self.config.minibatches_per_step
        cuts = [len(samples) * part // parts for part in range(parts + 1)]
        return [samples[start:end] for start, end in pairwise(cuts)]

    def minibatch(self, samples: list[TrainingSample]) -> MiniBatch:
        """What one update runs. Samples without gradient are counted, not run."""
        kept = [sample for sample in samples if self.has_gradient(sample)]
        tokens = sum(sum(sample.trained) for sample in kept)
        batches = self.update.micro_batches(kept) if kept else []
        return MiniBatch(batches, StepCounts.of(samples), len(kept), tokens)

    def enter(self, minibatch: MiniBatch) -> None:
        """Divide losses and metrics by the counts of ``minibatch`` from now on."""
        self.counts, self.tokens_run = minibatch.counts, minibatch.tokens

    def count_empty(self, empty: bool) -> None:
        """Count steps in a row in which nothing could be learned.

        Raises:
            TrainingDiverged: ``max_empty_steps`` of them.
        """
        self.empty_steps = self.empty_steps + 1 if empty else 0
        if self.empty_steps >= self.config.max_empty_steps:
            raise TrainingDiverged(
                f"nothing to learn from in {self.empty_steps} steps in a row (step {self.step}): in no group did the "
                "rewards tell one rollout from another, or none was accepted. Choose easier prompts, a reward with "
                "more spread, or more trainer.rollouts_per_prompt; trainer.max_empty_steps sets the patience."
            )

    def old_logprobs(self, logprobs: Tensor, batch: MicroBatch) -> Tensor:
        """The log-probs [M] that the ratio is taken to: where each sample is trained once, the policy's as they are."""
        return logprobs.detach() if self.config.one_update else batch.behaviour_logprobs

    def corrected_weights(self, old: Tensor, batch: MicroBatch) -> Tensor:
        """The token weights [M], importance-corrected from the engine to the trainer (log-probs ``old``)."""
        return self.mismatch.corrected_weights(old, batch, self.config)

    def trainer_logprobs(self, batch: MicroBatch) -> Tensor:
        """Log-probs [M] of the trained tokens under the policy as it is, without gradient."""
        with torch.no_grad():
            logprobs: Tensor = self.update.model(batch)[0]
        return logprobs

    @property
    def old_logprobs_are_known(self) -> bool:
        """Whether the old policy's log-probs need no forward pass: with one update the ratio is 1 whatever they are, a
        float32 engine that samples from the full distribution reports them to rounding, a correction has made one."""
        sampling = self.config.sampling
        full = sampling.top_p == 1.0 and sampling.top_k == 0 and sampling.temperature > 0
        exact = full and self.model_config.dtype == "float32"
        return self.config.one_update or exact or self.config.correction is not None

    def policy_loss(self, batch: MicroBatch) -> LossOutput:
        """Forward the micro-batch and apply the method's loss; the entropy comes along."""
        logprobs, entropy = self.update.model(batch)
        if self.config.one_update:
            batch = replace(batch, weights=self.corrected_weights(logprobs.detach(), batch))
        output = self.loss(logprobs, entropy, batch)
        output.metrics["policy/entropy"] = entropy.detach().sum() / max(1, self.tokens_run)
        self.mismatch.observe(logprobs, batch.engine_logprobs)
        return output

    def guard(self, update: Update, result: UpdateResult) -> None:
        """Stop after too many updates in a row that ``update`` skipped because loss or gradient was not finite.

        Raises:
            TrainingDiverged: ``max_skipped_updates`` in a row.
        """
        if update.skipped >= self.config.max_skipped_updates:
            samples = ", ".join(result.offending_samples[:3]) or "none alone; the gradient's norm overflowed"
            raise TrainingDiverged(
                f"loss or gradient was not finite in {update.skipped} updates in a row (step {self.step}; "
                f"samples: {samples}). Lower trainer.learning_rate, or look at these rollouts and their reward parts "
                "in the run page."
            )

    def sync(self) -> None:
        """Hand the policy's weights to the engine, which answers with their fingerprint."""
        sync_weights(self.causal_lm, self.engine, version=self.step, base=self.base_fingerprint)

    def evaluate(self) -> dict[str, float]:
        """mean@k over the held-out prompts: ``eval_rollouts`` completions of each, sampled as in training."""
        return evaluate_held_out(
            self.accelerator,
            self.engine,
            self.encoder,
            self.eval_dataset,
            self.grader,
            sampling=self.config.sampling,
            n=self.config.eval_rollouts,
            seed=self.run.seed,
        )

    # ---- state --------------------------------------------------------------------------------------------------

    @property
    def temperature(self) -> float:
        """Temperature of the trained distribution; greedy sampling is scored at 1."""
        return self.config.sampling.temperature or 1.0

    @property
    def learning_rate(self) -> float:
        """The policy's learning rate at this step."""
        return self.rate(self.config)

    def rate(self, config: Any) -> float:
        """The learning rate that ``config`` (any part with a peak and a minimum) has at this step."""
        return learning_rate(
            self.step,
            peak=config.learning_rate,
            minimum=config.min_learning_rate,
            warmup_steps=self.config.warmup_steps,
            total_steps=self.config.steps,
            schedule=self.config.schedule,
        )

    @property
    def causal_lm(self) -> Any:
        """The policy without the wrappers of training."""
        return self.policy.causal_lm

    def prepared(self, model: nn.Module, max_grad_norm: float | None = None) -> Update:
        """``model`` with an AdamW of its own, ready to be updated."""
        accelerator, max_grad_norm = self.accelerator, max_grad_norm or self.config.max_grad_norm
        if zero_stage(accelerator) is not None:
            set_max_grad_norm(accelerator, max_grad_norm)
            accelerator = Accelerator() if self.updates else accelerator  # each drives one DeepSpeed engine
        model, optimizer = accelerator.prepare(model.train(), adamw(model, self.config))
        update = Update(
            accelerator,
            model,
            optimizer,
            tokens_per_micro_batch=self.config.tokens_per_micro_batch,
            max_grad_norm=max_grad_norm,
            sequence_ranks=self.sequence_ranks,
        )
        self.updates.append(update)
        return update

    def frozen(self, path: str | Path) -> nn.Module:
        """A model that is never trained; for a LoRA policy that started from ``path``, the policy's own base."""
        if self.model_config.lora is not None and str(path) == self.model_path:
            return self.update.model
        model = load_causal_lm(path, self.model_config).requires_grad_(False)
        wrapped = PolicyModel(model, self.temperature, self.model_config.logits_chunk_size)
        return sharded_if_zero3(self.accelerator, wrapped.eval())

    def save_model(self, folder: Path) -> None:
        """Write the policy as a folder that transformers and vLLM load (and the adapter beside it, for LoRA)."""
        save_causal_lm(self.causal_lm, self.tokenizer, folder, is_main=self.accelerator.is_main_process)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beyond models, optimizers and random generators."""
        return {
            "step": self.step,
            "empty_steps": self.empty_steps,
            "trained_tokens": self.trained_tokens,
            "batches": [batch.to_json() for batch in self.batches.ready],
            "skipped_updates": [update.skipped for update in self.updates],
            "sampler": self.sampler.state_dict(),
            "stragglers": self.stragglers.state_dict(),
            "errors": self.errors.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``."""
        self.step = state["step"]
        self.empty_steps = state["empty_steps"]
        self.trained_tokens = state["trained_tokens"]
        self.batches.ready.extend(map(Batch.from_json, state["batches"]))
        for update, skipped in zip(self.updates, state["skipped_updates"], strict=True):
            update.skipped = skipped
        self.sampler.load_state_dict(state["sampler"])
        self.stragglers.load_state_dict(state["stragglers"])
        self.errors.load_state_dict(state["errors"])

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        """Add the seconds of the block to ``timings[phase]``."""
        started = time.perf_counter()
        yield
        self.timings[phase] = self.timings.get(phase, 0.0) + time.perf_counter() - started

    def close(self) -> None:
        """End the engine and the reward's workers."""
        self.engine.close()
        self.reward.close()
        self.grader.close()
