"""Running the planned runs, some at a time, so that a comparison can be stopped and gone on with."""

import fcntl
import json
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from posttrain.compare.plan import PlannedRun
from posttrain.errors import Interrupted, JobError
from posttrain.training.run_log import replace_file

LINES_OF_A_FAILURE = 15
SECONDS_BETWEEN_LOOKS = 1.0
STOPPED_STATUSES = (75, -signal.SIGTERM)  # of a run that SIGTERM stopped: it saved, or it had not begun


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


class Attempt:
    """A process that works on a run, on cores of its own; where it was stopped before, it goes on."""

    def __init__(self, run: PlannedRun, execution: Execution, cores: frozenset[int]) -> None:
        self.run, self.execution, self.cores = run, execution, cores
        self.spent_before, self.started = execution.seconds, time.perf_counter()
        execution.status = "unfinished"
        self.held = ExitStack()
        log = self.held.enter_context(_own_log(run))
        with _on(cores):
            self.process = subprocess.Popen(run.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.descriptor = os.pidfd_open(self.process.pid)  # readable when the process has ended
        self.held.callback(os.close, self.descriptor)

    def note(self) -> None:
        """Write down how long it has taken."""
        self.execution.seconds = self.spent_before + time.perf_counter() - self.started
        self.execution.write(self.run)

    def conclude(self) -> None:
        """Wait for the end of the process and write down what came of it."""
        status = self.process.wait()
        self.held.close()
        if status not in STOPPED_STATUSES:
            self.execution.status = "finished" if status == 0 else "failed"
        self.note()


def execute(
    runs: Sequence[PlannedRun],
    jobs: int,
    on_look: Callable[[Sequence[PlannedRun]], None],
    on_end: Callable[[PlannedRun, Execution | None], None],
) -> None:
    """Run all to their ends, or go on where they stopped, ``jobs`` at a time; a run waits for those that it needs.

    ``on_look`` is called every second with what is running; ``on_end`` once a run, with None if one that it needs
    failed. Runs begin in the order given.

    Raises:
        JobError: there are fewer cores than ``jobs``, or another process runs one of them right now.
        Interrupted: SIGTERM arrived here or at a run; those running were asked to save and stop.
    """
    free, waiting = core_sets(jobs), list(runs)
    came: dict[Path, bool] = {}  # the folder of a run that ended -> whether it ended well
    attempts: list[Attempt] = []

    def end(run: PlannedRun, execution: Execution | None) -> None:
        came[run.folder] = execution is not None and execution.status == "finished"
        on_end(run, execution)

    with _interrupted_by_sigterm():
        try:
            while waiting or attempts:
                for run in list(waiting):
                    if not all(folder in came for folder in run.needs):
                        continue
                    execution = Execution.read(run) if all(came[folder] for folder in run.needs) else None
                    if execution is None or execution.status == "finished":
                        end(run, execution)
                    elif free:
                        attempts.append(Attempt(run, execution, free.pop(0)))
                    else:
                        continue
                    waiting.remove(run)
                for attempt in _ended(attempts):
                    attempts.remove(attempt)
                    attempt.conclude()
                    if attempt.execution.status == "unfinished":
                        raise Interrupted(f"{attempt.run.name} was stopped; the same command goes on")
                    free.append(attempt.cores)
                    end(attempt.run, attempt.execution)
                for attempt in attempts:
                    attempt.note()
                on_look([attempt.run for attempt in attempts])
        finally:
            for attempt in attempts:
                attempt.process.terminate()
            for attempt in attempts:
                attempt.conclude()


def core_sets(jobs: int) -> list[frozenset[int]]:
    """The cores of this process dealt to ``jobs`` sets.

    Raises:
        JobError: there are fewer cores than jobs.
    """
    cores = sorted(os.sched_getaffinity(0))
    if not 1 <= jobs <= len(cores):
        raise JobError(f"--jobs {jobs}: every run has a core of its own, so give 1 to {len(cores)}, the cores here")
    return [frozenset(cores[first::jobs]) for first in range(jobs)]


@contextmanager
def _on(cores: frozenset[int]) -> Iterator[None]:
    """A process that is started in here inherits ``cores``."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _ended(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those whose processes have ended, as soon as one has; none after a second."""
    if not attempts:
        return []
    ready, _, _ = select.select([attempt.descriptor for attempt in attempts], [], [], SECONDS_BETWEEN_LOOKS)
    return [attempt for attempt in attempts if attempt.descriptor in ready]


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
