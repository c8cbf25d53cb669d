"""The worker process of ``WorkerPool``: an item's time limit and a list of items in, a reply for each as soon as it is
done, until the parent is gone or sends None.

Started as ``python -m posttrain.rewards.workers.worker package.module:function DESCRIPTOR PARENT_PID MEMORY_MB``. It
imports nothing of its own but the standard library, so that it starts fast.
"""

import importlib
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any


def main(arguments: list[str]) -> None:
    """Serve requests; the first reply says whether the function could be imported."""
    path, descriptor, parent, memory_mb = arguments[0], *map(int, arguments[1:])
    connection = Connection(descriptor)
    # A stop signal for the whole process group is the parent's to act on; it ends the workers when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        module, _, name = path.partition(":")
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
        _limit_memory(memory_mb)
    except Exception as error:
        connection.send({"error": f"{type(error).__name__}: {error}"})
        return
    connection.send({"value": "ready"})
    for limit_s, items in _requests(connection, parent):
        for item in items:
            # Should the parent die meanwhile, the kernel's default action for the alarm ends this process, even
            # inside a computation that never returns to the interpreter.
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            answer = _answer(function, item)
            signal.setitimer(signal.ITIMER_REAL, 0)
            connection.send_bytes(answer)


def _limit_memory(memory_mb: int) -> None:
    if sys.platform == "linux" and memory_mb > 0:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _requests(connection: Connection, parent: int) -> Iterator[tuple[float, list[Any]]]:
    """Requests, until there are no more or the parent is another process than at the start."""
    while os.getppid() == parent:
        if not connection.poll(1.0):
            continue
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return
        if request is None:
            return
        yield request


def _answer(function: Callable[[Any], Any], item: Any) -> bytes:
    try:
        return pickle.dumps({"value": function(item)})  # ``send`` makes a slower pickler each time
    except BaseException as error:
        return pickle.dumps({"error": f"{type(error).__name__}: {error}"[:1000]})


if __name__ == "__main__":
    main(sys.argv[1:])
