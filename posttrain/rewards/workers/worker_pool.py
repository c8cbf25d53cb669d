"""Runs a pure function on untrusted text in worker processes, under a wall-clock limit enforced from outside.

A computation that hangs or takes the process down costs one item: the worker is killed, and replaced when it is next
needed. Workers are separate programs (not forks of a process that may hold threads, locks and devices), and end with
their parent.
"""

import os
import select
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain
from multiprocessing import Pipe
from typing import Any

from posttrain.errors import RewardFailure
from posttrain.types import ErrorKind

START_LIMIT_S = 120.0
# A worker outlives its limit only where its parent died; then it ends itself this much later.
ORPHAN_GRACE_S = 2.0
ENDING_S = 1.0  # of a worker that hung up, until it is killed, which would hide how it ends
# Items that a worker is handed at once, at most: one write for all of them, but a limit and a reply for each.
LONGEST_BATCH = 32
STANDARD_ERROR = 2  # where a worker prints


@dataclass(slots=True)
class WorkerResult:
    """What the function returned; or ``error``, timeout or crashed, with the reason."""

    value: Any = None
    error: ErrorKind | None = None
    message: str = ""


class WorkerPool:
    """``workers`` processes that run ``function`` on one item each, at most ``timeout_s`` seconds.

    Processes start with the first items, and again after ``close``. ``map`` may be called from several threads.

    Args:
        function: ``package.module:name`` of a function of one value; it and what is returned can be pickled. Its module
            must import without torch, or every worker pays for it.
        workers: how many items run at once.
        timeout_s: wall-clock seconds of one item.
        memory_mb: address space of a worker; 0 is no limit.
    """

    def __init__(self, function: str, *, workers: int = 2, timeout_s: float = 5.0, memory_mb: int = 4096) -> None:
        self.function = function
        self.workers = workers
        self.timeout_s = timeout_s
        self.memory_mb = memory_mb
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._of_thread = threading.local()
        self._alive: set[Worker] = set()
        weakref.finalize(self, _dispose_all, self._alive)
        os.register_at_fork(after_in_child=partial(_forget, weakref.ref(self)))

    def map(self, items: Sequence[Any]) -> list[WorkerResult]:
        """The results of ``items``, in their order.

        Raises:
            RewardFailure: a worker cannot start, for example because ``function`` cannot be imported.
        """
        if not items:
            return []
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self.workers, thread_name_prefix="worker-pool")
            executor = self._executor
        size = max(1, min(LONGEST_BATCH, len(items) // (4 * self.workers)))
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return list(chain.from_iterable(executor.map(self._run, batches)))

    def close(self) -> None:
        """End the processes. Items still running come back as crashed."""
        with self._lock:
            executor, self._executor = self._executor, None
        for worker in list(self._alive):
            worker.kill()
        if executor is not None:
            executor.shutdown(wait=True)
        _dispose_all(self._alive)

    def _run(self, items: Sequence[Any]) -> list[WorkerResult]:
        """One result an item; what follows an item that ended its worker goes to another."""
        results: list[WorkerResult] = []
        while len(results) < len(items):
            results += self._worker().run(items[len(results) :], self.timeout_s)
        return results

    def _worker(self) -> "Worker":
        """That of this thread, if it still lives, or a new one."""
        worker: Worker | None = getattr(self._of_thread, "worker", None)
        if worker is not None and worker.is_alive():
            return worker
        if worker is not None:
            self._alive.discard(worker)
            worker.dispose()
        self._of_thread.worker = worker = Worker(self.function, self.memory_mb)
        self._alive.add(worker)
        started = worker.reply(START_LIMIT_S)  # after its imports, outside any item's limit
        if started.error is not None:
            worker.kill()
            raise RewardFailure(f"a worker process for {self.function} cannot start: {started.message}")
        return worker


def _forget(reference: "weakref.ref[WorkerPool]") -> None:
    """A forked child of the parent has neither the pool's threads nor a right to its processes."""
    pool = reference()
    if pool is not None:
        pool._lock = threading.Lock()
        pool._executor = None
        pool._alive.clear()


class Worker:
    """The parent's side of one process."""

    def __init__(self, function: str, memory_mb: int) -> None:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        self._connection, theirs = Pipe()
        self._replies = select.poll()  # the connection's own makes one for each reply
        self._replies.register(self._connection, select.POLLIN)
        with theirs:
            arguments = [function, *map(str, (theirs.fileno(), os.getpid(), memory_mb))]
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "posttrain.rewards.workers.worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=STANDARD_ERROR,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "PYTHONPATH": path},
            )

    def run(self, items: Sequence[Any], timeout_s: float) -> list[WorkerResult]:
        """The function's results; the process is dead, and later items have none, where the last one is a timeout, or
        a crash of the process."""
        try:
            self._connection.send((timeout_s + ORPHAN_GRACE_S, items))
        except OSError:
            return [self._crashed()]
        results: list[WorkerResult] = []
        while len(results) < len(items) and (not results or self.process.returncode is None):
            results.append(self.reply(timeout_s))
        return results

    def reply(self, timeout_s: float) -> WorkerResult:
        """The next reply; the process is ended if there is none in time."""
        try:
            if not self._replies.poll(timeout_s * 1000):
                self.kill()
                return WorkerResult(error="timeout", message=f"no result after {timeout_s:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            return self._crashed()
        if "error" in answer:
            return WorkerResult(error="crashed", message=answer["error"])
        return WorkerResult(answer["value"])

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """End the process; from any thread."""
        self.process.kill()
        self.process.wait()

    def end(self, grace_s: float) -> None:
        """Let the process end by itself, after what it runs; else kill it."""
        try:
            self._connection.send(None)
            self.process.wait(grace_s)
        except (OSError, subprocess.TimeoutExpired):
            self.kill()

    def dispose(self) -> None:
        """End the process and close the connection; not while ``run`` reads it."""
        self.kill()
        self._connection.close()

    def _crashed(self) -> WorkerResult:
        try:
            self.process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self.kill()
        code = self.process.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        return WorkerResult(error="crashed", message=f"the worker process {how}")


def _dispose_all(workers: "set[Worker]") -> None:
    for worker in list(workers):
        worker.dispose()
    workers.clear()
