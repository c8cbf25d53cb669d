"""The worker process of ``WorkerPool``: a JSON list of items in on one line, a JSON line out for each item as soon as
it is done, until the parent is gone.

Started as ``python -m posttrain.rewards.workers.worker package.module:function PARENT_PID LIMIT_S MEMORY_MB``. It
imports nothing of its own but the standard library, so that it starts fast.
"""

import importlib
import json
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any


def main(arguments: list[str]) -> None:
    """Serve requests; the first line that is written says whether the function could be imported."""
    path, parent, limit_s, memory_mb = arguments[0], int(arguments[1]), float(arguments[2]), int(arguments[3])
    requests, replies = private_pipes()
    # A stop signal for the whole process group is the parent's to act on; it ends the workers when it is done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    try:
        module, _, name = path.partition(":")
        function: Callable[[Any], Any] = getattr(importlib.import_module(module), name)
        _limit_memory(memory_mb)
    except Exception as error:
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    _reply(replies, {"value": "ready"})
    for line in _lines(requests, parent):
        for item in json.loads(line):
            # Should the parent die meanwhile, the kernel's default action for the alarm ends this process, even
            # inside a computation that never returns to the interpreter.
            signal.setitimer(signal.ITIMER_REAL, limit_s)
            answer = _answer(function, item)
            signal.setitimer(signal.ITIMER_REAL, 0)
            _reply(replies, answer)


def private_pipes() -> tuple[int, int]:
    """The request and reply pipes, out of reach of a function that prints or reads standard input."""
    requests, replies = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    return requests, replies


def _limit_memory(memory_mb: int) -> None:
    if sys.platform == "linux" and memory_mb > 0:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        wanted = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))


def _lines(requests: int, parent: int) -> Iterator[bytes]:
    """Requests, until the pipe closes or the parent is another process than at the start."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    pending = b""
    while os.getppid() == parent:
        if not poll.poll(1000):
            continue
        data = os.read(requests, 1 << 16)
        if not data:
            return
        pending += data
        if pending.endswith(b"\n"):
            yield pending
            pending = b""


def _answer(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    try:
        return {"value": function(item)}
    except BaseException as error:
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def _reply(replies: int, answer: dict[str, Any]) -> None:
    data = json.dumps(answer).encode() + b"\n"
    while data:
        data = data[os.write(replies, data) :]


if __name__ == "__main__":
    main(sys.argv[1:])
