"""Supervised fine-tuning on demonstrations, through TRL's SFTTrainer: a method of its own, and every warm start.

Prompts get the token ids that they will have at rollout time, and rows reach TRL as ids: nothing is tokenized again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError
from posttrain.evaluation.held_out import evaluate_held_out
from posttrain.rewards.reward import Reward
from posttrain.rollout.config import TransformersEngineConfig
from posttrain.rollout.engine import RolloutEngine
from posttrain.rollout.weight_sync import sync_weights
from posttrain.trainers.sft_config import SFTConfig
from posttrain.trainers.trl_session import Session, TRLMethod, drawn_order, fewest_micro_batches, trl
from posttrain.training.model import add_adapter, load_causal_lm
from posttrain.training.model_config import ModelConfig
from posttrain.training.packed_attention import packed_arguments
from posttrain.training.run_config import RunConfig
from posttrain.types import Example

Row = dict[str, list[int]]
NOT_IN_LOSS = -100


class SFTTrainer(TRLMethod):
    """Cross-entropy on the tokens of the demonstrations and on the token that ends each; prompts are only read.

    Args:
        model: folder or hub id of the model to start from.
        train_dataset: examples with demonstrations; one with several gives a row for each.
        eval_dataset: held-out prompts, sampled and graded where ``eval_rollouts`` is set.
        grader: judges held-out completions.
        engine: an engine config, which samples them; None: the embedded engine.
        model_config: how the model is held (``path`` is taken from ``model``).
        run: folder, seed and trackers.

    Raises:
        DataError: an example has no demonstration, or one that is too long.
        JobError: ``batch_size`` does not divide among the ranks.
    """

    method = "sft"
    config_class = SFTConfig
    metric_names: ClassVar = {
        "loss": "policy/loss",
        "entropy": "policy/entropy",
        "grad_norm": "policy/gradient_norm",
        "learning_rate": "policy/learning_rate",
        "mean_token_accuracy": "sft/token_accuracy",
    }

    def __init__(
        self,
        model: str | Path,
        config: SFTConfig,
        *,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] = (),
        grader: Reward | None = None,
        engine: Any = None,
        model_config: ModelConfig | None = None,
        run: RunConfig | None = None,
    ) -> None:
        super().__init__(model, config, model_config, run)
        longest = config.max_length or self.model.config.max_position_embeddings
        self.rows = demonstration_rows(train_dataset, self.tokenizer, longest, config.only_demonstrated)
        self.order = drawn_order(len(self.rows), config.steps * config.batch_size, self.run.seed)
        self.eval_dataset = eval_dataset
        self.grader = grader
        self.evaluations = 0
        self.engine: RolloutEngine | None = None
        if config.eval_rollouts and eval_dataset and grader is not None:
            self.engine = (engine or TransformersEngineConfig()).build(model_path=model, seed=self.run.seed)

    def evaluate(self) -> dict[str, float]:
        """mean@k over the held-out prompts, as the methods that sample measure it."""
        if self.engine is None or self.grader is None:
            return {}
        self.evaluations += 1
        sync_weights(self.model, self.engine, version=self.evaluations)
        return evaluate_held_out(
            self.accelerator,
            self.engine,
            PromptEncoder(self.tokenizer),
            self.eval_dataset,
            self.grader,
            sampling=self.config.sampling,
            n=self.config.eval_rollouts,
            seed=self.run.seed,
        )

    def close(self) -> None:
        if self.engine is not None and self.grader is not None:
            self.engine.close()
            self.grader.close()

    def load_model(self, path: str | Path) -> Any:
        """A causal language model, with an adapter if the job asks for one."""
        model = load_causal_lm(path, self.model_config)
        return model if self.model_config.lora is None else add_adapter(model, self.model_config.lora)

    def trained_tokens(self, step: int) -> int:
        """How many tokens are in the loss of ``step``, counted from 1."""
        return sum(label != NOT_IN_LOSS for index in self.drawn(step) for label in self.rows[index]["labels"])

    def trl_trainer(self, session: Session) -> trl.SFTTrainer:
        """TRL's trainer over the drawn rows, in their order, packed without padding."""
        config, ranks = self.config, self.accelerator.num_processes
        longest = max(len(row["input_ids"]) for row in self.rows)
        micro_batches = fewest_micro_batches(config.batch_size // ranks, longest, config.tokens_per_micro_batch)
        return trl.SFTTrainer(
            model=self.model,
            args=trl.SFTConfig(
                **self.trl_arguments(session.scratch, micro_batches), dataset_kwargs={"skip_prepare_dataset": True}
            ),
            train_dataset=Dataset.from_list(self.rows).select(self.order),
            processing_class=self.tokenizer,
            data_collator=packed_batch,
            callbacks=[session],
        )


def demonstration_rows(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, only_demonstrated: bool = False
) -> list[Row]:
    """``input_ids`` (prompt, demonstration, end token) and ``labels`` of every demonstration; the loss is on the last
    two parts. ``only_demonstrated`` leaves out examples that have none.

    Raises:
        DataError: an example has no demonstration, or its row has more than ``max_length`` tokens.
    """
    encoder = PromptEncoder(tokenizer)
    rows: list[Row] = []
    for example in examples:
        demonstration = example.demonstration
        if only_demonstrated and not demonstration:
            continue
        if not demonstration:
            raise DataError(f"example {example.id!r} has no demonstration, and supervised fine-tuning needs one")
        prompt = encoder.prompt_ids(example)
        for text in [demonstration] if isinstance(demonstration, str) else demonstration:
            completion = [*encoder.completion_ids(text), tokenizer.eos_token_id]
            if len(prompt) + len(completion) > max_length:
                raise DataError(
                    f"example {example.id!r}: prompt and demonstration have {len(prompt) + len(completion)} tokens, "
                    f"more than max_length {max_length}; shorten or remove it, or raise trainer.max_length"
                )
            rows.append({"input_ids": prompt + completion, "labels": [NOT_IN_LOSS] * len(prompt) + completion})
    if not rows:
        raise DataError("there are no examples to fine-tune on")
    return rows


def packed_batch(rows: Sequence[Row]) -> dict[str, Any]:
    """The model's arguments for ``rows`` packed end to end, shortest first; int64 [1, T] tensors.

    The first token of a row is predicted by nothing, so it has no label.
    """
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    lengths = [len(row["input_ids"]) for row in ordered]
    labels = [[NOT_IN_LOSS, *row["labels"][1:]] for row in ordered]
    return {
        "input_ids": torch.tensor([[token for row in ordered for token in row["input_ids"]]]),
        "labels": torch.tensor([[label for row in labels for label in row]]),
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        **packed_arguments(lengths, torch.device("cpu")),
    }
