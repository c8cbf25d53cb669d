"""Methods whose training loop is TRL's: run folder, checkpoints, log and resume are as in every other method.

Rows reach TRL as token ids, drawn in an order that depends on the seed alone: nothing is tokenized again, and a resumed
run ends where an unbroken one does.
"""

import random
import shutil
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import PrinterCallback, TrainerCallback

from posttrain.errors import Interrupted, JobError
from posttrain.report.page import write_report
from posttrain.report.terminal import ACCURACY, TrainingSummary
from posttrain.rollout.seeds import derive_seed
from posttrain.trainers.loop import StopRequest, stop_on_sigterm
from posttrain.trainers.run_record import RunRecord
from posttrain.trainers.trl_config import TRLMethodConfig
from posttrain.training.accelerator import any_rank, make_accelerator
from posttrain.training.checkpoint import CheckpointStore
from posttrain.training.layout import check_models, check_shares, write_layout
from posttrain.training.model import load_tokenizer, save_causal_lm
from posttrain.training.model_config import ModelConfig
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import read_metrics

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="TRL currently supports vLLM versions", category=UserWarning)
    import trl as trl  # the methods take it from here: it warns when it is first imported


class TRLMethod(ABC):
    """Base of the methods with TRL's loop.

    A subclass loads the model, makes the rows, and hands both to TRL's trainer; ``evaluate`` and ``write_model``
    are for what it measures on held-out rows and what it keeps with the model.

    Args:
        model: folder or hub id of the model to start from.
        model_config: how the model is held (``path`` is taken from ``model``).
        run: folder, seed and trackers.

    Raises:
        JobError: ``batch_size`` does not divide among the ranks.
    """

    order: list[int]  # the indices of all rows that are drawn, set by the subclass
    method: ClassVar[str]
    config_class: ClassVar[type[TRLMethodConfig]]
    metric_names: ClassVar[Mapping[str, str]]  # TRL's name of a logged value: the run's

    def __init__(self, model: str | Path, config: Any, model_config: ModelConfig | None, run: RunConfig | None) -> None:
        self.config = config
        self.run = run or RunConfig()
        self.folder = Path(self.run.folder)
        self.model_config = model_config or ModelConfig(path=str(model))
        self.accelerator = make_accelerator(list(self.run.trackers), self.run.folder, config.max_grad_norm)
        ranks = self.accelerator.num_processes
        if config.batch_size % ranks:
            less = config.batch_size // ranks * ranks
            raise JobError(
                f"trainer.batch_size: {config.batch_size} rows cannot be shared evenly by {ranks} ranks; take "
                f"{f'{less} or ' if less else ''}{less + ranks} rows, or "
                f"{max(n for n in range(1, ranks) if config.batch_size % n == 0)} ranks"
            )
        if self.model_config.sequence_parallel > 1:
            raise JobError(f"model.sequence_parallel: {self.method} runs in TRL's loop, which cannot share sequences")
        self.tokenizer = load_tokenizer(model, self.model_config.revision)
        torch.manual_seed(derive_seed(self.run.seed, "policy") % 2**32)  # of an adapter's or a head's first weights
        self.model: Any = self.load_model(model)

    @abstractmethod
    def load_model(self, path: str | Path) -> Any:
        """The model to train."""

    @abstractmethod
    def trl_trainer(self, session: "Session") -> Any:
        """TRL's trainer over the drawn rows, in their order."""

    @abstractmethod
    def trained_tokens(self, step: int) -> int:
        """How many tokens ``step``, counted from 1, learns from."""

    def evaluate(self) -> dict[str, float]:
        """Held-out metrics. Every rank calls it."""
        return {}

    def drawn(self, step: int) -> list[int]:
        """The indices of the rows of ``step``, counted from 1, over all ranks."""
        size = self.config.batch_size
        return self.order[(step - 1) * size : step * size]

    def close(self) -> None:  # noqa: B027 (most methods start nothing)
        """End what the method started besides training."""

    def write_model(self, folder: Path) -> None:
        """Write the model and what belongs to it. Every rank calls it."""
        save_causal_lm(self.model, self.tokenizer, folder, is_main=self.accelerator.is_main_process)

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
            measured = [line for line in read_metrics(self.folder) if ACCURACY in line]
            summary.first, summary.last = (measured[0], measured[-1]) if measured else ({}, {})
            write_report(self.folder)
        summary.seconds = time.perf_counter() - started
        session.display.summary(summary)
        return summary

    def save_model(self, folder: Path) -> None:
        """Write the model beside ``folder`` first, so that a folder of this name always holds a whole one."""
        unfinished = folder.with_name(folder.name + ".unfinished")
        self.write_model(unfinished)
        if self.accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        self.accelerator.wait_for_everyone()  # other ranks may go on to load it

    def trl_arguments(self, scratch: Path, micro_batches: int) -> dict[str, Any]:
        """Training arguments that all methods share; a rank's rows of a step are cut into ``micro_batches``."""
        config = self.config
        return {
            "output_dir": str(scratch),
            "max_steps": config.steps,
            "per_device_train_batch_size": config.batch_size // self.accelerator.num_processes // micro_batches,
            "gradient_accumulation_steps": micro_batches,
            "train_sampling_strategy": "sequential",
            "learning_rate": config.learning_rate,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": config.warmup_steps,
            "weight_decay": config.weight_decay,
            "max_grad_norm": config.max_grad_norm,
            "seed": derive_seed(self.run.seed, self.method) % 2**32,
            "save_strategy": "steps" if config.save_every else "no",
            "save_steps": config.save_every or 1,
            "logging_steps": 1,
            "disable_tqdm": True,
            "log_level": "error",
            "report_to": [],
            "bf16": False,
            **device_arguments(self.accelerator),
            "gradient_checkpointing": False,  # where the job asks for it, the model has it already
            "max_length": None,
            "remove_unused_columns": False,
            "ddp_find_unused_parameters": False,
            "dataloader_pin_memory": False,
        }


