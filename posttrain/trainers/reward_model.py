"""Reward models from preferences, through TRL's RewardTrainer; with the goal-conditioned term of arXiv 2407.13887.

L = L_BT + lambda * L_C: Bradley-Terry on the reward of the last token, and a contrastive loss between hidden states,
which draws a preferred completion's states towards its later ones and away from those of the dispreferred one.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from trl.trainer.reward_trainer import DataCollatorForPreference, suppress_seqcls_warning

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError, JobError
from posttrain.objectives.preference import (
    bradley_terry_loss,
    contrastive_loss,
    expected_calibration_error,
    goal_state,
    reliability,
)
from posttrain.report.histograms import SCORES_FILE, histogram
from posttrain.rewards.learned.goal_conditioned import GOAL_STATES_FILE, PREFERRED
from posttrain.trainers.preference_rows import Pair, contrastive_draws, preference_pairs
from posttrain.trainers.reward_model_config import ContrastiveConfig, RewardModelConfig
from posttrain.trainers.trl_session import Session, TRLMethod, drawn_order, fewest_micro_batches, trl
from posttrain.training.accelerator import gather_lists
from posttrain.training.model import add_adapter
from posttrain.training.model_config import ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import replace_file
from posttrain.types import Example


class RewardModelTrainer(TRLMethod):
    """A sequence classifier with one output, read at the last token.

    The model folder also holds ``goal_states.safetensors``: the mean unit-normalised final state of preferred training
    completions, as "preferred", and for each value of ``goal_key``.

    Args:
        model: folder or hub id to start from: a causal language model (its head is replaced) or a reward model.
        train_dataset, eval_dataset: examples with ranked ``candidates``; every two of them are a pair.
        model_config: how the model is held (``path`` is taken from ``model``).
        run: folder, seed and trackers.

    Raises:
        DataError: an example has no candidates, or no pair fits into ``max_length``.
        JobError: ``batch_size`` does not divide among the ranks, or there is no such model.
    """

    method = "reward_model"
    config_class = RewardModelConfig
    metric_names: ClassVar = {
        "loss": "reward_model/loss",
        "contrastive_loss": "reward_model/contrastive_loss",
        "accuracy": "reward_model/accuracy",
        "margin": "reward_model/margin",
        "mean_reward": "reward_model/reward_mean",
        "grad_norm": "reward_model/gradient_norm",
        "learning_rate": "reward_model/learning_rate",
    }

    def __init__(
        self,
        model: str | Path,
        config: RewardModelConfig,
        *,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] = (),
        model_config: ModelConfig | None = None,
        run: RunConfig | None = None,
    ) -> None:
        super().__init__(model, config, model_config, run)
        encoder = PromptEncoder(self.tokenizer)
        longest = config.max_length or self.model.config.max_position_embeddings
        self.train_pairs, self.eval_pairs = (
            preference_pairs(examples, encoder, longest) for examples in (train_dataset, eval_dataset)
        )
        if not self.train_pairs.rows:
            raise DataError(f"none of the {self.train_pairs.left_out} training pairs fits into {longest} tokens")
        self.order = self._order()

    def load_model(self, path: str | Path) -> PreTrainedModel:
        """A classifier with one output; its head is drawn from the run's seed where ``path`` has none.

        Raises:
            JobError: there is no such model.
        """
        config = self.model_config
        try:
            with suppress_seqcls_warning():  # that a language model has no such head
                model: Any = AutoModelForSequenceClassification.from_pretrained(
                    str(path),
                    revision=config.revision,
                    num_labels=1,
                    dtype=getattr(torch, config.dtype),
                    attn_implementation="sdpa" if config.attention == "packed_sdpa" else config.attention,
                )
        except OSError as error:
            raise JobError(f"model.path: cannot load {str(path)!r}: {error}") from error
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        model.config.pad_token_id = self.tokenizer.pad_token_id  # of batches: where the last token is found
        return model if config.lora is None else add_adapter(model, config.lora, "SEQ_CLS")

    def trained_tokens(self, step: int) -> int:
        """How many tokens ``step`` reads, prompts included."""
        return sum(self.train_pairs.rows[index].tokens for index in self.drawn(step))

    def trl_trainer(self, session: Session) -> trl.RewardTrainer:
        """TRL's trainer over the drawn pairs; the contrastive term is added where it has a weight."""
        config, pairs = self.config, self.train_pairs.rows
        share = config.batch_size // self.accelerator.num_processes
        longest = 2 * max(len(side.ids) for pair in pairs for side in (pair.chosen, pair.rejected))
        arguments = trl.RewardConfig(
            **self.trl_arguments(session.scratch, fewest_micro_batches(share, longest, config.tokens_per_micro_batch)),
            center_rewards_coefficient=config.centring or None,
        )
        rows = [
            {"chosen_ids": pair.chosen.ids, "rejected_ids": pair.rejected.ids, "margin": pair.margin, "index": index}
            for index, pair in enumerate(pairs)
        ]
        common: dict[str, Any] = {
            "model": self.model,
            "args": arguments,
            "train_dataset": Dataset.from_list(rows).select(self.order),
            "processing_class": self.tokenizer,
            "callbacks": [session],
        }
        pad = self.model.config.pad_token_id
        contrastive = config.contrastive
        if contrastive is None or contrastive.coefficient == 0:
            return trl.RewardTrainer(data_collator=DataCollatorForPreference(pad), **common)
        return ContrastiveRewardTrainer(pairs, contrastive, self.run.seed, data_collator=IndexedCollator(pad), **common)

    def evaluate(self) -> dict[str, float]:
        """Accuracy, loss and calibration on held-out pairs; their histograms go to ``scores.json``."""
        pairs = self.eval_pairs.rows
        if not pairs:
            return {}
        scores, _ = self.read([side.ids for pair in pairs for side in (pair.chosen, pair.rejected)])
        chosen, rejected = scores.double().view(-1, 2).unbind(1)
        difference = chosen - rejected
        if self.accelerator.is_main_process:
            content = {
                "scores": histogram({"chosen": chosen.tolist(), "rejected": rejected.tolist()}),
                "reliability": reliability(difference).tolist(),
            }
            replace_file(self.folder / SCORES_FILE, json.dumps(content).encode())
        right = (difference > 0).double().mean().item()
        margin = torch.tensor([pair.margin for pair in pairs], dtype=torch.float64)
        return {
            "eval/accuracy": right,
            "eval/standard_error": (right * (1 - right) / len(pairs)) ** 0.5,
            "eval/loss": bradley_terry_loss(chosen, rejected, margin, self.config.centring).mean().item(),
            "eval/calibration_error": expected_calibration_error(difference),
            "eval/margin": difference.mean().item(),
            "eval/score_mean": scores.mean().item(),
            "eval/score_std": scores.std().item(),
            "eval/truncated_fraction": self.eval_pairs.truncated / len(pairs),
        }

    def write_model(self, folder: Path) -> None:
        """The model, and its goal states beside it."""
        super().write_model(folder)
        goals = self.goal_states()
        if self.accelerator.is_main_process:
            save_file(goals, folder / GOAL_STATES_FILE)

    def goal_states(self) -> dict[str, Tensor]:
        """Goal states by name, float32 [hidden], of the first ``goal_examples`` pairs in the order of training."""
        drawn = list(dict.fromkeys(self.order))[: self.config.goal_examples]
        pairs = [self.train_pairs.rows[index] for index in drawn]
        _, states = self.read([pair.chosen.ids for pair in pairs])
        goals = {PREFERRED: goal_state(states)}
        if self.config.goal_key is not None:
            names = [str(pair.example.metadata.get(self.config.goal_key)) for pair in pairs]
            for name in dict.fromkeys(names):
                goals[name] = goal_state(states[[place for place, other in enumerate(names) if other == name]])
        return goals

    @torch.no_grad()
    def read(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Rewards float32 [N] and final hidden states float32 [N, hidden] of token id rows, on the CPU.

        The ranks share the rows. Each makes as many forward passes as the others, which sharded weights need.
        """
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        mine = [*order, *[order[-1]] * (-len(order) % ranks)][rank::ranks]
        size = max(1, self.config.tokens_per_micro_batch // len(rows[order[-1]]))
        was_training = self.model.training
        self.model.eval()
        read: list[tuple[int, Tensor, Tensor]] = []
        for start in range(0, len(mine), size):
            part = mine[start : start + size]
            scores, states = self._forward([rows[index] for index in part])
            read += zip(part, scores, states, strict=True)
        self.model.train(was_training)
        found = {index: (score, state) for index, score, state in gather_lists(self.accelerator, read)}
        return (
            torch.stack([found[index][0] for index in range(len(rows))]),
            torch.stack([found[index][1] for index in range(len(rows))]),
        )

    def _forward(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        device, pad = self.accelerator.device, self.model.config.pad_token_id
        lengths = torch.tensor([len(row) for row in rows], device=device)
        ids = torch.tensor([row + [pad] * (int(lengths.max()) - len(row)) for row in rows], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        output = self.model(input_ids=ids, attention_mask=mask.long(), output_hidden_states=True, use_cache=False)
        ends = ((ids != pad) * torch.arange(ids.shape[1], device=device)).argmax(1)  # where the reward is read
        states = output.hidden_states[-1][torch.arange(len(rows), device=device), ends]
        return output.logits[:, 0].float().cpu(), states.float().cpu()

    def _order(self) -> list[int]:
        """The drawn pairs; those of one step from short to long, so that a micro-batch has little padding."""
        pairs, size = self.train_pairs.rows, self.config.batch_size
        drawn = drawn_order(len(pairs), self.config.steps * size, self.run.seed)
        steps = (drawn[start : start + size] for start in range(0, len(drawn), size))
        return [index for step in steps for index in sorted(step, key=lambda index: pairs[index].tokens)]


class ContrastiveRewardTrainer(trl.RewardTrainer):
    """TRL's loss plus lambda * L_C, the mean over the draws of a batch.

    Draws depend on seed, step and pair alone, so that neither a resumed run nor another cut of the batch changes them.
    """

    def __init__(self, pairs: Sequence[Pair], contrastive: ContrastiveConfig, seed: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.pairs = pairs
        self.contrastive = contrastive
        self.draw_seed = seed

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        seed, samples = f"{self.draw_seed}/{self.state.global_step}", self.contrastive.samples
        indices = inputs.pop("index").tolist()
        draws = torch.tensor([contrastive_draws(self.pairs[index], samples, f"{seed}/{index}") for index in indices])
        loss, outputs = super().compute_loss(model, {**inputs, "output_hidden_states": True}, return_outputs=True)
        chosen, rejected = outputs.hidden_states[-1].float().chunk(2)
        pair = torch.arange(len(draws))[:, None]
        source, future, other = draws.unbind(-1)
        term = contrastive_loss(
            chosen[pair, source], chosen[pair, future], rejected[pair, other], self.contrastive.temperature
        ).mean()
        self._metrics["train"]["contrastive_loss"].append(self.accelerator.gather(term.detach()).mean().item())
        loss = loss + self.contrastive.coefficient * term
        return (loss, outputs) if return_outputs else loss


class IndexedCollator(DataCollatorForPreference):
    """TRL's batch, and ``index``: which pair each row is, int64 [pairs]."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = super().torch_call(examples)
        return batch | {"index": torch.tensor([example["index"] for example in examples])}
