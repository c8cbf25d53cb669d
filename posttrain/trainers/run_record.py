"""Where the numbers of a run go while it runs: its log, the trackers, the terminal."""

from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator

from posttrain.report.terminal import TrainingDisplay
from posttrain.training.run_config import RunConfig
from posttrain.training.run_log import RunLog


class RunRecord:
    """What every rank writes to; only the first one's log and display show anything.

    Args:
        accelerator: of the run; its trackers are those of ``run``.
        run: folder and trackers.
        method, total_steps: what the display says is under way.
    """

    def __init__(self, accelerator: Accelerator, run: RunConfig, method: str, total_steps: int) -> None:
        self.accelerator = accelerator
        self.run = run
        self.display = TrainingDisplay(total_steps, method, enabled=accelerator.is_main_process)
        self.log: RunLog | None = None

    def open(self, checkpoint: Path | None, step: int) -> None:
        """Start, or go on after ``step``, that of ``checkpoint``: what was logged later is dropped."""
        if checkpoint is not None:
            self.display.note(f"resumed from {checkpoint.name}")
        if self.accelerator.is_main_process:
            self.log = RunLog(Path(self.run.folder), resume_step=step if checkpoint is not None else None)
            self.log.write_environment()
        if self.run.trackers:
            self.accelerator.init_trackers("posttrain")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics, to the log, the trackers and the terminal."""
        if self.log is not None:
            self.log.log_metrics(step, metrics)
        if self.run.trackers:
            self.accelerator.log(dict(metrics), step=step)
        self.display.update(step, metrics)

    def close(self) -> None:
        """Flush the log and the trackers."""
        if self.log is not None:
            self.log.close()
        if self.run.trackers:
            self.accelerator.end_training()