class Session(TrainerCallback):
    """What happens around TRL's steps: log and display, checkpoints in the project's own form, SIGTERM."""

    def __init__(self, trainer: TRLMethod, stop: StopRequest) -> None:
        self.trainer = trainer
        self.accelerator = trainer.accelerator
        self.is_main = trainer.accelerator.is_main_process
        self.stop = stop
        self.scratch = trainer.folder / "trl"
        self.store = CheckpointStore(trainer.folder, keep=trainer.config.keep_checkpoints)
        self.record = RunRecord(self.accelerator, trainer.run, trainer.method, trainer.config.steps)
        self.display = self.record.display
        self.step_started = 0.0
        self.interrupted_at: int | None = None

    def train(self, resume: str | None) -> None:
        """Run TRL's loop from the checkpoint that ``resume`` means, or from the start."""
        checkpoint = self.store.resolve(resume, on_refused=self.display.warn) if resume else None
        if checkpoint is not None:
            check_models(checkpoint, self.accelerator, [self.trainer.model])
            check_shares(checkpoint, self.accelerator)
        self.record.open(checkpoint, int(checkpoint.name.removeprefix("step_")) if checkpoint else 0)
        try:
            with self.display:
                trainer = self.trainer.trl_trainer(self)
                trainer.remove_callback(PrinterCallback)
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            self.close()
        if self.interrupted_at is not None:
            raise Interrupted(f"SIGTERM: stopped and saved after step {self.interrupted_at}; go on with --resume auto")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0 and (metrics := self.trainer.evaluate()):
            self.record.write(0, metrics)
        self.step_started = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if any_rank(self.accelerator, self.stop.received) and state.global_step < state.max_steps:
            self.interrupted_at = state.global_step
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:  # the totals at the end
            return
        step, seconds = state.global_step, time.perf_counter() - self.step_started
        tokens = self.trainer.trained_tokens(step)
        metrics = {name: float(logs[key]) for key, name in self.trainer.metric_names.items() if key in logs} | {
            "batch/trained_tokens": float(tokens),
            "time/step": seconds,
            "speed/trained_tokens_per_second": tokens / seconds,
        }
        every = self.trainer.config.eval_every
        if step == state.max_steps or (every and step % every == 0):
            metrics |= self.trainer.evaluate()
        self.record.write(step, metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move what TRL saved into a checkpoint that is sealed and renamed when whole."""
        self.accelerator.wait_for_everyone()
        saved = self.scratch / f"checkpoint-{state.global_step}"

        def write(folder: Path) -> None:
            if self.is_main:
                for path in saved.iterdir():
                    shutil.move(path, folder / path.name)
                write_layout(folder, self.accelerator, [self.trainer.model])

        self.store.save(
            state.global_step,
            write,
            is_main=self.is_main,
            any_rank=lambda flag: any_rank(self.accelerator, flag),
        )

    def close(self) -> None:
        """Flush the log and the trackers, end what the method held, and drop TRL's own folder."""
        self.record.close()
        self.trainer.close()
        if self.is_main:
            shutil.rmtree(self.scratch, ignore_errors=True)


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


def device_arguments(accelerator: Accelerator) -> dict[str, Any]:
    """Training arguments that make TRL's ranks and devices those of ``accelerator``.

    DeepSpeed must be set up by TRL itself, which then has to be told of gloo, and not of the CPU.
    """
    on_cpu = accelerator.device.type == "cpu"
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return {"ddp_backend": "gloo"} if on_cpu else {"bf16": accelerator.mixed_precision == "bf16"}
    return {"use_cpu": on_cpu, "accelerator_config": {"use_configured_state": True}}
