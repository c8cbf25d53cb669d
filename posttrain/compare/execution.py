"""Running the planned runs, one process after the other, so that a comparison can be stopped and gone on with."""

import fcntl
import json
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from posttrain.compare.plan import PlannedRun
from posttrain.errors import Interrupted, JobError
from posttrain.training.run_log import replace_file

LINES_OF_A_FAILURE = 15
SECONDS_BETWEEN_LOOKS = 1.0
SAVED_STATUS = 75  # of a run that SIGTERM stopped


@dataclass(slots=True)
class Execution:
    """What came of a run so far, kept beside its folder as ``ARM.json``."""

    status: Literal["unfinished", "finished", "failed"] = "unfinished"
    seconds: float = 0.0  # of wall clock, over all attempts

    @classmethod
    def read(cls, run: PlannedRun) -> "Execution":
        file = record_file(run)
        return cls(**json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else cls()

    def write(self, run: PlannedRun) -> None:
        replace_file(record_file(run), json.dumps(asdict(self)).encode())


def record_file(run: PlannedRun) -> Path:
    return run.folder.with_name(f"{run.folder.name}.json")


def log_file(run: PlannedRun) -> Path:
    """What the run printed, all attempts."""
    return run.folder.with_name(f"{run.folder.name}.log")


def execute(run: PlannedRun, on_look: Callable[[PlannedRun], None]) -> Execution:
    """Run it to its end, or go on where it stopped; ``on_look`` is called every second.

    Raises:
        JobError: another process runs it right now.
        Interrupted: SIGTERM arrived here or there; the run was asked to save and stop.
    """
    execution = Execution.read(run)
    if execution.status == "finished":
        return execution
    execution.status = "unfinished"
    spent_before, started = execution.seconds, time.perf_counter()
    with _own_log(run) as log, _interrupted_by_sigterm():
        process = subprocess.Popen(run.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            while not _has_ended(process):
                execution.seconds = spent_before + time.perf_counter() - started
                execution.write(run)
                on_look(run)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            execution.seconds = spent_before + time.perf_counter() - started
            execution.write(run)
    if process.returncode == SAVED_STATUS:
        raise Interrupted(f"{run.name} was stopped and saved; the same command goes on")
    execution.status = "finished" if process.returncode == 0 else "failed"
    execution.write(run)
    return execution


def last_lines(run: PlannedRun) -> list[str]:
    """The end of what the run printed."""
    with log_file(run).open(encoding="utf-8", errors="replace") as lines:
        return [line.rstrip() for line in deque(lines, maxlen=LINES_OF_A_FAILURE)]


@contextmanager
def _own_log(run: PlannedRun) -> Iterator[BinaryIO]:
    """The log, locked as long as this process or the run that it started has it open."""
    with log_file(run).open("ab") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JobError(f"{run.folder}: another process is running this; wait for it or end it") from None
        yield log


@contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the wait for a run with ``Interrupted`` instead of leaving the run behind."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise Interrupted("stopped; the same command goes on")

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether the process ends within the next second."""
    try:
        process.wait(timeout=SECONDS_BETWEEN_LOOKS)
    except subprocess.TimeoutExpired:
        return False
    return True
