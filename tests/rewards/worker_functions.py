"""Functions that the worker pool's tests run in worker processes."""

import os
import signal
import sys
import time
from typing import Any


def act(item: Any) -> Any:
    """Do what the item says."""
    action, value = item
    if action == "double":
        return value * 2
    if action == "sleep":
        time.sleep(value)
        return "awake"
    if action == "pid":
        return os.getpid()
    if action == "hang":
        return 3 ** (10**value)
    if action == "exit":
        os._exit(value)
    if action == "hang up":
        os.closerange(3, 64)
        time.sleep(0.2)
        os._exit(value)
    if action == "lambda":
        return lambda: value
    if action == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "print":
        print(value, flush=True)
        return sys.stdin.read()
    if action == "allocate":
        return len(bytearray(value << 20))
    if action == "modules":
        return [name for name in value if name in sys.modules]
    raise ValueError(f"no action {action!r}")
