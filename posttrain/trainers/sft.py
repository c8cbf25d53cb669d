"""Supervised fine-tuning on demonstrations, through TRL's SFTTrainer: a method of its own, and every warm start.

Prompts get the token ids that they will have at rollout time, and rows reach TRL as ids: nothing is tokenized again.
"""

import random
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, PrinterCallback, TrainerCallback

from posttrain.data.chat import PromptEncoder
from posttrain.errors import DataError, Interrupted, JobError
from posttrain.report.page import write_report
from posttrain.report.terminal import TrainingDisplay
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.loop import StopRequest, TrainingSummary, stop_on_sigterm
from posttrain.trainers.sft_config import SFTConfig
from posttrain.training.accelerator import gather_lists, make_accelerator
from posttrain.training.checkpoint import CheckpointStore
from posttrain.training.model import add_adapter, load_causal_lm, load_tokenizer, save_causal_lm
from posttrain.training.model_config import ModelConfig
from posttrain.training.packed_attention import packed_arguments
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import RunLog
from posttrain.types import Example

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
    import trl

Row = dict[str, list[int]]
NOT_IN_LOSS = -100
METRIC_NAMES = {
    "loss": "policy/loss",
    "entropy": "policy/entropy",
    "grad_norm": "policy/gradient_norm",
    "learning_rate": "policy/learning_rate",
    "mean_token_accuracy": "sft/token_accuracy",
}


