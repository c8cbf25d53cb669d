"""Around the steps: evaluation, log, checkpoints, resume, SIGTERM, and what a person sees."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator

from posttrain.errors import EngineDied, Interrupted
from posttrain.report.page import write_report
from posttrain.report.terminal import TrainingSummary
from posttrain.trainers.run_record import RunRecord
from posttrain.training.accelerator import any_rank
from posttrain.training.checkpoint import CheckpointStore
from posttrain.training.layout import check_models, is_shared_alike, write_layout
from posttrain.training.reshard import load_resharded
from posttrain.training.run_log import rollout_records

if TYPE_CHECKING:
    from posttrain.trainers.policy_trainer import PolicyTrainer


class StopRequest:
    """Set by SIGTERM; looked at between steps, so that a step is never cut in half."""

    def __init__(self) -> None:
        self.received = False

    def __call__(self, _signal: int, _frame: Any) -> None:
        self.received = True


@contextmanager
def stop_on_sigterm() -> Iterator[StopRequest]:
    """Turn SIGTERM into a request to stop after the current step, while the block runs."""
    request = StopRequest()
    previous = signal.signal(signal.SIGTERM, request)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_training(trainer: "PolicyTrainer", resume: str | None) -> TrainingSummary:
    """Run ``trainer`` to its last step.

    Raises:
        Interrupted: SIGTERM arrived; the run was saved and ``--resume auto`` continues it.
        EngineDied: so did the engine; a run of one process was saved (of several, the other ranks wait in vain).
    """
    session = Session(trainer)
    session.resume(resume)
    try:
        with stop_on_sigterm() as stop:
            with session.display:
                session.start()
                with session.saved_if_the_engine_dies():
                    while not trainer.finished:
                        session.run_step()
                        if session.any_rank(stop.received):
                            session.save()
                            raise Interrupted(f"SIGTERM: saved after step {trainer.step}; go on with --resume auto")
            return session.finish()
    finally:
        session.close()


class Session:
    """One process's run of a trainer: the side effects between steps."""

    def __init__(self, trainer: "PolicyTrainer") -> None:
        self.trainer = trainer
        self.accelerator = trainer.accelerator
        self.folder = Path(trainer.run.folder)
        self.is_main = self.accelerator.is_main_process
        self.store = CheckpointStore(self.folder, keep=trainer.config.keep_checkpoints)
        self.record = RunRecord(self.accelerator, trainer.run, trainer.method, trainer.config.steps)
        self.display = self.record.display
        self.started = time.perf_counter()
        self.saved_step = -1
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def resume(self, resume: str | None) -> None:
        """Restore the newest valid checkpoint if asked to, open the log, and give the engine the policy's weights."""
        checkpoint = self.store.resolve(resume, on_refused=self.display.warn) if resume else None
        if checkpoint is not None:
            check_models(checkpoint, self.accelerator, self._models())
            if is_shared_alike(checkpoint, self.accelerator):
                for place, accelerator in self._accelerators(checkpoint):
                    accelerator.load_state(str(place))
            else:
                load_resharded(checkpoint, self.trainer.updates)
            state = torch.load(checkpoint / "trainer.pt", weights_only=True)
            self.trainer.load_state_dict(state["trainer"])
            self.first, self.last = state["first"], state["last"]
            self.saved_step = self.trainer.step
        self.record.open(checkpoint, self.trainer.step)
        self.trainer.sync()

    def start(self) -> None:
        """Evaluate the policy before its first step."""
        if self.trainer.step == 0:
            self.first = self.last = self.trainer.evaluate()
            self.record.write(0, self.first)

    def run_step(self) -> None:
        """One training step with its log, evaluation and checkpoint."""
        started = time.perf_counter()
        metrics, groups, samples = self.trainer.train_step()
        metrics["time/step"] = time.perf_counter() - started
        config, step = self.trainer.config, self.trainer.step
        if self.trainer.finished or (config.eval_every and step % config.eval_every == 0):
            self.last = self.trainer.evaluate()
            metrics |= self.last
        log = self.record.log
        if log is not None and config.log_rollouts_every and step % config.log_rollouts_every == 0:
            log.log_rollouts(step, rollout_records(step, groups, samples, self.trainer.tokenizer))
        self.record.write(step, metrics)
        if config.save_every and step % config.save_every == 0:
            self.save()

    @contextmanager
    def saved_if_the_engine_dies(self) -> Iterator[None]:
        """Where the rollout engine dies in the block, write a checkpoint before the run stops."""
        try:
            yield
        except EngineDied as error:
            if self.accelerator.num_processes > 1:
                raise
            self.save()
            raise EngineDied(f"{error}. Saved after step {self.trainer.step}; go on with --resume auto") from error

    def save(self) -> None:
        """Write a checkpoint of everything, unless this step has one."""
        if self.saved_step == self.trainer.step:
            return
        state = {"trainer": self.trainer.state_dict(), "first": self.first, "last": self.last}

        def write(folder: Path) -> None:
            for place, accelerator in self._accelerators(folder):
                accelerator.save_state(str(place))
            if self.is_main:
                torch.save(state, folder / "trainer.pt")
                write_layout(folder, self.accelerator, self._models())

        self.store.save(self.trainer.step, write, is_main=self.is_main, any_rank=self.any_rank)
        self.saved_step = self.trainer.step

    def _models(self) -> list[Any]:
        return [update.model for update in self.trainer.updates]

    def _accelerators(self, checkpoint: Path) -> Iterator[tuple[Path, Accelerator]]:
        """Where each accelerator's state lies: the run's own, and under DeepSpeed one of each further trained model."""
        for number, update in enumerate(self.trainer.updates):
            if number == 0:
                yield checkpoint, self.accelerator
            elif update.accelerator is not self.accelerator:
                yield checkpoint / f"model_{number}", update.accelerator

    def finish(self) -> TrainingSummary:
        """Last checkpoint, the model, the run page."""
        self.save()
        model_folder = self.folder / "model"
        self.trainer.save_model(model_folder)
        report = self.folder / "report.html"
        if self.is_main:
            report = write_report(self.folder)
        summary = TrainingSummary(
            self.trainer.step, time.perf_counter() - self.started, model_folder, report, self.first, self.last
        )
        self.display.summary(summary)
        return summary

    def any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is set on any rank: all ranks stop together."""
        return any_rank(self.accelerator, flag)

    def close(self) -> None:
        """Flush the log and the trackers, end the engine."""
        self.record.close()
        self.trainer.close()