class SFTTrainer:
    """Cross-entropy on the tokens of the demonstrations and on the token that ends each; prompts are only read.

    Args:
        model: folder or hub id of the model to start from.
        train_dataset: examples with demonstrations; one with several gives a row for each.
        eval_dataset: not used, as nothing is sampled here.
        model_config: how the model is held (``path`` is taken from ``model``).
        run: folder, seed and trackers.

    Raises:
        DataError: an example has no demonstration, or one that is too long.
        JobError: ``batch_size`` does not divide among the ranks.
    """

    method: ClassVar[str] = "sft"
    config_class: ClassVar[type[SFTConfig]] = SFTConfig

    def __init__(
        self,
        model: str | Path,
        config: SFTConfig,
        *,
        train_dataset: Sequence[Example],
        eval_dataset: Sequence[Example] = (),
        model_config: ModelConfig | None = None,
        run: RunConfig | None = None,
    ) -> None:
        self.config = config
        self.run = run or RunConfig()
        self.folder = Path(self.run.folder)
        self.model_config = model_config or ModelConfig(path=str(model))
        self.accelerator = make_accelerator(list(self.run.trackers), self.run.folder, config.max_grad_norm)
        self.tokenizer = load_tokenizer(model, self.model_config.revision)
        torch.manual_seed(derive_seed(self.run.seed, "policy") % 2**32)  # of an adapter's first weights
        self.policy: Any = load_causal_lm(model, self.model_config)
        if self.model_config.lora is not None:
            self.policy = add_adapter(self.policy, self.model_config.lora)
        longest = config.max_length or self.policy.config.max_position_embeddings
        self.rows = demonstration_rows(train_dataset, self.tokenizer, longest)
        self.order = drawn_order(len(self.rows), config.steps * config.batch_size, self.run.seed)

    def train(self, resume: str | None = None) -> TrainingSummary:
        """Train to ``config.steps`` and write the model; ``resume`` is "auto" or the path of a checkpoint.

        Where the run folder holds its model already, ``auto`` finds nothing left to do.

        Raises:
            Interrupted: SIGTERM arrived; the run was saved and ``--resume auto`` continues it.
        """
        started = time.perf_counter()
        summary = TrainingSummary(self.config.steps, 0.0, self.folder / "model", self.folder / "report.html")
        if resume == "auto" and summary.model_folder.is_dir():
            return summary
        with stop_on_sigterm() as stop:
            session = Session(self, stop)
            session.train(resume)
        self.save_model(summary.model_folder)
        if self.accelerator.is_main_process:
            write_report(self.folder)
        summary.seconds = time.perf_counter() - started
        session.display.summary(summary)
        return summary

    def save_model(self, folder: Path) -> None:
        """Write the model beside ``folder`` first, so that a folder of this name always holds a whole one."""
        unfinished = folder.with_name(folder.name + ".unfinished")
        is_main = self.accelerator.is_main_process
        save_causal_lm(self.policy, self.tokenizer, unfinished, is_main=is_main)
        if is_main:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        self.accelerator.wait_for_everyone()  # other ranks may go on to load it

    def trained_tokens(self, step: int) -> int:
        """How many tokens are in the loss of ``step``, counted from 1."""
        size = self.config.batch_size
        drawn = self.order[(step - 1) * size : step * size]
        return sum(label != NOT_IN_LOSS for index in drawn for label in self.rows[index]["labels"])

    def trl_trainer(self, session: "Session") -> trl.SFTTrainer:
        """TRL's trainer over the drawn rows, in their order, packed without padding."""
        config, ranks = self.config, self.accelerator.num_processes
        if config.batch_size % ranks:
            raise JobError(f"trainer.batch_size: {config.batch_size} rows cannot be shared evenly by {ranks} ranks")
        longest = max(len(row["input_ids"]) for row in self.rows)
        micro_batches = fewest_micro_batches(config.batch_size // ranks, longest, config.tokens_per_micro_batch)
        arguments = trl.SFTConfig(
            output_dir=str(session.scratch),
            max_steps=config.steps,
            per_device_train_batch_size=config.batch_size // ranks // micro_batches,
            gradient_accumulation_steps=micro_batches,
            train_sampling_strategy="sequential",
            learning_rate=config.learning_rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=config.warmup_steps,
            weight_decay=config.weight_decay,
            max_grad_norm=config.max_grad_norm,
            seed=derive_seed(self.run.seed, "sft") % 2**32,
            save_strategy="steps" if config.save_every else "no",
            save_steps=config.save_every or 1,
            logging_steps=1,
            disable_tqdm=True,
            log_level="error",
            report_to=[],
            bf16=False,
            **device_arguments(self.accelerator),
            gradient_checkpointing=False,  # where the job asks for it, the model has it already
            max_length=None,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = trl.SFTTrainer(
            model=self.policy,
            args=arguments,
            train_dataset=Dataset.from_list(self.rows).select(self.order),
            processing_class=self.tokenizer,
            data_collator=packed_batch,
            callbacks=[session],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


class Session(TrainerCallback):
    """What happens around TRL's steps: log and display, checkpoints in the project's own form, SIGTERM."""

    def __init__(self, trainer: SFTTrainer, stop: StopRequest) -> None:
        self.trainer = trainer
        self.accelerator = trainer.accelerator
        self.is_main = trainer.accelerator.is_main_process
        self.stop = stop
        self.scratch = trainer.folder / "trl"
        self.store = CheckpointStore(trainer.folder, keep=trainer.config.keep_checkpoints)
        self.display = TrainingDisplay(trainer.config.steps, trainer.method, enabled=self.is_main)
        self.log: RunLog | None = None
        self.step_started = 0.0
        self.interrupted_at: int | None = None

    def train(self, resume: str | None) -> None:
        """Run TRL's loop from the checkpoint that ``resume`` means, or from the start."""
        checkpoint = self.store.resolve(resume, on_refused=self.display.warn) if resume else None
        if checkpoint is not None:
            self.display.note(f"resumed from {checkpoint.name}")
        if self.is_main:
            self.log = RunLog(self.trainer.folder, resume_step=step_of(checkpoint) if checkpoint else None)
            self.log.write_environment()
        if self.trainer.run.trackers:
            self.accelerator.init_trackers("posttrain")
        try:
            with self.display:
                self.trainer.trl_trainer(self).train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.close()
        if self.interrupted_at is not None:
            raise Interrupted(f"SIGTERM: stopped and saved after step {self.interrupted_at}; go on with --resume auto")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any(gather_lists(self.accelerator, [self.stop.received])) and state.global_step < state.max_steps:
            self.interrupted_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:  # the totals at the end
            return
        seconds = time.perf_counter() - self.step_started
        tokens = self.trainer.trained_tokens(state.global_step)
        metrics = {name: float(logs[key]) for key, name in METRIC_NAMES.items() if key in logs} | {
            "batch/trained_tokens": float(tokens),
            "time/step": seconds,
            "speed/trained_tokens_per_second": tokens / seconds,
        }
        if self.log is not None:
            self.log.log_metrics(state.global_step, metrics)
        if self.trainer.run.trackers:
            self.accelerator.log(metrics, step=state.global_step)
        self.display.update(state.global_step, metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move what TRL saved into a checkpoint that is sealed and renamed when whole."""
        self.accelerator.wait_for_everyone()
        saved = self.scratch / f"checkpoint-{state.global_step}"

        def write(folder: Path) -> None:
            if self.is_main:
                for path in saved.iterdir():
                    shutil.move(path, folder / path.name)

        self.store.save(
            state.global_step,
            write,
            is_main=self.is_main,
            any_rank=lambda flag: any(gather_lists(self.accelerator, [flag])),
        )

    def close(self) -> None:
        """Flush the log and the trackers, and drop TRL's own folder."""
        if self.log is not None:
            self.log.close()
        if self.trainer.run.trackers:
            self.accelerator.end_training()
        if self.is_main:
            shutil.rmtree(self.scratch, ignore_errors=True)


def demonstration_rows(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[Row]:
    """``input_ids`` (prompt, demonstration, end token) and ``labels`` of every demonstration; the loss is on the last
    two parts.

    Raises:
        DataError: an example has no demonstration, or its row has more than ``max_length`` tokens.
    """
    encoder = PromptEncoder(tokenizer)
    rows: list[Row] = []
    for example in examples:
        demonstration = example.demonstration
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


def drawn_order(rows: int, count: int, seed: int) -> list[int]:
    """The indices of ``count`` draws from ``rows`` rows: each once an epoch, every epoch in an order of its own."""
    drawn: list[int] = []
    epoch = 0
    while len(drawn) < count:
        drawn += random.Random(f"{seed}/{epoch}").sample(range(rows), rows)
        epoch += 1
    return drawn[:count]


def fewest_micro_batches(rows: int, longest: int, tokens_per_micro_batch: int) -> int:
    """Into how many equal parts ``rows`` rows are cut, so that a part never has more tokens than the budget."""
    most = max(1, tokens_per_micro_batch // longest)
    return next(parts for parts in range(1, rows + 1) if rows % parts == 0 and rows // parts <= most)


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


def device_arguments(accelerator: Accelerator) -> dict[str, Any]:
    """Training arguments that make TRL's ranks and devices those of ``accelerator``.

    DeepSpeed must be set up by TRL itself, which then has to be told of gloo, and not of the CPU.
    """
    on_cpu = accelerator.device.type == "cpu"
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return {"ddp_backend": "gloo"} if on_cpu else {}
    return {"use_cpu": on_cpu, "accelerator_config": {"use_configured_state": True}}


def step_of(checkpoint: Path) -> int:
    """The step of a checkpoint, from its folder's name."""
    return int(checkpoint.name.removeprefix("step_"))
